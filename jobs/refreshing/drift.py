"""Drift of a table since an older version: the shift of its mean vector, and the change of neighbours."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.delta.formats import upgrade_rows
from schemas.delta.fragments import Fragment, exclude
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint
from schemas.tables.neighbours import NEIGHBOURS, neighbours_of
from schemas.vectors import vectors_of


def same_rows(table: Table, version: int) -> bool:
    """True if a table has the same files and schema as an older version of it."""
    if table.version == version:
        return True
    try:
        past = Table.open(table.uri, table.options, version)
    except StoreError:  # another table has taken its place, with fewer versions
        return False
    return past is not None and past.files() == table.files() and past.schema == table.schema


def centroid_shift(table: Table, version: int) -> float | None:
    """Euclidean distance between the mean vectors of a table and of an older version of it.

    Returns:
        A distance from 0 to 2 for unit rows; None if one of the versions has no rows, the two cannot be
        compared, or files of the older one are gone.
    """
    try:
        past = Table.open(table.uri, table.options, version)
        if past is None:
            return None
        now, then = Fingerprint.of(table.schema), Fingerprint.of(past.schema)
        if now is None or then is None or now.comparison_key != then.comparison_key:
            return None
        files, old = table.files(), past.files()
        new = exclude(files, old)
        shared = _sum(table, exclude(files, new), now.dim)
        came = _sum(table, new, now.dim)
        went = _sum(past, exclude(old, files), now.dim)
    except (StoreError, OSError):  # vacuumed
        return None
    n_now, n_then = shared[1] + came[1], shared[1] + went[1]
    if not (n_now and n_then):
        return None
    means = (shared[0] + came[0]) / n_now, (shared[0] + went[0]) / n_then
    return float(np.linalg.norm(means[0] - means[1]))


def _sum(table: Table, files: list[Fragment], dim: int) -> tuple[np.ndarray, int]:
    """Sum of the vectors in some files of a table, (dim,) float64, and the number of vectors."""
    total, n = np.zeros(dim), 0
    for file in files:
        vectors = vectors_of(table.read_file(file.name, ["embedding"])["embedding"])
        total += vectors.sum(axis=0, dtype=np.float64)
        n += len(vectors)
    return total, n


def neighbours_changed(out: Table, version: int) -> float | None:
    """Share of rows whose neighbours differ from those in an older version of a table of neighbours.

    Returns:
        Share in [0, 1] of the rows in both versions; None if there are none, or files of the older version
        are gone.
    """
    try:
        past = Table.open(out.uri, out.options, version)
        if past is None:
            return None
        now, then = (upgrade_rows(table.read(), NEIGHBOURS) for table in (out, past))
    except (StoreError, OSError):  # vacuumed
        return None
    ids = pc.unique(now["id"])
    ids = ids.filter(pc.is_in(ids, value_set=pc.unique(then["id"])))
    if not len(ids):
        return None
    names = pc.unique(pa.concat_arrays([pc.unique(rows["neighbour_id"]) for rows in (now, then)]))
    k = max(int(pc.max(rows["rank"]).as_py()) for rows in (now, then))
    mine, theirs = (neighbours_of(rows, ids, names, k)[0] for rows in (now, then))
    return float((mine != theirs).any(axis=1).mean())
