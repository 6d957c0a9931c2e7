"""Open tables of vectors, refuse to compare two spaces, and read vectors in the order of their ids."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runtime.command import table_uri
from schemas.columns import labels_as_text
from schemas.delta.fragments import Fragment, exclude
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint, what_differs
from schemas.vectors import vectors_of

MEMORY_SHARE = 0.25  # of what is free; larger tables lie in a temporary file


@dataclass(frozen=True)
class Vectors:
    """Ids and vectors of a table's rows.

    Attributes:
        ids: n strings in an order that does not depend on how rows lie in files.
        vectors: (n, dim) float32, row i belongs to id i.
    """

    ids: pa.Array
    vectors: np.ndarray


def open_vectors(place: str, options: Mapping[str, str]) -> tuple[Table, Fingerprint]:
    """Open a table of vectors, and read the fingerprint of its model.

    Raises:
        StoreError: there is no such table, or it holds no vectors.
    """
    table = Table.open(table_uri(place), options)
    fingerprint = None if table is None else Fingerprint.of(table.schema)
    if table is None or fingerprint is None:
        raise StoreError(
            f"There is no table of vectors at {place}. `embatch embed SOURCE {place} --model MODEL`"
            " makes one."
        )
    return table, fingerprint


def refuse_two_spaces(place: str, one: Fingerprint, other_place: str, other: Fingerprint) -> None:
    """Refuse to compare vectors of two spaces.

    Raises:
        StoreError: the two tables have different spaces.
    """
    if (one.space, one.dim) != (other.space, other.dim):
        why = f" ({what_differs(one, other)})" if one.model == other.model else ""
        raise StoreError(
            f"{place} holds vectors of {one.model}, {other_place} of {other.model}{why}: two spaces,"
            " whose vectors cannot be compared. Embed both with one model."
        )


def read_vectors(table: Table, dim: int, *, by: str = "id") -> Vectors:
    """Read all vectors of a table, into memory or, if they are many, into a memory-mapped file.

    Args:
        table: of vectors.
        dim: length of a vector.
        by: column of distinct values by which the rows are sorted.
    """
    files = table.files()
    columns = table.read(list({"id", by}))
    ids = columns["id"].combine_chunks()
    order = pc.sort_indices(columns[by].combine_chunks())
    place = np.empty(len(ids), np.int64)
    place[order.to_numpy()] = np.arange(len(ids))
    shape = (len(ids), dim)
    if len(ids) * dim * 4 <= MEMORY_SHARE * psutil.virtual_memory().available:
        vectors = np.empty(shape, np.float32)
    else:
        vectors = np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=shape)
    start = 0
    for file in files:
        part = vectors_of(table.read_file(file.name, ["embedding"])["embedding"])
        vectors[place[start : start + len(part)]] = part
        start += len(part)
    return Vectors(ids.take(order), vectors)


def rows_of_ids(rows: pa.Table, ids: pa.Array) -> pa.Table:
    """Rows in the order of ids; an id without a row gets a row of nulls."""
    return rows.take(pc.index_in(ids, value_set=rows["id"].combine_chunks()))


def labels_of(table: Table, asked: str, ids: pa.Array) -> pa.Array:
    """Labels of rows in the order of ids, n strings; null for a row without a label.

    Args:
        table: of vectors.
        asked: name of the column; empty stands for `label`, which the table may lack.
        ids: n ids of the table.

    Raises:
        StoreError: there is no such column.
        SchemaError: the column holds no labels.
    """
    name = asked or "label"
    if name not in table.schema.names:
        if asked:
            raise StoreError(
                f"{table.uri} has no column {name!r}. It has: {', '.join(table.schema.names)}."
            )
        return pa.nulls(len(ids), pa.string())
    rows = rows_of_ids(table.read(list(dict.fromkeys(["id", name]))), ids)
    return labels_as_text(rows[name].combine_chunks(), name, table.uri)


def changes(table: Table, version: int, dim: int) -> tuple[pa.Array, pa.Array] | None:
    """Ids whose vectors changed since an older version of a table.

    Returns:
        Ids that are new or have a new vector, and ids that are gone or had another vector; None if the
        older version cannot be read any more.
    """
    try:
        past = Table.open(table.uri, table.options, version)
        if past is None:
            return None
        now, then = table.files(), past.files()
        came = _rows_of(table, exclude(now, then), dim)
        went = _rows_of(past, exclude(then, now), dim)
    except (StoreError, OSError):  # vacuumed
        return None
    at = pc.index_in(came["id"], value_set=went["id"].combine_chunks())
    both = np.flatnonzero(at.is_valid().to_numpy())
    partner = at.drop_null().to_numpy()
    ours, theirs = vectors_of(came["embedding"]), vectors_of(went["embedding"])
    same = (ours[both] == theirs[partner]).all(axis=1)
    is_new, is_gone = np.ones(len(came), bool), np.ones(len(went), bool)
    is_new[both[same]] = is_gone[partner[same]] = False
    return (
        came["id"].combine_chunks().filter(pa.array(is_new)),
        went["id"].combine_chunks().filter(pa.array(is_gone)),
    )


def _rows_of(table: Table, files: list[Fragment], dim: int) -> pa.Table:
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), dim))])
    parts = [table.read_file(file.name, schema.names).select(schema.names) for file in files]
    return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])
