"""Write a table as one Parquet file for pandas, Polars, DuckDB, datasets or embedding-atlas.

    embatch export tables/articles articles.parquet
    embatch export tables/articles atlas.parquet --for atlas --map tables/map --neighbours tables/near

The columns of hashes are left out; vectors are lists of fixed size. About 200 MB/s. For Apple's
embedding-atlas the file holds the points of a map, and neighbours if they are given, instead of the vectors.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro

from jobs.runtime.command import TableOptions, run_command, storage_options, table_uri
from jobs.runtime.progress import Progress
from schemas.cells import cast_column
from schemas.delta.formats import is_of_kind, upgrade_rows
from schemas.delta.fragments import ROW_GROUP_ROWS
from schemas.delta.rewriting import fixed_size
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from schemas.tables.embeddings import Fingerprint
from schemas.tables.neighbours import NEIGHBOURS, neighbours_of
from schemas.tables.projections import projection_schema

_INNER = ("content_hash", "row_hash")


@dataclass(frozen=True)
class ExportConfig(TableOptions):
    """The table to export, and the file to write.

    Attributes:
        file: the Parquet file to write; an old one is replaced when the new one is complete
        for_: program that will open the file: any that reads tables, or embedding-atlas
        map: table of points of the rows, made by `embatch project`
        neighbours: table of neighbours of the rows, made by `embatch neighbours`
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.parquet")] = (
        "table.parquet"
    )
    for_: Annotated[Literal["tables", "atlas"], tyro.conf.arg(name="for")] = "tables"
    map: Annotated[str, tyro.conf.arg(metavar="MAP", help_behavior_hint="")] = ""
    neighbours: Annotated[str, tyro.conf.arg(metavar="TABLE", help_behavior_hint="")] = ""

    def __post_init__(self) -> None:
        if (self.for_ == "atlas") != bool(self.map):
            raise UsageError("--for atlas and --map go together: the points to show.")
        if self.neighbours and not self.map:
            raise UsageError("--neighbours are shown on a map. Add --for atlas --map.")
        if "://" in self.file:
            raise UsageError(
                f"FILE is {self.file}, expected a file of this machine. Copy it on from here."
            )


@dataclass(frozen=True)
class ExportSummary:
    """File, number of rows, size of the export, and version of the table."""

    file: str
    rows: int
    size_bytes: int
    table_version: int


def run(config: ExportConfig) -> ExportSummary:
    """Write the rows of the table into the file.

    Raises:
        StoreError: there is no such table.
        OSError: the file cannot be written.
    """
    table = config.open()
    if config.for_ == "atlas":
        with _replace_when_complete(config.file) as partial:
            pq.write_table(_atlas(table, config), partial, row_group_size=ROW_GROUP_ROWS)
    else:
        _export(table, config)
    n_rows = pq.read_metadata(config.file).num_rows
    return ExportSummary(config.file, n_rows, os.path.getsize(config.file), table.version)


def _export(table: Table, config: ExportConfig) -> None:
    import datasets

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
    with _replace_when_complete(config.file) as partial:
        _write(table, partial, schema, quiet=config.json)


@contextlib.contextmanager
def _replace_when_complete(path: str) -> Iterator[str]:
    """Yield the path of a temporary file, which replaces the file at `path` when it is complete."""
    partial = f"{path}.partial"
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _atlas(table: Table, config: ExportConfig) -> pa.Table:
    """Table for embedding-atlas: rows, their points on a map, and neighbours as indices of rows."""
    options = storage_options(config.storage_option)
    rows = table.read([name for name in table.schema.names if name not in (*_INNER, "embedding")])
    ids = rows["id"].combine_chunks()
    points = Table.open(table_uri(config.map), options)
    if points is None or not is_of_kind(points.schema, projection_schema(2)):
        raise StoreError(
            f"{config.map} is no map of two dimensions, as `embatch project` makes it."
        )
    mapped = upgrade_rows(points.read(), projection_schema(2))
    at = pc.index_in(ids, value_set=mapped["id"].combine_chunks())
    if at.null_count:
        raise StoreError(
            f"{at.null_count:,} rows of {config.table} are not on {config.map}. `embatch project"
            f" {config.table} {config.map}` brings it up to date."
        )
    for axis in ("x", "y"):
        rows = rows.append_column(f"projection_{axis}", mapped[axis].take(at).cast(pa.float64()))
    if config.neighbours:
        near = Table.open(table_uri(config.neighbours), options)
        if near is None or not is_of_kind(near.schema, NEIGHBOURS):
            raise StoreError(f"{config.neighbours} is no table that `embatch neighbours` makes.")
        pairs = upgrade_rows(near.read(), NEIGHBOURS)
        k = int(pc.max(pairs["rank"]).as_py() or 0)
        indices, similarities = neighbours_of(pairs, ids, ids, k)
        known = indices >= 0
        offsets = pa.array(np.concatenate([[0], known.sum(axis=1).cumsum()]).astype(np.int32))
        lists = (indices[known], 1 - similarities[known])
        parts = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists]
        rows = rows.append_column(
            "neighbors", pa.StructArray.from_arrays(parts, ["ids", "distances"])
        )
    return rows


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
    line = f"{summary.file}: {summary.rows:,} rows, {size}, version {summary.table_version}"
    if config.for_ != "atlas":
        return line
    near = " --neighbors neighbors" if config.neighbours else ""
    axes = "--x projection_x --y projection_y"
    return f"{line}\n\n    embedding-atlas {summary.file} --text text {axes}{near}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(ExportConfig, "export", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
