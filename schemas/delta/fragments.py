"""The Parquet files of a table: how they are named and written, by workers and driver alike."""

import contextlib
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from schemas.errors import UserError

ROW_GROUP_ROWS = 25_000  # viewers refuse larger ones, and random reads want them small
ROW_GROUP_BYTES = 256 << 20
VECTOR_PATH = "embedding.list.element"
KEPT = "kept"  # the task of files that hold the rows that stay of an older file
_PLACE = re.compile(r"\d{19}-")


class OutsideTable(UserError):
    """Error: a table's log names a file outside of the table's folder.

    Whoever wrote such a log may want a private file to be read.
    """


@dataclass(frozen=True)
class Fragment:
    """A Parquet file of a table, committed or not.

    Attributes:
        name: path within the table's folder.
        size_bytes: size of the file.
        n_rows: rows in the file.

    Raises:
        OutsideTable: the name leads out of the table's folder.
    """

    name: str
    size_bytes: int
    n_rows: int

    def __post_init__(self) -> None:
        if self.name.startswith("/") or "://" in self.name or ".." in self.name.split("/"):
            raise OutsideTable(
                f"The table's log names {self.name!r}, a file outside of the table. It is not read."
            )


def exclude(files: Iterable[Fragment], others: Iterable[Fragment]) -> list[Fragment]:
    """The files that are not among the others, in their order."""
    known = set(others)
    return [file for file in files if file not in known]


def new_name(run: str, task: str, instead_of: str = "") -> str:
    """A unique name for a new file: a sort key, the run, the task and a random number.

    A table's files are sorted by name. The sort key is the time in nanoseconds, so that files stand in the
    order in which they were written, which is close to the source's order; a file that is written
    `instead_of` another file gets that file's sort key.
    """
    known = _PLACE.match(instead_of)
    place = known[0] if known else f"{time.time_ns():019}-"
    return f"{place}{run}-{task}-{uuid.uuid4().hex}.parquet"


def is_made_by(name: str, run: str) -> bool:
    """True if a run embedded the rows of a file, rather than copied them from an older file."""
    place = _PLACE.match(name)
    task = name[place.end() :] if place else name
    return task.startswith(f"{run}-") and not task.startswith(f"{run}-{KEPT}-")


def write_rows(fs: pafs.FileSystem, name: str, rows: pa.Table) -> Fragment:
    """Write one file of a table; see `write_tables`."""
    return write_tables(fs, name, rows.schema, [rows])


def write_tables(
    fs: pafs.FileSystem, name: str, schema: pa.Schema, tables: Iterable[pa.Table]
) -> Fragment:
    """Write one Parquet file, which belongs to the table only once the driver commits it.

    Vectors are split into byte streams and go without a dictionary, which compresses them best. No
    more than a row group is held in memory.
    """
    has_vectors = "embedding" in schema.names
    n_rows = 0
    try:
        with (
            fs.open_output_stream(name) as sink,
            pq.ParquetWriter(
                sink,
                schema,
                compression="zstd",
                use_dictionary=[column for column in schema.names if column != "embedding"],
                column_encoding={VECTOR_PATH: "BYTE_STREAM_SPLIT"} if has_vectors else None,
                write_page_index=True,
            ) as writer,
        ):
            for rows in windows(tables, ROW_GROUP_ROWS, ROW_GROUP_BYTES):
                writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
                n_rows += len(rows)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.delete_file(name)  # a full disk is not kept full by half a file
        raise
    return Fragment(name, fs.get_file_info(name).size, n_rows)


def windows(tables: Iterable[pa.Table], n_rows: int, n_bytes: int) -> Iterator[pa.Table]:
    """Cut a stream of tables into tables of `n_rows`, or of fewer rows where these are long.

    Args:
        tables: all of one schema, each of any length.
        n_rows: rows of a table that is yielded, 1 or more.
        n_bytes: a table that is yielded ends where it has reached so many bytes.

    Yields:
        All rows in their order; for tables of 3 and 4 rows and n_rows 5: 5 rows, then 2.
    """
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= n_rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, n_rows)
            waiting = [joined.slice(n_rows)]
        if sum(part.nbytes for part in waiting) >= n_bytes:
            yield pa.concat_tables(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting)
