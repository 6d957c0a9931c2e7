"""Write a table as one Parquet file that pandas, Polars, DuckDB and datasets open as it is.

    embatch export tables/articles articles.parquet

The hashes that a sync compares are left out; vectors are lists of fixed size. About 200 MB/s.
"""

import os
import sys
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from jobs.options import TableOptions, run_command
from jobs.progress import Progress
from jobs.waves import fixed_size
from schemas.columns import cast_column
from schemas.embeddings import Fingerprint
from schemas.fragments import ROW_GROUP_ROWS
from schemas.store import Table

_INNER = ("content_hash", "row_hash")


@dataclass(frozen=True)
class ExportConfig(TableOptions):
    """Which table, and where to.

    Attributes:
        file: the Parquet file to write; one that is there is replaced when the new one is complete
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.parquet")] = (
        "table.parquet"
    )


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    file: str
    rows: int
    size_bytes: int
    table_version: int


def run(config: ExportConfig) -> ExportSummary:
    """Copy the rows file by file.

    Raises:
        StoreError: there is no such table.
        OSError: the file cannot be written.
    """
    import datasets

    table = config.open()
    fingerprint = Fingerprint.of(table.schema)
    assert fingerprint is not None  # open() checked
    vector = pa.list_(pa.float32(), fingerprint.dim)
    fields = [
        pa.field(field.name, vector if field.name == "embedding" else field.type)
        for field in table.schema
        if field.name not in _INNER
    ]
    schema = datasets.Features.from_arrow_schema(pa.schema(fields)).arrow_schema
    schema = schema.with_metadata(
        {**(schema.metadata or {}), **{k: v.encode() for k, v in fingerprint.metadata().items()}}
    )
    partial = f"{config.file}.partial"
    try:
        _write(table, partial, schema, quiet=config.json)
        os.replace(partial, config.file)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    n_rows = pq.read_metadata(config.file).num_rows
    return ExportSummary(config.file, n_rows, os.path.getsize(config.file), table.version)


def _write(table: Table, path: str, schema: pa.Schema, *, quiet: bool) -> None:
    files = table.files()
    with Progress("export", len(files), "files", quiet=quiet) as progress:
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True) as writer:
            for file in files:
                rows = fixed_size(table.read_file(file.name))
                columns = [
                    cast_column(rows[field.name], field.type)
                    if field.name in rows.column_names
                    else pa.nulls(len(rows), field.type)
                    for field in schema
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP_ROWS)
                progress.add(1)


def _text(config: ExportConfig, summary: ExportSummary) -> str:
    size = f"{summary.size_bytes / 1e6:,.1f} MB"
    return f"{summary.file}: {summary.rows:,} rows, {size}, version {summary.table_version}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(ExportConfig, "export", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
