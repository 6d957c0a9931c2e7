"""What every source yields: rows ready to embed, and failures with their reasons.

A source is listed once on the driver into pieces. A piece is read twice in a run, to plan and to
embed, each time perhaps on another machine: a source pickles small and reads the same both times.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import pyarrow as pa

MAX_ROWS = 8192
"""Rows in one `Rows`, at most."""
MAX_BYTES = 16 << 20
"""Bytes of input in one `Rows`, about: it ends after the row that reaches it."""

USER_PART = re.compile(r"://[^/@\s]+@")
SECRET_PART = re.compile(
    r"([?&][\w.-]*(?:sig|token|key|secret|password|credential)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)

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
    pa.field("position", pa.uint32(), nullable=False),
    pa.field("text", pa.large_string(), nullable=False),
)
"""The first columns of `Rows.table`; of images, `image` (IMAGE) in place of `text`. Other columns of
these names get the prefix `source_`."""


class SourceError(ValueError):
    """A user's mistake, in one message: expected, got, where, what to do."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the rows come from and which of their columns matter.

    Attributes:
        path: A file, folder, glob, URI (fsspec), datasets folder or hub name (`owner/name:split`).
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
        no_header: The first row of a CSV file is data; columns are column_1, column_2, …
        lines: Each line of a file, whatever its ending, is one document.
        labels: The file holds the names of classes, one a line.
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
    no_header: bool = False
    lines: bool = False
    labels: bool = False
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
        if len(self.quote) > 1:
            raise SourceError(f"Quote {self.quote!r} is not one character; empty means no quoting.")

    def with_names(self, *, text: tuple[str, ...], id_column: str) -> "SourceOptions":
        """The options of a source that names its columns itself."""
        return replace(self, text_column=text, id_column=id_column)

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
    """

    files: tuple[str, ...]
    size_bytes: int
    part: tuple[int, int] | None = None


class Rows(NamedTuple):
    """A stretch of a piece.

    Attributes:
        table: `PREPARED_FIELDS`, then the other columns in their source types.
        failures: `FAILURE_SCHEMA`. Stage `read` is a bad row; stage `file` says that a file or
            the rest of it could not be read.
    """

    table: pa.Table
    failures: pa.Table


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

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream a piece. Bad data becomes failures and never raises."""


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
    failure = Failure(None, None, position, name, "file", short_reason(error))
    return Rows(pa.schema(PREPARED_FIELDS).empty_table(), failure_table([failure]))


def short_reason(error: Exception | str) -> str:
    """The first line of an error, without the path and secrets, in at most 200 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return without_secrets(lines[0])[:200] if lines else type(error).__name__


def without_secrets(text: str) -> str:
    """A text that may be kept and shown: what URLs in it hold of passwords, tokens and signatures is cut.

    >>> without_secrets("https://me:1234@host/a?page=2&token=abc")
    'https://…@host/a?page=2&token=…'
    """
    return SECRET_PART.sub(r"\1…", USER_PART.sub("://…@", text))
