"""What every source yields: rows ready to embed, and failures with their reasons.

A source is listed once on the driver into pieces. A piece is read twice in a run, to plan and to
embed, each time perhaps on another machine: a source pickles small and reads the same both times.
The address of a row is its file and its position, which counts the rows of the whole file from 0,
however the file was cut into pieces.
"""

import glob
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple, Protocol

import pyarrow as pa

from schemas.errors import UserError, error_line

MAX_ROWS = 8192
"""Rows in one `Rows`, at most."""
MAX_BYTES = 16 << 20
"""Bytes of input in one `Rows`, about: it ends after the row that reaches it."""

GROUP_BYTES = 16 << 20
GROUP_FILES = 2000
"""Small files that one task reads together, at most."""

FAILURE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("content_hash", pa.binary(16)),
        pa.field("position", pa.uint32(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
"""An image file's bytes, and where they came from."""
PREPARED_FIELDS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("content_hash", pa.binary(16), nullable=False),
    pa.field("row_hash", pa.uint64(), nullable=False),
    pa.field("piece_file", pa.uint32(), nullable=False),
    pa.field("position", pa.uint32(), nullable=False),
    pa.field("text", pa.large_string(), nullable=False),
)
"""The first columns of `Rows.table`; of images, `image` (IMAGE) in place of `text`. `piece_file` is the
index of the row's file in `Piece.files`. Other columns of these names get the prefix `source:`."""


class SourceError(UserError):
    """A user's mistake, in one message: expected, got, where, what to do."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the rows come from and which of their columns matter.

    Attributes:
        path: A file, folder, glob, URI (fsspec), Delta table, datasets folder or hub name
            (`owner/name:split`).
        text_column: Columns joined by a newline to the text. Empty: `text`, else the only string
            column.
        image_column: Column of images (their bytes, or a struct of bytes and path). None: the one that
            there is, if no text column is named.
        label_from_folder: The folder that an image file lies in is its `label`.
        id_column: Column of ids. None: the path where a file is one item, else the content hash.
        columns: Other columns to keep. None: all.
        max_chars: The text is cut to this many characters.
        delimiter: Between the fields of a CSV file; `.tsv` files have a tab in place of the comma.
        quote: Around fields of a CSV file that hold delimiters or newlines. Empty: no quoting.
        encoding: Of text files (CSV, JSON, lines, documents) without a byte order mark. Empty is
            UTF-8.
        no_header: The first row of a CSV file is data; columns are column_1, column_2, …
        lines: Each line of a file, whatever its ending, is one document.
        labels: The file holds the names of classes, one a line.
        feeds: The folder holds fetches of news feeds, whose items are the rows.
        types: Of other columns by the names they get, once they are decided: what a reader finds
            without a type of its own, as in JSON, is written in these.
        templates: Sentences that these names are put into at {}.
        templates_asked: The user gave them; wordings that are no sentences are put into them too.
        storage_options: For object stores, in delta-rs's words; others are passed to fsspec.

    Raises:
        SourceError: A value that cannot be meant.
    """

    path: str
    text_column: tuple[str, ...] = ()
    image_column: str | None = None
    label_from_folder: bool = False
    id_column: str | None = None
    columns: tuple[str, ...] | None = None
    max_chars: int | None = None
    delimiter: str = ","
    quote: str = '"'
    encoding: str = ""
    no_header: bool = False
    lines: bool = False
    labels: bool = False
    feeds: bool = False
    types: Mapping[str, pa.DataType] = field(default_factory=dict, repr=False)
    templates: tuple[str, ...] = ("{}",)
    templates_asked: bool = False
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise SourceError("SOURCE is empty. Give a file, folder, glob, URI or hub name.")
        if self.max_chars is not None and self.max_chars < 1:
            raise SourceError(f"max_chars is {self.max_chars}, expected 1 or more, or none at all.")
        if len(self.delimiter.replace("\\t", "\t")) != 1:
            raise SourceError(
                f"Delimiter {self.delimiter!r} is not one character, such as , ; or \\t"
            )
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError as error:
            raise SourceError(
                f"There is no encoding {self.encoding!r}. Expected one that Python knows, such as "
                "cp1252, latin-1, utf-16-le, shift_jis or gb18030."
            ) from error
        if len(self.quote) > 1:
            raise SourceError(f"Quote {self.quote!r} is not one character; empty means no quoting.")
        if self.lines + self.labels + self.feeds > 1:
            raise SourceError(
                "--lines, --labels and --feeds read a file in different ways: give one."
            )

    def with_names(self, *, text: tuple[str, ...], id_column: str) -> "SourceOptions":
        """The options of a source that names its columns itself."""
        return replace(self, text_column=text, id_column=id_column)

    @property
    def address(self) -> str:
        """The source as it is known however it is spelled: an absolute path, a URI, or a hub name."""
        path = self.path.removeprefix("file://")
        if "://" in path:
            return path.rstrip("/")
        is_local = os.path.exists(path) or glob.has_magic(path)
        return os.path.abspath(path) if is_local else path

    @property
    def modality(self) -> str:
        """What is embedded: "text" or "image"."""
        return "text" if self.image_column is None else "image"

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The columns of text or image, and of ids."""
        single = (self.image_column, self.id_column)
        return (*self.text_column, *(name for name in single if name is not None))

    def wants(self, column: str) -> bool:
        """Whether a column is kept beside text, image and id."""
        if column in self.own_columns:
            return False
        return self.columns is None or column in self.columns

    def needs(self, column: str) -> bool:
        """Whether a column has to be read at all."""
        return column in self.own_columns or self.wants(column)

    def lack(self, names: Iterable[str]) -> str | None:
        """What is missing for text, image and id among the columns of a file, in words."""
        known = list(names)
        absent = [repr(name) for name in self.own_columns if name not in known]
        return f"no column {', '.join(absent)} among {', '.join(known)}" if absent else None


@dataclass(frozen=True)
class Piece:
    """What one read task reads.

    Attributes:
        files: Names relative to SOURCE (a dataset's splits for datasets).
        size_bytes: About what is read from storage.
        part: Row groups [start, stop) of one Parquet file, or rows [start, stop) of a split.
        first_row: Position of the first row of that part.
        file_number: Index of the first of `files` among all files of the source; see `numbered`.
        partitions: The values of partition columns of each file; empty where the source has none.
    """

    files: tuple[str, ...]
    size_bytes: int
    part: tuple[int, int] | None = None
    first_row: int = 0
    file_number: int = 0
    partitions: tuple[Mapping[str, object], ...] = ()


def numbered(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in the order of their files with `file_number` set; the parts of a file share it."""
    result: list[Piece] = []
    n_files = 0
    for piece in pieces:
        goes_on = piece.part is not None and bool(result) and result[-1].files == piece.files
        number = n_files - 1 if goes_on else n_files
        result.append(replace(piece, file_number=number))
        n_files = number + len(piece.files)
    return result


def group_small(pieces: Iterable[Piece], kind: Callable[[str], object]) -> Iterator[Piece]:
    """Put small whole files of one kind that follow each other into one piece.

    Args:
        pieces: In the order of their files.
        kind: Of a file, by its name.
    """
    for _, run in groupby(pieces, lambda piece: piece.part or kind(piece.files[0])):
        names: list[str] = []
        n_bytes = 0
        for piece in run:
            full = n_bytes + piece.size_bytes > GROUP_BYTES or len(names) >= GROUP_FILES
            if names and (full or piece.part):
                yield Piece(tuple(names), n_bytes)
                names, n_bytes = [], 0
            if piece.part:
                yield piece
                continue
            names.extend(piece.files)
            n_bytes += piece.size_bytes
        if names:
            yield Piece(tuple(names), n_bytes)


def file_name(pieces: Sequence[Piece], number: int) -> str:
    """The name of a file by its number, given all pieces of the source, numbered."""
    at = bisect_right(pieces, number, key=lambda piece: piece.file_number) - 1
    return pieces[at].files[number - pieces[at].file_number]


class Rows(NamedTuple):
    """A stretch of a piece.

    Attributes:
        table: `PREPARED_FIELDS`, then the other columns in their source types.
        failures: `FAILURE_SCHEMA`. Stage `read` is a bad row; stage `file` says that a file or
            the rest of it could not be read.
        left_out: How many rows the source does not take, by reason, such as items too short to be one.
    """

    table: pa.Table
    failures: pa.Table
    left_out: Mapping[str, int] = {}


class Source(Protocol):
    """Where rows come from.

    Attributes:
        columns: The other columns that are kept, as the first readable file has them; later files
            may bring more.
        options: As they were given, with the column of texts or images found.
    """

    columns: tuple[str, ...]
    options: SourceOptions

    def pieces(self) -> list[Piece]:
        """Everything there is to read, sorted by file."""

    def unlisted(self) -> list[tuple[str, str]]:
        """What could not be listed: (path, reason)."""

    def left_out(self) -> dict[str, int]:
        """How many files are of kinds that are not read here, by ending."""

    def remarks(self) -> list[str]:
        """What was guessed, and how to say otherwise."""

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream a piece. Bad data becomes failures and never raises."""


def with_types(source: Source, types: Mapping[str, pa.DataType]) -> Source:
    """The same source, which writes other columns without types of their own in these."""
    typed = copy(source)
    typed.options = replace(source.options, types=dict(types))
    return typed


class Failure(NamedTuple):
    """One row of `FAILURE_SCHEMA`."""

    id: str | None
    content_hash: bytes | None
    position: int
    source_file: str
    stage: str
    reason: str


def failure_table(failures: Iterable[Failure]) -> pa.Table:
    """Failures as a table, in the order of their positions."""
    ordered = sorted(failures, key=lambda failure: failure.position)
    return pa.Table.from_pylist([failure._asdict() for failure in ordered], FAILURE_SCHEMA)


def unread(name: str, position: int, error: Exception | str) -> Rows:
    """No rows and the one failure that says why a file, or the rest of it, could not be read."""
    failure = Failure(None, None, position, name, "file", failure_reason(error))
    return Rows(pa.schema(PREPARED_FIELDS).empty_table(), failure_table([failure]))


def failure_reason(error: Exception | str) -> str:
    """An error as a failure names it: in one line, without the path that stands beside it."""
    return error.strerror if isinstance(error, OSError) and error.strerror else error_line(error)
