"""Write the words of a word2vec, GloVe or fastText model into a table of vectors; answer questions about words.

    embatch words GoogleNews-vectors.bin.gz tables/words
    embatch words all-MiniLM-L6-v2 tables/tokens --token-embeddings

    embatch words similar tables/words king            words with similar vectors
    embatch words similarity tables/words king queen   similarity of two words, or of two lists
    embatch words analogy tables/words man king woman  man is to king as woman is to ?
    embatch words odd-one-out tables/words breakfast lunch dinner cereal
    embatch words map tables/words king Paris --picture words.png   words and their neighbours
    embatch words train SOURCE OUT.bin                 word2vec, fastText or labelled words of a corpus
    embatch words weights SOURCE FILE.json             how rare each word is, for embed --word-weights

TABLE has `id` (the word), `rank` from 0, `frequency` where the file has it, `norm` (length of the
vector as trained) and `embedding` (of length 1). `neighbours`, `project`, `search` and `report` take it
like any table of vectors. `embed --model FILE` embeds texts as the mean of their words.
"""

import codecs
import importlib
import sys
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from actors.checkpoints import Model, resolve
from actors.files.vocabulary import open_vocabulary
from actors.files.weights import hash_parts
from actors.files.word_vectors import Vocabulary
from actors.models import ModelError
from jobs.runtime.command import Flag, run_command, storage_options, table_uri
from jobs.word_vectors.filling import WordRows, token_vocabulary, word_schema
from schemas.delta.derived import note_of, open_derived, write_derived
from schemas.errors import UsageError
from schemas.tables.embeddings import Fingerprint
from schemas.tables.failures import FailureLog

QUESTIONS = {
    "similar": "jobs.word_vectors.questions",
    "similarity": "jobs.word_vectors.questions",
    "analogy": "jobs.word_vectors.questions",
    "odd-one-out": "jobs.word_vectors.questions",
    "map": "jobs.word_vectors.questions",
    "train": "jobs.word_vectors.train",
    "weights": "jobs.word_vectors.rarity",
}
Positional = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class WordsConfig:
    """The model whose words are written, and their table.

    Attributes:
        model: a .bin, .vec, .txt or .kv file of words (also .gz), or with --token-embeddings a transformer
        table: table of words; an old one is brought up to date
        token_embeddings: take the tokens of a transformer, with their vectors before its first layer
        encoding: character encoding of the words in the file
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    model: Annotated[Positional, tyro.conf.arg(metavar="MODEL")]
    table: Annotated[Positional, tyro.conf.arg(metavar="TABLE")]
    token_embeddings: Flag = False
    encoding: str = "utf-8"
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        storage_options(self.storage_option)
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise UsageError(
                f"--encoding {self.encoding} is unknown to Python, expected one such as cp852."
            ) from error


@dataclass(frozen=True)
class WordsSummary:
    """Contents of the table of words.

    Attributes:
        n: number of words in the table.
        dim: length of a vector.
        duplicates: number of words that the file has a second time; only the first gets a row.
        failed: number of words without a row, by reason.
        about: facts about the training, from the file.
        unchanged: True if the table held these words before.
        smallest_norms: the ten words with the shortest vectors, and the norms of these.
        nearest_to_centroid: the ten words nearest to the mean of all vectors, and their distances.
        table_version: version of the table.
    """

    n: int
    dim: int
    duplicates: int
    failed: dict[str, int]
    about: dict[str, Any]
    unchanged: bool
    smallest_norms: list[tuple[str, float]]
    nearest_to_centroid: list[tuple[str, float]]
    table_version: int


def run(config: WordsConfig) -> WordsSummary:
    """Write the table of words, unless it holds the same words already.

    Raises:
        ModelError: the model cannot be had, is damaged, or is of another kind.
        StoreError: TABLE is a table of another kind.
    """
    uri, options = table_uri(config.table), storage_options(config.storage_option)
    vocabulary, model, space = _open_words(config)
    schema = word_schema(Fingerprint(model.name, vocabulary.dim, space, space))
    out = open_derived(uri, schema, options)
    words = WordRows(vocabulary)
    if not words.n:
        raise ModelError(
            f"{config.model} has no word with a vector: {words.reasons or 'it is empty'}."
        )
    recipe = hash_parts([[space, config.encoding]])
    unchanged = out is not None and note_of(out).get("recipe") == recipe
    if out is None or not unchanged:
        note: dict[str, Any] = {"command": "words", "recipe": recipe, "about": vocabulary.about}
        note |= {"source": model.folder, "given_model": model.folder}
        note["duplicates"] = words.duplicates
        rows = words.rows(schema, quiet=config.json)
        out = write_derived(out, uri, schema, rows, note, options)
        log_note = {"run": f"words-{uuid.uuid4().hex[:6]}", "command": "words"}
        log = FailureLog(uri, options)
        identity = {"source": config.model, "source_file": config.model, "recipe": space}
        log.add([identity | failure | log_note for failure in words.failures], log_note)
        log.keep(log.seen, log_note)
    return WordsSummary(
        n=words.n,
        dim=vocabulary.dim,
        duplicates=words.duplicates,
        failed=words.reasons,
        about=vocabulary.about,
        unchanged=unchanged,
        smallest_norms=words.smallest_norms,
        nearest_to_centroid=words.nearest_to_centroid(),
        table_version=out.version,
    )


def _open_words(config: WordsConfig) -> tuple[Vocabulary, Model, str]:
    """Open the words of a model.

    Returns:
        The words, their model, and their space.
    """
    model = resolve(config.model)
    is_file = model.spec.family == "words"
    if is_file == config.token_embeddings:
        raise ModelError(
            f"{config.model} is a file of words, which has no --token-embeddings."
            if is_file
            else f"{config.model} is no file of words. Its input tokens come with --token-embeddings."
        )
    if is_file:
        return open_vocabulary(model.folder, encoding=config.encoding), model, model.space
    return token_vocabulary(model), model, hash_parts([[model.space, "token embeddings"]])


def _text(config: WordsConfig, summary: WordsSummary) -> str:
    lines = [f"{summary.n:>12,}  words of {summary.dim} dimensions"]
    if summary.duplicates:
        lines.append(f"{summary.duplicates:>12,}  words stand there twice; the first counts")
    lines += [f"{n:>12,}  failed: {reason}" for reason, n in summary.failed.items()]
    lines += [f"{value!s:>12}  {name.replace('_', ' ')}" for name, value in summary.about.items()]
    if config.token_embeddings:
        lines.append("\nShortest vectors, which training may never have touched:")
        lines += [f"{norm:>12.4f}  {word!r}" for word, norm in summary.smallest_norms]
        lines.append("\nNearest to the mean of all:")
        near = summary.nearest_to_centroid
        lines += [f"{distance:>12.4f}  {word!r}" for word, distance in near]
    state = " and held them already" if summary.unchanged else ""
    lines.append(f"\n{config.table} is at version {summary.table_version}{state}.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in QUESTIONS:
        module = importlib.import_module(QUESTIONS[arguments[0]])
        return int(module.command(arguments))
    return run_command(WordsConfig, "words", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
