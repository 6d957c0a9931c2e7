"""Rows, pieces and failures: what every source yields, and the options that say how.

The driver lists a source once and cuts it into pieces. A piece is read twice in a run, to plan and to
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
"""Bytes of input in one `Rows`, about: the row that reaches this number is the last one."""

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
"""An image: the bytes of its file, and the path they came from."""
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
    """Error: a SOURCE cannot be read as asked; the message says expected, got, where, what to do."""


@dataclass(frozen=True)
class SourceOptions:
    """Options of a source: where the rows come from and which of their columns are used.

    Attributes:
        path: A file, folder, glob, URI (fsspec), Delta table, datasets folder or hub name
            (`owner/name:split`).
        text_column: Columns joined by a newline to the text. Empty: `text`, else the only string
            column.
        image_column: Column of images (their bytes, or a struct of bytes and path). None: the only such
            column, if no text column is named.
        label_from_folder: The folder that an image file lies in is its `label`.
        id_column: Column of ids. None: the path where a file is one item, else the content hash.
        columns: Other columns to keep. None: all.
        max_chars: The text is cut to this many characters.
        delimiter: Character between the fields of a CSV file; `.tsv` files have a tab in place of the
            comma.
        quote: Character around fields of a CSV file that hold delimiters or newlines. Empty: no
            quoting.
        encoding: Encoding of text files (CSV, JSON, lines, documents) without a byte order mark.
            Empty is UTF-8.
        no_header: The first row of a CSV file is data; columns are column_1, column_2, …
        lines: Each line of a file, whatever its ending, is one document.
        labels: The file holds the names of classes, one a line.
        feeds: The folder holds fetches of news feeds, whose items are the rows.
        types: Types of other columns, by their names in `Rows.table`: columns without a type of their
            own, as in JSON, are read in these types.
        templates: Sentences for class names, in which {} stands for a name.
        templates_asked: The user gave the templates; wordings that are no sentences are put into them
            too.
        storage_options: Options for object stores, in delta-rs's words; others are passed to fsspec.

    Raises:
        SourceError: A value is not allowed.
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
        """The same name for each spelling of a source: an absolute path, a URI, or a hub name."""
        path = self.path.removeprefix("file://")
        if "://" in path:
            return path.rstrip("/")
        is_local = os.path.exists(path) or glob.has_magic(path)
        return os.path.abspath(path) if is_local else path

    @property
    def modality(self) -> str:
        """Kind of what is embedded: "text" or "image"."""
        return "text" if self.image_column is None else "image"

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The names of the columns of text or image, and of ids."""
        single = (self.image_column, self.id_column)
        return (*self.text_column, *(name for name in single if name is not None))

    def wants(self, column: str) -> bool:
        """True if a column is kept beside text, image and id."""
        if column in self.own_columns:
            return False
        return self.columns is None or column in self.columns

    def needs(self, column: str) -> bool:
        """True if a column has to be read."""
        return column in self.own_columns or self.wants(column)

    def describe_missing(self, names: Iterable[str]) -> str | None:
        """The columns of text, image and id that a file lacks, in words; None if it lacks none."""
        known = list(names)
        absent = [repr(name) for name in self.own_columns if name not in known]
        return f"no column {', '.join(absent)} among {', '.join(known)}" if absent else None


@dataclass(frozen=True)
class Piece:
    """A part of a source that one task reads.

    Attributes:
        files: Names relative to SOURCE (a dataset's splits for datasets).
        size_bytes: About how many bytes are read from storage.
        part: Row groups [start, stop) of one Parquet file, or rows [start, stop) of a split.
        first_row: Position of the first row of `part`.
        file_number: Index of the first of `files` among all files of the source; see `number_files`.
        partitions: The values of partition columns of each file; empty where the source has none.
    """

    files: tuple[str, ...]
    size_bytes: int
    part: tuple[int, int] | None = None
    first_row: int = 0
    file_number: int = 0
    partitions: tuple[Mapping[str, object], ...] = ()


def number_files(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces, in the order of their files, with `file_number` set; the parts of a file share a number."""
    result: list[Piece] = []
    n_files = 0
    for piece in pieces:
        goes_on = piece.part is not None and bool(result) and result[-1].files == piece.files
        number = n_files - 1 if goes_on else n_files
        result.append(replace(piece, file_number=number))
        n_files = number + len(piece.files)
    return result


def group_small(pieces: Iterable[Piece], kind: Callable[[str], object]) -> Iterator[Piece]:
    """Join consecutive small files of one kind into one piece.

    Args:
        pieces: Pieces in the order of their files.
        kind: Returns the kind of a file, given its name.
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
    """The name of a file, given its number and all numbered pieces of the source."""
    at = bisect_right(pieces, number, key=lambda piece: piece.file_number) - 1
    return pieces[at].files[number - pieces[at].file_number]


class Rows(NamedTuple):
    """Consecutive rows of a piece, ready to embed, and the failures among them.

    Attributes:
        table: The good rows: `PREPARED_FIELDS`, then the other columns in their source types.
        failures: The failures, `FAILURE_SCHEMA`. Stage `read` is a bad row; stage `file` says that a
            file or the rest of it could not be read.
        left_out: Number of rows that the source leaves out, by reason, such as items that are too short.
    """

    table: pa.Table
    failures: pa.Table
    left_out: Mapping[str, int] = {}


class Source(Protocol):
    """A source of rows: a folder, a dataset, a table and so on.

    Attributes:
        columns: The columns kept beside text, image and id, as the first readable file has them; later
            files may bring more.
        options: The options as given, with the column of texts or images filled in.
    """

    columns: tuple[str, ...]
    options: SourceOptions

    def pieces(self) -> list[Piece]:
        """The pieces of the source, sorted by file."""

    def unlisted(self) -> list[tuple[str, str]]:
        """Folders and links that could not be listed, as (path, reason)."""

    def left_out(self) -> dict[str, int]:
        """Number of files of kinds that are not read, by ending."""

    def remarks(self) -> list[str]:
        """Remarks on what was guessed, each with the option that says otherwise."""

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the rows of a piece. Bad data becomes failures and never raises."""


def with_types(source: Source, types: Mapping[str, pa.DataType]) -> Source:
    """The source with given types for those columns that have no type of their own, as in JSON."""
    typed = copy(source)
    typed.options = replace(source.options, types=dict(types))
    return typed


class Failure(NamedTuple):
    """A row that cannot be embedded, or a file that cannot be read: one row of `FAILURE_SCHEMA`."""

    id: str | None
    content_hash: bytes | None
    position: int
    source_file: str
    stage: str
    reason: str


def failure_table(failures: Iterable[Failure]) -> pa.Table:
    """The failures as a table, sorted by position."""
    ordered = sorted(failures, key=lambda failure: failure.position)
    return pa.Table.from_pylist([failure._asdict() for failure in ordered], FAILURE_SCHEMA)


def file_failure(name: str, position: int, error: Exception | str) -> Rows:
    """A `Rows` without rows, with one failure: why a file, or the rest of it, could not be read."""
    failure = Failure(None, None, position, name, "file", failure_reason(error))
    return Rows(pa.schema(PREPARED_FIELDS).empty_table(), failure_table([failure]))


def failure_reason(error: Exception | str) -> str:
    """The text of an error for a failure: one line, without a path that the failure names already."""
    return error.strerror if isinstance(error, OSError) and error.strerror else error_line(error)
