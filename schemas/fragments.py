"""The Parquet files of a table: how they are named and written, by workers and driver alike."""

import contextlib
import uuid
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 25_000  # viewers refuse larger ones, and random reads want them small
KEPT = "kept"  # the task of files that hold the rows that stay of an older file


@dataclass(frozen=True)
class Fragment:
    """A Parquet file of a table, committed or not."""

    name: str
    size_bytes: int
    n_rows: int


def new_name(run: str, task: str) -> str:
    """A name that no other file has: the run, the task, and a fresh number of the attempt."""
    return f"{run}-{task}-{uuid.uuid4().hex}.parquet"


def is_made_by(name: str, run: str) -> bool:
    """Whether a run wrote this file and embedded its rows, rather than kept them."""
    return name.startswith(f"{run}-") and not name.startswith(f"{run}-{KEPT}-")


def write_rows(fs: pafs.FileSystem, name: str, rows: pa.Table) -> Fragment:
    """Write one file of a table; it belongs to the table only once the driver commits it.

    Vectors are split into byte streams and go without a dictionary, which compresses them best.
    """
    vector = "embedding.list.element"
    try:
        with fs.open_output_stream(name) as sink:
            pq.write_table(
                rows,
                sink,
                compression="zstd",
                row_group_size=ROW_GROUP_ROWS,
                use_dictionary=[column for column in rows.column_names if column != "embedding"],
                column_encoding={vector: "BYTE_STREAM_SPLIT"}
                if "embedding" in rows.column_names
                else None,
                write_page_index=True,
            )
    except BaseException:
        with contextlib.suppress(OSError):
            fs.delete_file(name)  # a full disk is not kept full by half a file
        raise
    return Fragment(name, fs.get_file_info(name).size, len(rows))
