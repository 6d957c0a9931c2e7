"""Read texts and labels for training, from any source of `embatch embed` or from a table that it made."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

import pyarrow as pa
import tyro

from jobs.runtime.command import Flag, storage_options, table_uri
from schemas.columns import SHADOWED, labels_as_text
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint, textless_kind
from sources import SourceOptions, open_source
from sources.rows import PREPARED_FIELDS, SourceError

Column = Annotated[str, tyro.conf.arg(metavar="A,B", help_behavior_hint="")]


class Example(NamedTuple):
    """A text and its label; the label is None if the text has none."""

    text: str
    label: str | None


@dataclass(frozen=True)
class CorpusOptions:
    """Options that select texts and their labels.

    Attributes:
        source: any SOURCE of `embatch embed`, or a table that it made
        text_column: columns that make the text, joined by a newline (default: `text`, else the only column of strings)
        label_column: column of labels
        delimiter: character between the fields of a CSV file
        quote: character around fields of a CSV file
        encoding: character encoding of CSV, JSON and text files without a byte order mark (default: UTF-8)
        no_header: the first row of a CSV file is data; its columns are column_1, column_2, ...
        lines: each line of a text file is one text
        feeds: SOURCE is a folder of news feeds, CATEGORY/.../FEED-YYYY-MM-DD/hh-mm.txt, whose items are texts
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    text_column: Column = ""
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    delimiter: str = ","
    quote: str = '"'
    encoding: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    no_header: Flag = False
    lines: Flag = False
    feeds: Flag = False
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def examples(self, unread: "Counter[str] | None" = None) -> Iterator[Example]:
        """Yield all texts with their labels, in the order of the source; unreadable rows are left out.

        Args:
            unread: counts rows and files that are left out, by reason; None prints these counts to stderr.

        Raises:
            SourceError: there is no such source or column.
            SchemaError: the column of labels holds no labels.
            StoreError: the table holds no texts.
        """
        has_texts = False
        reasons = Counter[str]() if unread is None else unread
        for rows, column in self._tables(reasons):
            labels = [None] * len(rows)
            if self.label_column:
                if column not in rows.column_names:
                    raise SourceError(
                        f"{self.source} has no column {self.label_column!r}. It has:"
                        f" {', '.join(rows.column_names)}."
                    )
                labels = labels_as_text(rows[column], self.label_column, self.source).to_pylist()
            for text, label in zip(rows["text"].to_pylist(), labels, strict=True):
                has_texts = True
                yield Example(text, label)
        if not has_texts:
            raise SourceError(f"{self.source} holds no text.")
        if unread is None:
            for reason, n in reasons.items():
                _say_once(f"{n:,} could not be read: {reason}")

    def _tables(self, unread: "Counter[str]") -> Iterator[tuple[pa.Table, str]]:
        """Yield tables of rows with a column `text`, and the name of their column of labels."""
        options = storage_options(self.storage_option)
        table = _table(self.source, options)
        if table is not None:
            if self.text_column:
                raise SourceError(
                    f"{self.source} is a table, whose texts are its column `text`. Leave out --text-column."
                )
            if textless := textless_kind(table.schema):
                raise StoreError(
                    f"{self.source} is {textless}: it holds no texts. Name their source, or a table that"
                    " `embatch embed` made of it without --no-text."
                )
            wanted = [name for name in table.schema.names if name != "embedding"]
            for file in table.files():
                rows = table.read_file(file.name, wanted)
                if self.label_column in set(wanted) - set(rows.column_names):  # it came later
                    rows = rows.append_column(self.label_column, pa.nulls(len(rows)))
                yield rows, self.label_column
            return
        source = open_source(
            SourceOptions(
                path=self.source,
                text_column=tuple(name for name in self.text_column.split(",") if name),
                columns=(self.label_column,) if self.label_column else (),
                delimiter=self.delimiter,
                quote=self.quote,
                encoding=self.encoding,
                no_header=self.no_header,
                lines=self.lines,
                feeds=self.feeds,
                storage_options=options,
            )
        )
        if source.options.modality != "text":
            raise SourceError(f"{self.source} holds images, expected texts.")
        reserved = self.label_column in pa.schema(PREPARED_FIELDS).names
        column = f"{SHADOWED}{self.label_column}" if reserved else self.label_column
        for remark in source.remarks():
            _say_once(f"Warning: {remark}")
        unread.update({f"files of ending {end}": n for end, n in source.left_out().items()})
        for piece in source.pieces():
            for rows, failures, left_out in source.read(piece):
                unread.update(failures["reason"].to_pylist())
                unread.update(left_out)
                yield rows, column


@cache
def _say_once(line: str) -> None:
    """Print a line to stderr once in a process, even if a source is read several times."""
    print(line, file=sys.stderr)


def _table(place: str, options: dict[str, str]) -> Table | None:
    """Open the table of embatch at an address; None if there is none, so that the address is a source."""
    try:
        table = Table.open(table_uri(place), options)
    except StoreError:  # a file, or something that no table is
        return None
    return None if table is None or Fingerprint.of(table.schema) is None else table
