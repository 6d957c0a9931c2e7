"""Find the rows of a table that are most like a text or a picture.

    embatch search tables/articles "falling share prices"
    embatch search tables/photos "two dogs in the snow" --k 3
    embatch search tables/photos dog.jpg
    embatch search tables/articles < questions.txt

Without QUERY each line of stdin is a query, answered as it comes. The query is embedded by the model that
made the table. A table of images can be searched with words if its model also embeds texts.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import tyro

from actors import dpr
from actors.checkpoints import Model, resolve
from actors.engine.engine import Engine, Items
from actors.models import ModelError
from jobs.analysis.nearest import nearest
from jobs.analysis.vectors import read_vectors, rows_of_ids
from jobs.runtime.command import CommandOutcome, TableOptions, error_message, parse, user_errors
from schemas.cells import cast_column
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from schemas.tables.embeddings import Fingerprint, what_differs
from sources.formats.images import ALL_IMAGE_ENDINGS

SHOWN_CHARACTERS = 1000
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # a text could else talk to the terminal


@dataclass(frozen=True)
class SearchConfig(TableOptions):
    """The table to search, and the query.

    Attributes:
        query: a text, or the path of an image file (default: the lines of stdin)
        k: number of rows to show
        model: model that embeds the query (default: the one that made the table)
    """

    query: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="QUERY", help_behavior_hint="")
    ] = ""
    k: int = 5
    model: Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = ""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"--k is {self.k}, expected 1 or more.")


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        id: of the row.
        similarity: cosine with the query.
        shown: beginning of the row's text, or path of its image; None if the table has neither.
        label: of the row; None if the table has no labels.
    """

    id: str
    similarity: float
    shown: str | None
    label: str | None


class Search:
    """A table in memory, and the model for queries, which is loaded when it is first needed.

    search = Search(SearchConfig("tables/articles"))
    search("falling share prices")[0].id
    """

    def __init__(
        self, config: SearchConfig, *, shown_characters: int | None = SHOWN_CHARACTERS
    ) -> None:
        """Read the table and find the model.

        Args:
            config: options of the search.
            shown_characters: length of the beginning of a text in `Hit.shown`; None keeps whole texts.

        Raises:
            StoreError: there is no such table, or it is empty.
            ModelError: the model cannot be had, or is not of the table's space.
        """
        self.k = config.k
        table = config.open()
        fingerprint = Fingerprint.of(table.schema)
        assert fingerprint is not None  # open() checked
        self._fingerprint = fingerprint
        self._made_by = _made_by(table)
        self._name = config.model or self._made_by.get("given_model", fingerprint.model)
        self._word_weights = "" if config.model else self._made_by.get("word_weights", "")
        self._engines: dict[str, tuple[Model, Engine]] = {}
        self._rows = read_vectors(table, fingerprint.dim)
        if not len(self._rows.ids):
            raise StoreError(f"{config.table} holds no rows.")
        self._details = _details(table, self._rows.ids, shown_characters)

    def __call__(self, query: str) -> list[Hit]:
        """Find the k rows that are most like a text, or like the image in a file, best first.

        Raises:
            ModelError: there is no model for the query, or the query cannot be embedded.
        """
        names_image = query.lower().endswith(ALL_IMAGE_ENDINGS)
        modality = "image" if names_image and os.path.isfile(query) else "text"
        if names_image and modality == "text":
            print(f"embatch: there is no file {query}: it is taken as a text.", file=sys.stderr)
        if modality not in self._engines:
            model = self._model(modality)
            self._engines[modality] = model, Engine(model.load())
        model, engine = self._engines[modality]
        items: Items = [query]
        if model.preprocess is not None:
            with open(query, "rb") as file:
                try:
                    items = model.preprocess(file.read())[None]
                except ValueError as error:
                    raise ModelError(f"{query}: {error}") from error
        encoded = engine.encode(items)
        if encoded.errors:
            raise ModelError(f"The query cannot be embedded: {encoded.errors[0]}")
        near = nearest(self._rows.vectors, min(self.k, len(self._rows.ids)), encoded.vectors)
        return [
            Hit(
                self._rows.ids[int(index)].as_py(),
                round(float(similarity), 6),
                self._details["shown"][int(index)].as_py(),
                self._details["label"][int(index)].as_py(),
            )
            for index, similarity in zip(near.indices[0], near.similarities[0], strict=True)
        ]

    def _model(self, modality: str) -> Model:
        model = resolve(self._name, modality=modality, word_weights=self._word_weights)
        if modality == "text" and (model.spec.questions or dpr.is_passage_encoder(model)):
            self._refuse_other(model)
            partner, known_by = dpr.find_partner(model)
            if known_by == "name":
                print(
                    f"embatch: questions are embedded by {partner.folder}, the partner of {model.name}"
                    " by its name.",
                    file=sys.stderr,
                )
            return partner
        if modality == "text" and "query" in model.spec.prompts:
            model = resolve(self._name, prompt="query")
        if not self._is_partner(model):
            self._refuse_other(model)
        return model

    def _is_partner(self, model: Model) -> bool:
        """True if a model of questions is the partner of the table's model of passages, of another space.

        Raises:
            ModelError: no file says that the two are partners; the message says what to write.
        """
        made_by = self._made_by.get("given_model", "")
        if model.space == self._fingerprint.space or not dpr.is_question_encoder(model):
            return False
        if not os.path.isdir(made_by) or not dpr.is_passage_encoder(passages := resolve(made_by)):
            return False
        self._refuse_other(passages)
        with contextlib.suppress(ModelError):
            if dpr.find_partner(passages).model.folder == model.folder:
                return True
        raise ModelError(dpr.refusal_message(passages, model))

    def _refuse_other(self, model: Model) -> None:
        table = self._fingerprint
        given = Fingerprint.of_model(model)
        if table.is_comparable_with(given):
            return
        why = f" ({what_differs(table, given)})" if table.model == given.model else ""
        raise ModelError(
            f"The table holds vectors of {table.model}, and {self._name} makes others{why}: they cannot be"
            " compared. Name the model, or its folder, with --model."
        )


def _made_by(table: Table) -> dict[str, Any]:
    """Note of the last commit in the table's history that names a model; empty if none does."""
    notes = (commit.get("note", {}) for commit in table.history())
    return next((note for note in notes if "given_model" in note), {})


def _details(table: Table, ids: pa.Array, shown_characters: int | None) -> pa.Table:
    """Table with the columns `shown` and `label` of the rows, in the order of ids."""
    names = set(table.schema.names) & {"text", "image", "label"}
    parts = []
    for file in table.files():
        rows = table.read_file(file.name, ["id", *names])
        shown = label = pa.nulls(len(rows), pa.string())
        if "text" in rows.column_names:
            shown = pc.utf8_slice_codeunits(rows["text"], 0, shown_characters)
        elif "image" in rows.column_names:
            shown = pc.struct_field(rows["image"], "path")
        if "label" in rows.column_names:
            label = cast_column(rows["label"], pa.string())
        parts.append(pa.table({"id": rows["id"], "shown": shown, "label": label}))
    return rows_of_ids(pa.concat_tables(parts), ids)


def _text(hits: Iterable[Hit]) -> str:
    """One line for each hit, none wider than the terminal."""
    width = shutil.get_terminal_size().columns
    lines = []
    for hit in hits:
        parts = [hit.label, hit.id if hit.shown == hit.id or not hit.shown else hit.shown]
        shown = UNPRINTABLE.sub(" ", "  ".join(part for part in parts if part))
        line = f"{hit.similarity:7.3f}  {' '.join(shown.split(' '))}"
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    return "\n".join(lines)


def answer_each(
    given: str, prompt: str, outcome: CommandOutcome, answer: Callable[[str], str]
) -> None:
    """Print the answer to the query of the command line, or to each line of stdin.

    Args:
        given: query of the command line; if it is empty, stdin is read, without its blank lines.
        prompt: text before each line on a terminal.
        outcome: of the command; its exit code becomes 1 if a line of stdin cannot be answered.
        answer: returns the text to print for a query.

    Raises:
        ModelError: the query of the command line cannot be answered.
    """
    for line in [given] if given else _lines(prompt):
        try:
            print(answer(line), flush=True)
        except ModelError as error:
            if given:
                raise
            print(f"embatch: {error_message(error)}", file=sys.stderr)
            outcome.exit_code = 1


def _lines(prompt: str) -> Iterator[str]:
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.removesuffix("\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(SearchConfig, "search", __doc__, arguments)

    def answer(query: str) -> str:
        hits = search(query)
        if config.json:
            return json.dumps({"query": query, "hits": list(map(dataclasses.asdict, hits))})
        return _text(hits) if config.query else f"{_text(hits)}\n"

    with user_errors() as outcome, contextlib.suppress(KeyboardInterrupt):
        search = Search(config)
        answer_each(config.query, "search> ", outcome, answer)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
