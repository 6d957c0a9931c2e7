"""Approximate nearest neighbours for many millions of rows, by faiss's inverted lists; recall is measured.

The base is cut into lists by k-means, and a query searches the few lists whose centres are nearest. The
number of lists that it searches is doubled until a sample finds the share RECALL of its exact neighbours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jobs.analysis.nearest import Nearest, nearest
from schemas.delta.store import StoreError

RECALL = 0.95  # of a sample's exact neighbours
SAMPLE, SEED = 1000, 0
TRAINED_A_LIST = 64  # rows that k-means sees of each
PART_ROWS = 8192


def nearest_by_index(
    base: np.ndarray,
    k: int,
    queries: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Nearest, float]:
    """Nearest rows as `jobs.analysis.nearest.nearest` finds them, but some neighbours are missed.

    Args:
        base: (n, dim) float32.
        k: 1 or more.
        queries: (m, dim) float32; None: the base, each row without itself.
        progress: Called with the number of rows that were searched since its last call.

    Returns:
        The neighbours, and the share of the exact neighbours of a sample that were found.

    Raises:
        StoreError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise StoreError("--index faiss needs faiss: pip install faiss-cpu") from error
    n, dim = base.shape
    asked = base if queries is None else queries
    chance = np.random.default_rng(SEED)
    n_lists = max(1, round(4 * n**0.5) if n > 4 * TRAINED_A_LIST else 1)
    index: Any = faiss.index_factory(dim, f"IVF{n_lists},Flat", faiss.METRIC_INNER_PRODUCT)
    trained = chance.choice(n, min(n, TRAINED_A_LIST * n_lists), replace=False)
    index.train(np.ascontiguousarray(base[np.sort(trained)]))
    for start in range(0, n, PART_ROWS):
        index.add(np.ascontiguousarray(base[start : start + PART_ROWS]))

    def found_for(rows: np.ndarray) -> Nearest:
        similarities, indices = index.search(
            np.ascontiguousarray(asked[rows]), k + (queries is None)
        )
        found = Nearest(indices, np.where(indices < 0, -np.inf, similarities).astype(np.float32))
        return found.without(rows) if queries is None else found

    sample = np.sort(chance.choice(len(asked), min(SAMPLE, len(asked)), replace=False))
    truth = nearest(base, k + (queries is None), asked[sample])
    truth = truth.without(sample) if queries is None else truth
    there = truth.indices >= 0
    index.nprobe, recall = 1, 0.0
    while True:
        indices = found_for(sample).indices
        hits = (truth.indices[:, :, None] == indices[:, None, :]).any(axis=2) & there
        recall = float(hits.sum() / max(1, there.sum()))
        if recall >= RECALL or index.nprobe >= n_lists:
            break
        index.nprobe = min(2 * index.nprobe, n_lists)
    found = Nearest.none(len(asked), k)
    for start in range(0, len(asked), PART_ROWS):
        rows = np.arange(start, min(start + PART_ROWS, len(asked)))
        found.merge(rows, found_for(rows))
        progress(len(rows))
    return found, recall
