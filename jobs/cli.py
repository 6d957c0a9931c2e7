"""The console command: `embatch NAME …` is `python -m jobs.NAME …`."""

import difflib
import importlib
import sys

COMMANDS = {
    "demo": "embed news texts and images of digits, and look at what came out",
    "embed": "bring a table of vectors in line with a source",
    "refresh": "bring all tables and follow-ups that one file declares up to date",
    "init": "write a file for refresh to begin with",
    "doctor": "check what a refresh needs, before it runs",
    "neighbours": "find the rows most like each row, of the same table or of another",
    "search": "find the rows most like a text or a picture",
    "ask": "find passages that answer a question, and the words that do",
    "project": "make a map of a table, and bring it up to date without moving its points",
    "report": "write one page to look at a table: map, neighbours, search, figures",
    "evaluate": "measure how good a table's vectors are",
    "zero-shot": "classify images or texts with words, without training",
    "finetune": "train an encoder on labels, so that texts of different labels get different vectors",
    "inspect": "look into a model: tokens, and a word in two contexts, layer by layer",
    "words": "write words of word2vec, GloVe or fastText into a table, and answer questions about them",
    "models": "list the models that are known by name",
    "status": "show rows, model, failures, version and last runs of a table",
    "runs": "list the runs that wrote a table",
    "failures": "list the rows that have no vector, and why",
    "export": "write one clean Parquet file",
    "delete": "remove rows by id",
    "restore": "go back to an older version of a table",
    "vacuum": "delete files that no recent version of a table needs",
}
USAGE = """usage: embatch COMMAND …

{commands}

`embatch COMMAND --help` explains a command; `embatch embed SOURCE TABLE --model MODEL` is the one
to begin with."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(
            USAGE.format(
                commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
            )
        )
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(
            f"embatch: unknown command {name!r}. Known: {', '.join(COMMANDS)}.{hint}",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(f"jobs.{name.replace('-', '_')}")
    return int(module.main(rest))


if __name__ == "__main__":
    sys.exit(main())
