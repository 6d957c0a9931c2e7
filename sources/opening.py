"""Opening a file of a source, from any file system: gzip and zstd are unpacked, text becomes UTF-8."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.arrow import ArrowFSWrapper

from sources.rows import SourceError

READ_AHEAD = 8 << 20  # bytes of one request to an object store, where a file is read from its start
CHUNK_BYTES = 8192  # that a text is decoded by; what ends in an error gives all but its last chunk
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
"""The first bytes of a compressed file."""
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""The encoding that each byte order mark stands for."""
NEWLINES = {
    name: "\n".encode(name) for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
}
NOT_UTF8 = re.compile(r"^(.*) is not UTF-8: byte \d+$")


def ending(name: str) -> str:
    """The last ending of a name in lower case, without that of a compression: `.jsonl`."""
    stem, compression = _split(name.lower())
    return _split(stem if compression in COMPRESSIONS else name.lower())[1]


@dataclass(frozen=True)
class SourceFile:
    """A file to read.

    Attributes:
        fs: Its file system.
        path: Its path in the file system.
        name: Its name in failures.
        number: Its index in the piece.
    """

    fs: AbstractFileSystem
    path: str
    name: str
    number: int = 0

    @property
    def is_far(self) -> bool:
        """True if each request for a part of the file takes time, as in an object store."""
        return isinstance(self.fs, ArrowFSWrapper)

    def open(self, *, jumps: bool = False) -> IO[bytes]:
        """Open the file for its bytes, decompressed.

        A stream that was cut off raises OSError where it ends.

        Args:
            jumps: parts will be read here and there, as of Parquet, so that nothing is read ahead.
        """
        stream = self._open_stream(jumps=jumps)
        codec = COMPRESSIONS.get(_split(self.name.lower())[1])
        if codec is None:
            return stream  # type: ignore[no-any-return]
        return io.BufferedReader(_DecompressedStream(self, stream, codec))

    def _open_stream(self, *, jumps: bool = False) -> Any:  # noqa: ANN401 each file system has its own
        if not self.is_far:
            return self.fs.open(self.path, "rb")
        stream = self.fs.fs.open_input_file(self.path)  # fsspec's own reads lines byte by byte
        return stream if jumps else io.BufferedReader(stream, READ_AHEAD)

    def open_text(self, encoding: str = "") -> IO[bytes]:
        """Open the file for its text as UTF-8, without a byte order mark; see `as_utf8`."""
        stream = self.open()
        try:
            return as_utf8(stream, encoding)
        except BaseException:
            stream.close()
            raise


class _DecompressedStream(io.RawIOBase):
    """A stream of the decompressed bytes of a file.

    pyarrow reads it, at 1.2 times the pace of Python's gzip. Where pyarrow stops, Python's gzip reads
    on: it skips the zeros behind the last member with which tapes and disks fill a block, and gives all
    that came before an error. A file that only has the name of a compressed one is read as it is.
    """

    def __init__(self, file: SourceFile, stream: Any, codec: str) -> None:  # noqa: ANN401
        self._file, self._codec, self._packed = file, codec, stream
        self._stream: Any = pa.CompressedInputStream(stream, codec)
        self._n_read = 0
        self._is_second = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 what can be written to
        try:
            data = self._read(len(buffer))
        except OSError:
            if self._is_second or not self._reopen():
                raise
            data = self._read(len(buffer))
        self._n_read += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._packed.close()
        super().close()

    def _read(self, n_bytes: int) -> bytes:
        if not isinstance(self._stream, gzip.GzipFile):
            return bytes(self._stream.read(n_bytes))
        try:
            return self._stream.read1(n_bytes)  # which gives what there is before an error
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" in str(error):
                raise OSError("what follows the end of the gzip is none") from error
            raise
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from error

    def _reopen(self) -> bool:
        """Open the file in a second way and skip what was read; False if there is no second way."""
        self._is_second = True
        self._stream.close()
        self._packed.close()
        with self._file._open_stream() as packed:
            is_packed = packed.read(len(MAGIC[self._codec])) == MAGIC[self._codec]
        self._packed = self._file._open_stream()
        if not is_packed:
            self._stream = self._packed
        elif self._codec == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._packed)
        else:
            return False
        left = self._n_read
        while left and (data := self._read(min(left, CHUNK_BYTES))):
            left -= len(data)
        return True


def as_utf8(stream: IO[bytes], encoding: str = "") -> IO[bytes]:
    """Convert a stream of text to UTF-8 without a byte order mark.

    Args:
        stream: the text, in the encoding of its byte order mark; without a mark, in `encoding`.
        encoding: empty is UTF-8. Bytes that are no text in it become bytes that are not UTF-8.

    Raises:
        SourceError: the text has no mark, and looks like UTF-16 or UTF-32.
    """
    text: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    head = text.peek(CHUNK_BYTES)[:CHUNK_BYTES]  # which may be all of the buffer
    mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
    text.read(len(mark))
    encoding = codecs.lookup(MARKS.get(mark, encoding or "utf-8")).name
    is_wide = encoding.startswith(("utf-16", "utf-32"))
    if not mark and not is_wide and (guess := guess_encoding(head)):
        raise SourceError(
            f"it looks like {guess.upper()}, without a byte order mark: name its encoding with "
            f"--encoding {guess}"
        )
    return text if encoding == "utf-8" else io.BufferedReader(_Utf8(text, encoding))


class _Utf8(io.RawIOBase):
    """A stream of a text converted from another encoding to UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:  # noqa: ANN401 with read1
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("half pair")
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 what can be written to
        data = b"more"
        while data and not self._waiting:
            data = self._stream.read(1)  # fills the buffer, which `read1` would read past
            data += self._stream.read1(CHUNK_BYTES) if data else b""
            text = self._decoder.decode(data, not data)
            self._waiting = memoryview(text.encode("utf-8", "surrogatepass"))
        n = min(len(buffer), len(self._waiting))
        buffer[:n], self._waiting = self._waiting[:n], self._waiting[n:]
        return n

    def close(self) -> None:
        self._stream.close()
        super().close()


def _half_pair(error: UnicodeError) -> tuple[str, int]:
    """Replace bytes that are no text by half a surrogate pair, which makes their row fail later."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ud800", error.end


codecs.register_error("half pair", _half_pair)


def guess_encoding(head: bytes) -> str | None:
    """The encoding of a text's first bytes if these look like UTF-16 or UTF-32, else None.

    In these encodings Latin letters hold zero bytes, and so do line ends whatever the script. Text in
    UTF-8 holds no zeros.
    """
    if b"\0" not in head:
        return None
    for name, newline in NEWLINES.items():
        width = len(newline)
        zeros = slice(1, None) if name.endswith("le") else slice(None, -1)
        units = [head[at : at + width] for at in range(0, len(head) - width + 1, width)]
        n_latin = sum(any(unit) and not any(unit[zeros]) for unit in units)
        n_lines = units.count(newline)
        if 2 * n_latin > len(units) or (n_lines and 2 * n_lines > head.count(b"\n")):
            return name
    return None


def explain_not_utf8(reason: str, encoding: str) -> str:
    """The reason of a failure, extended by what to do if it says that a text is not UTF-8."""
    match = NOT_UTF8.match(reason)
    if match is None:
        return reason
    if encoding:
        return f"{match[1]} is not {encoding}"
    return f"{reason}. A file in another encoding takes --encoding (such as cp1252)"


class Lines:
    """The lines of a text file, up to its end or its first error, which is kept.

    Attributes:
        error: The error that ended the file early, None if there was none.
        ended: True once a line was asked for and there was none left.
    """

    def __init__(self, file: SourceFile, encoding: str = "") -> None:
        self.file, self.encoding = file, encoding
        self.error: Exception | None = None
        self.ended = False

    def as_bytes(self) -> Iterator[bytes]:
        """Lines in UTF-8 with their line ends; bytes that are no text are left for the caller to judge."""
        try:
            with self.file.open_text(self.encoding) as stream:
                head = stream.peek(CHUNK_BYTES)[:CHUNK_BYTES]  # type: ignore[attr-defined]
                if b"\r" in head[:-1] and b"\n" not in head:  # as old Macs ended their lines
                    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", "")
                    for line in text:
                        yield line.encode("utf-8", "surrogateescape")
                else:
                    yield from stream
        except Exception as error:  # each file system has errors of its own
            self.error = error
        self.ended = True

    def as_text(self) -> Iterator[str]:
        """Lines as strings; bytes that are not UTF-8 become lone surrogates."""
        try:
            text = self.file.open_text(self.encoding)
            with io.TextIOWrapper(text, "utf-8", "surrogateescape", "") as stream:
                yield from stream
        except Exception as error:
            self.error = error
        self.ended = True


def _split(name: str) -> tuple[str, str]:
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return (stem, dot + last) if stem else (name, "")
