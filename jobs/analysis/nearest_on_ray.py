"""Exact nearest neighbours on a Ray cluster: tables are cut into tiles, and each pair of tiles is one task."""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from jobs.analysis.nearest import Nearest, nearest, nearest_both_ways
from jobs.runtime.ray_cluster import Cluster, allocate

if TYPE_CHECKING:
    from ray import ObjectRef

TILE_ROWS = 32_768
TASK_RETRIES = 3
Found = tuple[Nearest, Nearest | None]


def compare_tiles(
    one: np.ndarray,
    two: np.ndarray | None,
    known: tuple[np.ndarray | None, np.ndarray | None],
    *,
    k: int,
    both_ways: bool,
    threads: int,
) -> Found:
    """Compare two tiles, as one task of Ray.

    Args:
        one: (n, dim) float32.
        two: (m, dim) float32; None compares `one` with itself.
        known: (n,) and (m,) float32, similarity that a neighbour of each row has to reach.
        k: neighbours of each row.
        both_ways: True if the rows of `two` get neighbours too.
        threads: of torch.

    Returns:
        Neighbours of the rows of `one`, and those of `two` or None.
    """
    import torch

    torch.set_num_threads(threads)
    if two is None:
        return nearest(one, k), None
    if both_ways:
        return nearest_both_ways(one, two, k, known=known)
    return nearest(two, k, one, known=known[0]), None


def nearest_through_ray(
    ray_cluster: Cluster,
    base: np.ndarray,
    k: int,
    queries: np.ndarray | None,
    progress: Callable[[int], None],
    *,
    tile_rows: int = TILE_ROWS,
) -> Nearest:
    """Nearest rows as `jobs.analysis.nearest.nearest` finds them, by tasks on all nodes of the cluster.

    Args:
        ray_cluster: that runs the tasks.
        base: (n, dim) float32.
        k: 1 or more.
        queries: (m, dim) float32; None: the base, each row without itself.
        progress: Called with the number of pairs of rows that were compared since its last call.
        tile_rows: rows of a tile.
    """
    nodes = ray_cluster.nodes()
    import ray

    use = allocate(nodes, device="cpu", actors=None, n_due=len(base))
    tiles = _tiles(len(base), tile_rows)
    refs = [ray.put(base[tile]) for tile in tiles]
    own = queries is None
    rows = tiles if queries is None else _tiles(len(queries), tile_rows)
    row_refs = refs if queries is None else [ray.put(queries[tile]) for tile in rows]
    found = Nearest.none(len(base) if queries is None else len(queries), k)
    task = ray.remote(compare_tiles).options(num_cpus=use.cpus, max_retries=TASK_RETRIES)

    def submit(a: int, b: int) -> "ObjectRef[Found]":
        known = (
            found.similarities[rows[a], -1].copy(),
            found.similarities[tiles[b], -1].copy() if own else None,
        )
        other = None if own and a == b else refs[b]
        return task.remote(row_refs[a], other, known, k=k, both_ways=own, threads=use.threads)

    under_way: dict[ObjectRef[Found], tuple[int, int]] = {}

    def finish_one() -> None:
        (done,), _ = ray.wait(list(under_way))
        a, b = under_way.pop(done)
        mine, theirs = ray.get(done)
        found.merge(rows[a], _shift(mine, tiles[b].start))
        if theirs is not None:
            found.merge(tiles[b], _shift(theirs, rows[a].start))
        progress((rows[a].stop - rows[a].start) * (tiles[b].stop - tiles[b].start))

    for a, b in _pairs(len(rows), len(tiles), own=own):
        if len(under_way) > use.n_actors:  # one waits, so that none is idle
            finish_one()
        under_way[submit(a, b)] = a, b
    while under_way:
        finish_one()
    return found


def _tiles(n: int, tile_rows: int) -> list[slice]:
    return [slice(at, min(at + tile_rows, n)) for at in range(0, n, tile_rows)]


def _pairs(n_rows: int, n_tiles: int, *, own: bool) -> Iterator[tuple[int, int]]:
    """Pairs of tiles; within one table each pair once, and first each tile with itself.

    A tile with itself gives each of its rows first neighbours, so that later pairs skip what is less alike.
    """
    if own:
        yield from ((a, a) for a in range(n_rows))
        yield from itertools.combinations(range(n_rows), 2)
    else:
        yield from itertools.product(range(n_rows), range(n_tiles))


def _shift(found: Nearest, start: int) -> Nearest:
    """Neighbours with indices into the whole table, for a tile that begins at row `start`."""
    return Nearest(np.where(found.indices < 0, -1, found.indices + start), found.similarities)
