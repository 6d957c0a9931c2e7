"""CSV and TSV. All columns stay strings: a column means the same in every stretch of every file.

Fields may be quoted and hold newlines. Bytes that are not UTF-8 fail their row alone.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sources.opening import Lines, SourceFile, ending
from sources.prepare import prepare
from sources.rows import MAX_BYTES, MAX_ROWS, Failure, Rows, SourceOptions, unread

if TYPE_CHECKING:
    from _csv import Reader

FIELD_LIMIT = 1 << 30
"""Characters in one field. Python's own limit is 131,072; one is needed where a quote never ends."""


def delimited_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The columns of the header, all strings.

    Raises:
        Exception: The file cannot be read.
    """
    lines = Lines(file)
    first: list[str] = next((row for row in _reader(lines, options) if row), [])
    if lines.error:
        raise lines.error
    return pa.schema((name, pa.string()) for name in _header(first, options.no_header))


def read_delimited(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream the rows of a file; empty lines are no rows and are not counted."""
    lines = Lines(file)
    reader = _reader(lines, options)
    header: list[str] = []
    rows: list[list[str]] = []
    positions: list[int] = []
    failures: list[Failure] = []
    n_chars = 0
    lost: Exception | str | None = None
    start, position = 1, 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            lost = f"line {reader.line_num}: {error}"
            break
        if row is None or lines.ended:  # a row that ends with the file ended inside a quote
            lost = lines.error or (f"line {start}: a quote is never closed" if row else None)
            break
        start = reader.line_num + 1
        if not row:
            continue
        if not header:
            header = _header(row, options.no_header)
            if lost := options.lack(header):
                break
            if not options.no_header:
                continue
        if len(row) == len(header):
            rows.append(row)
            positions.append(position)
            n_chars += sum(map(len, row))
        else:
            reason = f"line {reader.line_num} has {len(row)} fields, not {len(header)}"
            failures.append(Failure(None, None, position, file.name, "read", reason))
        position += 1
        if len(rows) + len(failures) >= MAX_ROWS or n_chars >= MAX_BYTES:
            table = _table(header, rows, options)
            yield prepare(
                table, options, file.name, positions, numbers=file.number, failures=failures
            )
            rows, positions, failures, n_chars = [], [], [], 0
    if rows or failures:
        table = _table(header, rows, options)
        yield prepare(table, options, file.name, positions, numbers=file.number, failures=failures)
    if lost:
        yield unread(file.name, position, lost)


def _reader(lines: Lines, options: SourceOptions) -> "Reader":
    csv.field_size_limit(FIELD_LIMIT)
    delimiter = options.delimiter.replace("\\t", "\t")
    if delimiter == "," and ending(lines.file.name) == ".tsv":
        delimiter = "\t"
    if not options.quote:
        return csv.reader(lines.as_text(), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines.as_text(), delimiter=delimiter, quotechar=options.quote)


def _header(row: list[str], no_header: bool) -> list[str]:
    """Names of the columns: column_N where one is empty or there are none, name_2 for a second."""
    names: list[str] = []
    for number, title in enumerate(row, start=1):
        name = f"column_{number}" if no_header or not title.strip() else _clean(title.strip())
        while name in names:
            name = f"{name}_2"
        names.append(name)
    return names


def _table(header: list[str], rows: list[list[str]], options: SourceOptions) -> pa.Table:
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
