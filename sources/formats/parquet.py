"""Parquet files, cut into pieces of whole row groups; only the columns that are needed are read."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from sources.class_names import class_names, with_class_names
from sources.opening import SourceFile
from sources.prepare import prepare
from sources.rows import (
    MAX_BYTES,
    MAX_ROWS,
    Piece,
    Rows,
    SourceOptions,
    failure_reason,
    file_failure,
)

PIECE_BYTES = 64 << 20
PIECE_ROWS = 100_000


def parquet_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The columns of a file; a column of class numbers that `datasets` wrote is one of strings, their names.

    Raises:
        Exception: The file cannot be read.
    """
    with file.open(jumps=True) as stream, pq.ParquetFile(stream) as parquet:
        schema = parquet.schema_arrow
        for column in class_names(schema):
            schema = schema.set(schema.get_field_index(column), pa.field(column, pa.string()))
        return schema


def parquet_parts(file: SourceFile) -> list[Piece]:
    """Cut a file into parts of whole row groups, each with its uncompressed size in bytes.

    A part ends before the row group that would carry it over 64 MB or 100,000 rows. Empty where
    the file has no row groups.

    Raises:
        Exception: The file cannot be read.
    """
    parts: list[Piece] = []
    with file.open(jumps=True) as stream, pq.ParquetFile(stream) as parquet:
        start = first_row = n_bytes = n_rows = 0
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            over = (
                n_bytes + group.total_byte_size > PIECE_BYTES
                or n_rows + group.num_rows > PIECE_ROWS
            )
            if over and number > start:
                parts.append(Piece((file.name,), n_bytes, (start, number), first_row))
                start, first_row = number, first_row + n_rows
                n_bytes = n_rows = 0
            n_bytes += group.total_byte_size
            n_rows += group.num_rows
        if parquet.num_row_groups:
            parts.append(Piece((file.name,), n_bytes, (start, parquet.num_row_groups), first_row))
    return parts


def read_parquet(
    file: SourceFile,
    options: SourceOptions,
    part: tuple[int, int] | None = None,
    position: int = 0,
    absent: Iterable[pa.Field] = (),
) -> Iterator[Rows]:
    """Stream the rows of a file or of some row groups; a bad row group costs no other its rows.

    Args:
        file: The file to read.
        options: Which columns are which.
        part: Row groups [start, stop); None is all.
        position: Position of the part's first row.
        absent: Columns that are null where the file lacks them.
    """
    try:
        stream = file.open(jumps=True)
    except Exception as error:  # each file system has errors of its own
        yield file_failure(file.name, position, error)
        return
    with stream:
        try:
            parquet = pq.ParquetFile(
                stream, pre_buffer=file.is_far, page_checksum_verification=True
            )
            names, classes = parquet.schema_arrow.names, class_names(parquet.schema_arrow)
        except Exception as error:
            yield file_failure(file.name, position, error)
            return
        lacking = [f for f in absent if f.name not in names and options.needs(f.name)]
        if lack := options.describe_missing([*names, *(field.name for field in lacking)]):
            yield file_failure(file.name, position, lack)
            return
        wanted = [name for name in names if options.needs(name)]
        for number in range(*(part or (0, parquet.num_row_groups))):
            group = parquet.metadata.row_group(number)
            row_bytes = group.total_byte_size // max(group.num_rows, 1) + 1
            size = max(1, min(MAX_ROWS, MAX_BYTES // row_bytes))
            first = position
            try:
                for batch in parquet.iter_batches(size, [number], wanted, use_threads=False):
                    table = with_class_names(pa.Table.from_batches([batch]), classes)
                    for field in lacking:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                    positions = range(first, first + len(table))
                    yield prepare(table, options, file.name, positions, numbers=file.number)
                    first += len(table)
            except Exception as error:
                yield file_failure(file.name, first, f"row group {number}: {failure_reason(error)}")
            position += group.num_rows
