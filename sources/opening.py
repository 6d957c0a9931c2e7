"""Opening a file of a source: from any file system, through gzip or zstd, line by line."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.arrow import ArrowFSWrapper

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
READ_AHEAD = 8 << 20  # bytes of one request to an object store, where a file is read from its start
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


def ending(name: str) -> str:
    """The last ending of a name in lower case, without that of a compression: `.jsonl`."""
    stem, compression = _split(name.lower())
    return _split(stem if compression in COMPRESSIONS else name.lower())[1]


@dataclass(frozen=True)
class SourceFile:
    """A file to read; `name` is what failures call it, `number` its index in the piece."""

    fs: AbstractFileSystem
    path: str
    name: str
    number: int = 0

    @property
    def is_far(self) -> bool:
        """Whether each request for a part of it takes its time, as in an object store."""
        return isinstance(self.fs, ArrowFSWrapper)

    def open(self, *, jumps: bool = False) -> IO[bytes]:
        """Its bytes, decompressed. A stream that was cut off raises OSError where it ends.

        Args:
            jumps: it will be read here and there, as Parquet is, so that nothing is read ahead.
        """
        if self.is_far:  # fsspec's files over pyarrow read each byte of a line by itself
            stream = self.fs.fs.open_input_file(self.path)
            stream = stream if jumps else io.BufferedReader(stream, READ_AHEAD)
        else:
            stream = self.fs.open(self.path, "rb")
        codec = COMPRESSIONS.get(_split(self.name.lower())[1])
        if codec is None:
            return stream  # type: ignore[no-any-return]
        try:
            return io.BufferedReader(pa.CompressedInputStream(stream, codec))
        except BaseException:
            stream.close()
            raise


class Lines:
    """The lines of a file up to its end or to its first error, which is kept.

    Attributes:
        error: What ended the file early, if anything did.
        ended: The last line was asked for and there was none.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.error: Exception | None = None
        self.ended = False

    def as_bytes(self) -> Iterator[bytes]:
        """Lines as they are, with the line feed that ends them."""
        try:
            with self.file.open() as stream:
                yield from stream
        except Exception as error:  # each file system has errors of its own
            self.error = error
        self.ended = True

    def as_text(self) -> Iterator[str]:
        """Lines without a byte order mark; bytes that are not UTF-8 become lone surrogates."""
        try:
            with io.TextIOWrapper(self.file.open(), "utf-8-sig", "surrogateescape", "") as stream:
                yield from stream
        except Exception as error:
            self.error = error
        self.ended = True


def _split(name: str) -> tuple[str, str]:
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return (stem, dot + last) if stem else (name, "")
