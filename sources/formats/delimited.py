"""CSV and TSV files. All columns are strings, so that a column means the same in every part of every file.

Fields may be quoted and hold newlines. A first line `sep=;`, as Excel writes it, names the delimiter of
its file. Bytes that are no text in the file's encoding fail their row alone. Of two columns with one name
the second becomes name_2; a column that was asked for by name may occur once only.
"""

import csv
import itertools
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from sources.opening import Lines, SourceFile, ending
from sources.prepare import prepare
from sources.rows import (
    MAX_BYTES,
    MAX_ROWS,
    Failure,
    Rows,
    SourceError,
    SourceOptions,
    file_failure,
)

FIELD_LIMIT = 1 << 30
"""Characters in one field. Python's own limit is 131,072; one is needed where a quote never ends."""
TOLD_DELIMITER = re.compile(r'"?sep=(.)"?[\r\n]*$', re.IGNORECASE)


def delimited_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The columns in the header of a file, all strings.

    Raises:
        SourceError: The delimiter is another one, or a column that was asked for occurs twice.
        Exception: The file cannot be read.
    """
    table = _OpenFile(file, options)
    first: list[str] = next((row for row in table.reader if row), [])
    if table.lines.error:
        raise table.lines.error
    if first and (mistake := table.mistake(first)):
        raise SourceError(mistake)
    return pa.schema((name, pa.string()) for name in _header(first, options.no_header))


def read_delimited(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream the rows of a file; empty lines are no rows and are not counted."""
    table = _OpenFile(file, options)
    lines, reader = table.lines, table.reader
    header: list[str] = []
    rows: list[list[str]] = []
    positions: list[int] = []
    failures: list[Failure] = []
    n_chars = 0
    lost: Exception | str | None = None
    start, position = 1 + table.n_skipped, 0

    def prepare_rows() -> Rows:
        return prepare(
            _columns(header, rows, options),
            options,
            file.name,
            positions,
            numbers=file.number,
            is_text_file=True,
            failures=failures,
        )

    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            lost = f"line {reader.line_num + table.n_skipped}: {error}"
            break
        if row is None or lines.ended:  # a row that ends with the file ended inside a quote
            lost = lines.error or (f"line {start}: a quote is never closed" if row else None)
            break
        line = reader.line_num + table.n_skipped
        start = line + 1
        if not row:
            continue
        if not header:
            header = _header(row, options.no_header)
            if lost := table.mistake(row) or options.describe_missing(header):
                break
            if not options.no_header:
                continue
        if len(row) == len(header):
            rows.append(row)
            positions.append(position)
            n_chars += sum(map(len, row))
        else:
            reason = f"line {line} has {len(row)} fields, not {len(header)}"
            failures.append(Failure(None, None, position, file.name, "read", reason))
        position += 1
        if len(rows) + len(failures) >= MAX_ROWS or n_chars >= MAX_BYTES:
            yield prepare_rows()
            rows, positions, failures, n_chars = [], [], [], 0
    if rows or failures:
        yield prepare_rows()
    if lost:
        yield file_failure(file.name, position, lost)


class _OpenFile:
    """A delimited file that is being read.

    Attributes:
        lines: The lines of the file.
        reader: Iterates over the rows, each a list of fields.
        n_skipped: Number of lines before the first line that the reader counts.
    """

    def __init__(self, file: SourceFile, options: SourceOptions) -> None:
        csv.field_size_limit(FIELD_LIMIT)
        self.options = options
        self.lines = Lines(file, options.encoding)
        self.delimiter = options.delimiter.replace("\\t", "\t")
        self._has_tabs = self.delimiter == "," and ending(file.name) == ".tsv"
        if self._has_tabs:
            self.delimiter = "\t"
        self.n_skipped = 0
        text = self.lines.as_text()
        self._first = next(text, "")
        if told := TOLD_DELIMITER.match(self._first):
            self.delimiter = told[1]
            self.n_skipped, self._first = 1, next(text, "")
        while self._first and not self._first.strip("\r\n"):
            self.n_skipped, self._first = self.n_skipped + 1, next(text, "")
        lines = itertools.chain([self._first], text)
        self.reader = (
            csv.reader(lines, delimiter=self.delimiter, quotechar=options.quote)
            if options.quote
            else csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        )

    def mistake(self, first: list[str]) -> str | None:
        """A mistake in the first row that the user can mend, in words; None if there is none."""
        options = self.options
        is_quoted = options.quote and self._first.lstrip().startswith(options.quote)
        if len(first) == 1 and not is_quoted:
            # A comma is a delimiter in a header alone: sentences hold it.
            known = ";\t|" if options.no_header else ";\t|,"
            others = [mark for mark in known if mark != self.delimiter and mark in first[0]]
            if others:
                mark = max(others, key=first[0].count)
                way = f"Name what parts them: --delimiter {mark!r}"
                if self._has_tabs and mark == ",":
                    way = "If that parts them, let its name end in .csv"
                return (
                    f"it has one column if {self.delimiter!r} parts the fields, and its first line "
                    f"holds {mark!r}. {way}. If each line is one text: --lines"
                )
        titles = [] if options.no_header else [title.strip() for title in first]
        asked = (*(options.own_columns or ("text",)), *(options.columns or ()))
        if twice := next((name for name in asked if titles.count(name) > 1), None):
            return f"it has {titles.count(twice)} columns {twice!r}. Rename all but the one that is meant"
        return None


def _header(row: list[str], no_header: bool) -> list[str]:
    """Names of the columns: column_N for an empty name or without a header, name_2 for a second one."""
    names: list[str] = []
    for number, title in enumerate(row, start=1):
        name = f"column_{number}" if no_header or not title.strip() else _clean(title.strip())
        while name in names:
            name = f"{name}_2"
        names.append(name)
    return names


def _columns(header: list[str], rows: list[list[str]], options: SourceOptions) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return pa.table(
        {
            name: _strings(column)
            for name, column in zip(header, columns, strict=True)
            if options.needs(name)
        }
    )


def _strings(values: Sequence[str]) -> pa.Array:
    try:
        return pa.array(values, pa.large_string())
    except UnicodeEncodeError:  # lone surrogates: back to the bytes they were, for prepare to judge
        encoded = pa.array(
            (v.encode("utf-8", "surrogateescape") for v in values), pa.large_binary()
        )
        return encoded.cast(pa.large_string(), safe=False)


def _clean(title: str) -> str:
    return title.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
