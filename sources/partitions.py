"""Partition columns: values for all rows below a folder, read from its name, `lang=de/year=2024/…`.

Values are strings, decoded from the URL encoding of names; Hive's word for null is null. Where the id of a
row is the hash of its content, the id becomes the hash of its partition and its content: equal texts in
two partitions are two rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from urllib.parse import unquote

import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from sources.row_hash import canonical_bytes, hash_column
from sources.rows import PREPARED_FIELDS, Piece, Rows

NULL = "__HIVE_DEFAULT_PARTITION__"
NONE: Mapping[str, object] = {}
_TAKEN = {"image", *(field.name for field in PREPARED_FIELDS)}


def partition_of(name: str) -> Mapping[str, object]:
    """The values of partition columns for a file, read from the file's name relative to SOURCE.

    For `lang=de/day=2024%2D01/a.csv`: {"lang": "de", "day": "2024-01"}.
    """
    folder = name.rpartition("/")[0]
    return _partition_of_folder(folder) if "=" in folder else NONE


@lru_cache(maxsize=1024)
def _partition_of_folder(folder: str) -> Mapping[str, object]:
    pairs = (part.partition("=") for part in folder.split("/"))
    found = {unquote(key): unquote(value) for key, mark, value in pairs if key and mark}
    return {key: None if value == NULL else value for key, value in found.items()} or NONE


def partition_columns(partitions: Iterable[Mapping[str, object]]) -> pa.Schema:
    """The columns of several partitions, in order of appearance, as strings."""
    names = dict.fromkeys(chain.from_iterable(filter(None, partitions)))
    return pa.schema((name, pa.string()) for name in names)


def assign_partitions(
    pieces: Iterable[Piece], partitions: Mapping[str, Mapping[str, object]]
) -> Iterator[Piece]:
    """The pieces with the partitions of their files; the pieces as they are if no partitions are given."""
    for piece in pieces:
        if partitions:
            piece = replace(piece, partitions=tuple(partitions[name] for name in piece.files))
        yield piece


def append_partitions(rows: Rows, piece: Piece, columns: pa.Schema, *, by_content: bool) -> Rows:
    """Rows with the partition columns of their files appended.

    Args:
        rows: Rows of a piece, as `prepare` returned them.
        piece: The piece, with the partition of each file.
        columns: Columns to append; if the file has a column of the same name, that one stays.
        by_content: Ids are hashes of the content, and become hashes of partition and content.
    """
    table = rows.table
    files = table["piece_file"].to_numpy()
    hashes = table["row_hash"].to_numpy()
    for field in columns:
        name = field.name
        while name in _TAKEN:
            name = f"source_{name}"
        if name in table.column_names:
            continue
        values = [partition.get(field.name) for partition in piece.partitions]
        hashes = hashes + hash_column(field.name, values)[files]
        column = pa.array(values, field.type).take(pa.array(files))
        table = table.append_column(pa.field(name, field.type), column)
    table = _replace_column(table, "row_hash", pa.array(hashes, pa.uint64()))
    if not by_content:
        return rows._replace(table=table)
    number = {name: number for number, name in enumerate(piece.files)}
    failed = [number[name] for name in rows.failures["source_file"].to_pylist()]
    return rows._replace(
        table=_with_ids(table, files.tolist(), piece),
        failures=_with_ids(rows.failures, failed, piece),
    )


def _with_ids(table: pa.Table, files: list[int], piece: Piece) -> pa.Table:
    """The table with hashes of partition and content in place of ids that are hashes of the content."""
    starts = [canonical_bytes(partition) if partition else b"" for partition in piece.partitions]

    def new(content: str | None, start: bytes) -> str | None:
        if content is None or not start:
            return content
        return xxh3_128_hexdigest(start + bytes.fromhex(content))

    pairs = zip(table["id"].to_pylist(), files, strict=True)
    return _replace_column(
        table, "id", pa.array([new(id_, starts[file]) for id_, file in pairs], pa.string())
    )


def _replace_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
