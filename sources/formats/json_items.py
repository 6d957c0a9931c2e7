"""The objects of a JSON file: one a line, in one array, or one after another over many lines.

A `.json` file may have any of these forms, and its first lines tell which; files of other endings have an
object a line. Only one object at a time is in memory; an object over many lines has OBJECT_CHARS at most.
"""

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, NamedTuple

from sources.opening import CHUNK_BYTES, Lines, SourceFile, ending, explain_not_utf8
from sources.rows import SourceError, SourceOptions, failure_reason

OBJECT_CHARS = 64 << 20
MAX_DEPTH = 200
"""Of lists and objects within each other. Python's own stack holds a thousand calls."""
FORMS = "Expected JSON objects: one a line, in an array, or one after another"
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
Record = dict[str, Any]


class Item(NamedTuple):
    """One item of a JSON file: an object, or the reason why it is no object."""

    record: Record | None
    reason: str
    n_bytes: int


class NotAnObject(ValueError):
    """Error: an item holds no JSON object."""


class Items:
    """The items of a JSON file, up to its end or its first error, which is kept.

    Attributes:
        error: The error that ended the file early, None if there was none.
    """

    def __init__(self, file: SourceFile, encoding: str = "") -> None:
        self.file, self.encoding = file, encoding
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Item]:
        """Iterate over the items in order; blank lines are no items."""
        try:
            in_lines = ending(self.file.name) != ".json" or _has_lines(self.file, self.encoding)
        except Exception as error:  # each file system has errors of its own
            self.error = error
            return
        yield from self._lines() if in_lines else self._values()

    def _lines(self) -> Iterator[Item]:
        lines = Lines(self.file, self.encoding)
        for number, raw in enumerate(lines.as_bytes(), start=1):
            if not raw.strip():
                continue
            try:
                yield Item(parse_line(raw, self.encoding), "", len(raw))
            except NotAnObject as error:
                yield Item(None, f"line {number} is not a JSON object: {error}", len(raw))
        self.error = lines.error

    def _values(self) -> Iterator[Item]:
        try:
            stream = self.file.open_text(self.encoding)
            with io.TextIOWrapper(stream, "utf-8", "surrogateescape", "") as text:
                for number, (value, written) in enumerate(_values(text), start=1):
                    try:
                        yield Item(_check_object(value, written, self.encoding), "", len(written))
                    except NotAnObject as error:
                        reason = f"item {number} is not a JSON object: {error}"
                        yield Item(None, reason, len(written))
        except Exception as error:
            self.error = error


def parse_line(raw: bytes, encoding: str = "") -> Record:
    """Parse a line that holds a JSON object.

    Raises:
        NotAnObject: The line holds something else; the message says what.
    """
    try:
        written = raw.removeprefix(BOM_UTF8).decode()
        value = json.loads(written)
    except UnicodeDecodeError as error:
        raise NotAnObject(
            explain_not_utf8(f"it is not UTF-8: byte {error.start}", encoding)
        ) from error
    except json.JSONDecodeError as error:
        raise NotAnObject(f"{error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless brackets
        raise NotAnObject(failure_reason(error)) from error
    return _check_object(value, written, encoding)


def explain_not_rows(record: Record, options: SourceOptions) -> str | None:
    """What a file's only object holds, in words, if it is a table of rows or columns; None if it is a row."""
    texts = [record.get(name) for name in options.text_column or ("text",)]
    nested = [name for name, value in record.items() if isinstance(value, list | dict)]
    rows = [
        name
        for name in nested
        if isinstance(record[name], list) and any(isinstance(item, dict) for item in record[name])
    ]
    if rows and all(text is None for text in texts):
        return f"its only object holds rows in {rows[0]!r}. {FORMS} (jq '.{rows[0]}[]')"
    is_table = len(nested) == len(record) > 0
    if is_table or any(isinstance(text, list | dict) for text in texts):
        return f"its only object holds columns. {FORMS} (in pandas: orient='records')"
    return None


def _has_lines(file: SourceFile, encoding: str) -> bool:
    """True if one of the first two lines, apart from blank lines and {}, is an object by itself."""
    with file.open_text(encoding) as stream:
        head = stream.peek(CHUNK_BYTES)[:CHUNK_BYTES]  # type: ignore[attr-defined]
        if head.lstrip().startswith(b"["):  # perhaps a long array in one line
            return False
        telling = (line for line in stream if line.strip() not in (b"", b"{}"))
        for line in islice(telling, 2):
            try:
                parse_line(line)
            except NotAnObject:
                continue
            return True
    return False


def _check_object(value: object, written: str, encoding: str) -> Record:
    if not isinstance(value, dict):
        raise NotAnObject(f"it holds a {type(value).__name__}")
    if written.count("[") + written.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise NotAnObject(f"it is nested more than {MAX_DEPTH} deep")
    try:
        written.encode()
    except UnicodeEncodeError as error:
        at = len(written[: error.start].encode())
        raise NotAnObject(explain_not_utf8(f"it is not UTF-8: byte {at}", encoding)) from error
    try:
        if "\\u" in written:  # escapes can spell half a character
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotAnObject("half a surrogate pair") from error
    return value


def _is_deeper(value: object, n_levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return n_levels == 0 or any(_is_deeper(item, n_levels - 1) for item in value)


def _values(text: IO[str]) -> Iterator[tuple[object, str]]:
    """The values of an array, or values that follow each other, each with its text in the file.

    Raises:
        SourceError: The text is no JSON, or its array has no end.
        OSError: The file cannot be read any further.
    """
    reader = _TextReader(text)
    is_array = reader.mark() == "["
    if is_array:
        reader.skip()
    n_values = 0
    while mark := reader.mark():
        if is_array and mark == "]":
            reader.skip()
            if reader.mark():
                raise reader.wrong("more follows the end of the array")
            return
        if is_array and n_values:
            if mark != ",":
                raise reader.wrong("a comma or the end of the array is missing")
            reader.skip()
            reader.mark()
        yield reader.value()
        n_values += 1
    if reader.error:
        raise reader.error
    if is_array:
        raise reader.wrong("the array has no end: the file was cut off")


class _TextReader:
    """The part of a text that is not parsed yet, of which a stretch is in memory.

    Attributes:
        error: The error that ended the text early, None if there was none.
    """

    def __init__(self, text: IO[str]) -> None:
        self.error: Exception | None = None
        self._text = text
        self._buffer, self._at = "", 0
        self._n_before = 0  # characters before the buffer
        self._ended = self._has_values = False

    def mark(self) -> str:
        """Return the next character that is not white space, without taking it; empty at the end."""
        while True:
            found = _WHITESPACE.match(self._buffer, self._at)
            assert found is not None  # it may be empty
            self._at = found.end()
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._more()

    def skip(self) -> None:
        """Take one character."""
        self._at += 1

    def value(self) -> tuple[object, str]:
        """Take one JSON value; return it with its text in the file.

        Raises:
            SourceError: The text is no JSON, or the value is too long.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or self._ended:  # else a number may go on
                    break
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self.error or self.wrong(error.msg, error.pos) from error
                if len(self._buffer) - self._at > OBJECT_CHARS:
                    why = f"no JSON value, or one of more than {OBJECT_CHARS >> 20} MB"
                    raise self.wrong(why) from error
            except (ValueError, RecursionError) as error:
                raise self.wrong(failure_reason(error)) from error
            self._more()
        written, self._at, self._has_values = self._buffer[self._at : end], end, True
        return value, written

    def wrong(self, why: str, at: int | None = None) -> SourceError:
        """The error for a character that does not belong where it stands."""
        place = self._n_before + (self._at if at is None else at)
        expected = "" if self._has_values else f". {FORMS}"
        return SourceError(f"{why[0].lower()}{why[1:]} at character {place:,}{expected}")

    def _more(self) -> None:
        """Read more text, twice as much each time, so that a long value is not parsed too often."""
        parts = [self._buffer[self._at :]]
        n_wanted = max(CHUNK_BYTES, len(parts[0]))
        while n_wanted > 0 and not self._ended:
            try:
                part = self._text.read(CHUNK_BYTES)
            except Exception as error:  # what came before it counts
                self.error, part = error, ""
            parts.append(part)
            self._ended = not part
            n_wanted -= len(part)
        self._n_before, self._at, self._buffer = self._n_before + self._at, 0, "".join(parts)
