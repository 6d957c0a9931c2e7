"""JSON lines: each line an object, each key a column.

Keys may be missing in some lines. A column whose values have no common type holds text: strings as they
are, all else as JSON (see `schemas.columns`). `.json` files are read when their lines are objects.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from schemas.columns import json_type
from sources.opening import Lines, SourceFile, ending, not_utf8
from sources.prepare import id_of, prepare, text_of
from sources.rows import MAX_BYTES, MAX_ROWS, Failure, Rows, SourceOptions, short_reason, unread

SAMPLE_ROWS = 1000
Record = dict[str, Any]


class NotAnObject(ValueError):
    """A line that holds no JSON object."""


def jsonl_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """Columns and types of the first thousand lines.

    Raises:
        NotAnObject: The file has lines, and not one of the first thousand is an object.
        OSError: The file cannot be read.
    """
    lines = Lines(file, options.encoding)
    records, error = [], None
    for raw in islice(lines.as_bytes(), SAMPLE_ROWS):
        try:
            if raw.strip():
                records.append(parse_line(raw, options.encoding))
        except NotAnObject as bad:
            error = error or bad
    if not records and (lines.error or error):
        raise lines.error or error  # type: ignore[misc]
    names = dict.fromkeys(name for record in records for name in record)
    return pa.schema([(name, json_type([r.get(name) for r in records])) for name in names])


def read_jsonl(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream the rows of a file; blank lines are no rows and are not counted."""
    records: list[Record] = []
    positions: list[int] = []
    failures: list[Failure] = []
    n_bytes = 0
    position = 0
    lines = Lines(file, options.encoding)
    for number, raw in enumerate(lines.as_bytes(), start=1):
        if not raw.strip():
            continue
        try:
            records.append(parse_line(raw, options.encoding))
            positions.append(position)
        except NotAnObject as error:
            if position == 0 and ending(file.name) == ".json":
                yield unread(file.name, position, f"not one JSON object a line: {error}")
                return
            reason = f"line {number} is not a JSON object: {error}"
            failures.append(Failure(None, None, position, file.name, "read", reason))
        position += 1
        n_bytes += len(raw)
        if len(records) + len(failures) >= MAX_ROWS or n_bytes >= MAX_BYTES:
            yield _prepared(records, positions, failures, file, options)
            records, positions, failures, n_bytes = [], [], [], 0
    if records or failures:
        yield _prepared(records, positions, failures, file, options)
    if lines.error:
        yield unread(file.name, position, lines.error)


def parse_line(raw: bytes, encoding: str = "") -> Record:
    """The object in a line.

    Raises:
        NotAnObject: It holds something else, with the reason.
    """
    try:
        record = json.loads(raw.removeprefix(BOM_UTF8).decode())
        if b"\\u" in raw:
            json.dumps(record, ensure_ascii=False).encode()  # escapes can spell half a character
    except UnicodeDecodeError as error:
        raise NotAnObject(not_utf8(f"it is not UTF-8: byte {error.start}", encoding)) from error
    except UnicodeEncodeError as error:
        raise NotAnObject("half a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise NotAnObject(f"{error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless brackets
        raise NotAnObject(short_reason(error)) from error
    if not isinstance(record, dict):
        raise NotAnObject(f"it holds a {type(record).__name__}")
    return record


def _prepared(
    records: list[Record],
    positions: list[int],
    failures: list[Failure],
    file: SourceFile,
    options: SourceOptions,
) -> Rows:
    """Rows of records; their values are given as they are, for Arrow's types depend on neighbours."""
    names = dict.fromkeys(name for record in records for name in record if options.wants(name))
    columns = {
        name: pa.array((text_of(record.get(name)) for record in records), pa.large_string())
        for name in options.text_column
    }
    if options.id_column is not None and options.id_column not in options.text_column:
        ids = (id_of(record.get(options.id_column)) for record in records)
        columns[options.id_column] = pa.array(ids, pa.large_string())
    return prepare(
        pa.table(columns),
        options,
        file.name,
        positions,
        numbers=file.number,
        values={name: [record.get(name) for record in records] for name in names},
        failures=failures,
    )
