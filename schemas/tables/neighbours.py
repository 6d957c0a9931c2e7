"""The neighbours table: for each row of one table, the rows of another that are most like it.

`id`, `rank` from 1, `neighbour_id`, `similarity`; rows come in the order of ids, then ranks.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEIGHBOURS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("neighbour_id", pa.string()),
        pa.field("similarity", pa.float32()),
    ]
)
BATCH = 25_000  # ids whose neighbours are written at a time


def neighbour_rows(
    ids: pa.Array, base_ids: pa.Array, indices: np.ndarray, similarities: np.ndarray
) -> Iterator[pa.Table]:
    """Rows of the neighbours table, in tables of BATCH ids each.

    Args:
        ids: n strings.
        base_ids: strings that `indices` points into.
        indices: (n, k) int64, best first, -1 where there is no neighbour.
        similarities: (n, k) float32.
    """
    for start in range(0, len(ids), BATCH):
        part = indices[start : start + BATCH]
        row, column = np.nonzero(part >= 0)
        yield pa.table(
            [
                ids.take(pa.array(row + start)),
                pa.array(column.astype(np.int32) + 1),
                base_ids.take(pa.array(part[row, column])),
                pa.array(similarities[start : start + BATCH][row, column]),
            ],
            schema=NEIGHBOURS,
        )


def neighbours_of(
    rows: pa.Table, ids: pa.Array, base_ids: pa.Array, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of some ids, read from the neighbours table; the inverse of `neighbour_rows`.

    Args:
        rows: of NEIGHBOURS.
        ids: n strings, the ids whose neighbours are wanted.
        base_ids: strings that the indices will point into.
        k: columns of the result, at least the highest rank in `rows`.

    Returns:
        Indices (n, k) int64 and similarities (n, k) float32. An index is -1 where there is no
        neighbour, and -2 where its id is not among `base_ids`.
    """
    indices = np.full((len(ids), k), -1, np.int64)
    similarities = np.full((len(ids), k), -np.inf, np.float32)
    row = pc.index_in(rows["id"], value_set=ids)
    there = row.is_valid()
    rows, row = rows.filter(there), row.filter(there).to_numpy()
    place = rows["rank"].to_numpy() - 1
    other = pc.index_in(rows["neighbour_id"], value_set=base_ids)
    indices[row, place] = pc.fill_null(other, -2).to_numpy()
    similarities[row, place] = rows["similarity"].to_numpy()
    return indices, similarities
