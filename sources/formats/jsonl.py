"""JSON files: each object is a row, each key a column; `sources.formats.json_items` lists a file's forms.

Objects may lack keys. A column whose values have no common type holds text: strings as they are, all
else as JSON (see `schemas.cells`).
"""

from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa

from schemas.cells import json_type
from sources.formats.json_items import Items, Record, explain_not_rows
from sources.opening import SourceFile, ending
from sources.prepare import id_of, prepare, text_of
from sources.rows import (
    MAX_BYTES,
    MAX_ROWS,
    Failure,
    Rows,
    SourceError,
    SourceOptions,
    file_failure,
)

SAMPLE_ROWS = 1000


def jsonl_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """Columns and types of the first thousand objects.

    Raises:
        SourceError: The file is one object that holds a table, not a row.
        Exception: The file cannot be read, or none of its first thousand items is an object.
    """
    items = Items(file, options.encoding)
    sample = list(islice(items, SAMPLE_ROWS))
    records = [item.record for item in sample if item.record is not None]
    if not records and items.error:
        raise items.error
    if not records and sample:
        raise ValueError(sample[0].reason)
    if _is_only(file, len(sample), records) and (why := explain_not_rows(records[0], options)):
        raise SourceError(why)
    names = dict.fromkeys(name for record in records for name in record)
    return pa.schema([(name, json_type([r.get(name) for r in records])) for name in names])


def read_jsonl(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream the rows of a file; blank lines are no rows and are not counted."""
    records: list[Record] = []
    positions: list[int] = []
    failures: list[Failure] = []
    n_bytes = 0
    position = 0
    items = Items(file, options.encoding)
    rest = iter(items)
    first = list(islice(rest, 2))
    only = [item.record for item in first if item.record is not None]
    if _is_only(file, len(first), only) and (why := explain_not_rows(only[0], options)):
        yield file_failure(file.name, position, why)
        return
    for item in chain(first, rest):
        if item.record is not None:
            records.append(item.record)
            positions.append(position)
        else:
            failures.append(Failure(None, None, position, file.name, "read", item.reason))
        position += 1
        n_bytes += item.n_bytes
        if len(records) + len(failures) >= MAX_ROWS or n_bytes >= MAX_BYTES:
            yield _prepare_records(records, positions, failures, file, options)
            records, positions, failures, n_bytes = [], [], [], 0
    if records or failures:
        yield _prepare_records(records, positions, failures, file, options)
    if items.error:
        yield file_failure(file.name, position, items.error)


def _is_only(file: SourceFile, n_items: int, records: list[Record]) -> bool:
    """True if a .json file is one object alone, which may be something else than a row."""
    return ending(file.name) == ".json" and n_items == len(records) == 1


def _prepare_records(
    records: list[Record],
    positions: list[int],
    failures: list[Failure],
    file: SourceFile,
    options: SourceOptions,
) -> Rows:
    """Prepare rows from objects. Values stay Python values, since Arrow would infer types from neighbours."""
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
