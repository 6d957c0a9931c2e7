"""Exact nearest neighbours: for each row the rows with the largest inner products.

Inner products are first computed in blocks, in the fastest precision. Each product that could be among the
largest, given a bound on its error, is computed again in float64 and rounded to float32. A row for which
too many products could be among the largest is searched in float64 throughout. So the result does not
depend on blocks, threads, device or precision; the smaller index wins a tie. No matrix of n by n is ever
held. Within one table each product is computed once and serves both of its rows.

    nearest(vectors, k=10).indices  # of unit rows: by cosine, without the row itself
    nearest(base, k=10, queries=questions).similarities
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BLOCK = 2048  # rows on each side of a product
SLACK = 8  # candidates kept beyond k, since products in float32 have an error
DENSE_SHARE = (
    16  # a block is searched as a whole if more than one of so many products is a candidate
)
EXACT_ROWS = 256  # whose candidates are computed in float64 at a time
Progress = Callable[[int], None]
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True)
class Nearest:
    """Neighbours of n rows, best first; a row with fewer than k neighbours is filled with -1 and -inf.

    Attributes:
        indices: (n, k) int64, indices of rows of the base.
        similarities: (n, k) float32, inner products.
    """

    indices: np.ndarray
    similarities: np.ndarray

    @classmethod
    def none(cls, n: int, k: int) -> "Nearest":
        """No neighbours yet, for n rows."""
        return cls(np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32))

    def without(self, own: np.ndarray) -> "Nearest":
        """Neighbours without the row itself, one column fewer.

        Args:
            own: (n,) int, index that row i loses; if ties left it out, row i loses its last neighbour.
        """
        chosen = self.indices == own[:, None]
        chosen[~chosen.any(axis=1), -1] = True
        shape = len(own), self.indices.shape[1] - 1
        return Nearest(
            self.indices[~chosen].reshape(shape), self.similarities[~chosen].reshape(shape)
        )

    def merge(self, rows: np.ndarray | slice, other: "Nearest") -> None:
        """Add neighbours that were found among other rows of the base, and keep the best k.

        Args:
            rows: (m,) int, or a slice of m rows, whose neighbours `other` holds.
            other: (m, k') neighbours.
        """
        indices = np.concatenate([self.indices[rows], other.indices], axis=1)
        similarities = np.concatenate([self.similarities[rows], other.similarities], axis=1)
        k = self.indices.shape[1]
        order = np.lexsort((indices, -similarities), axis=1)[:, :k]
        self.indices[rows] = np.take_along_axis(indices, order, axis=1)
        self.similarities[rows] = np.take_along_axis(similarities, order, axis=1)


def fastest_precision() -> str:
    """Fastest precision of products on this processor: bfloat16 if it has instructions for it, else float32."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if can.get("amx_bf16") or can.get("avx512_bf16") else "float32"


def nearest(
    base: np.ndarray,
    k: int,
    queries: np.ndarray | None = None,
    *,
    known: np.ndarray | None = None,
    precision: str | None = None,
    progress: Progress = lambda _: None,
) -> Nearest:
    """The k rows of a base that are most similar to each query.

    Args:
        base: (n, dim) float32.
        k: 1 or more.
        queries: (m, dim) float32; None: the base, each row without itself.
        known: (m,) float32, similarity that a neighbour of each query has to reach.
        precision: torch's name of the type in which products are computed; None is the fastest here.
        progress: Called with the number of pairs of rows that were compared since its last call.

    For [[1, 0], [0.6, 0.8], [0, 1]] and a k of 1: indices [[1], [2], [1]], similarities 0.6, 0.8, 0.8.
    """
    left = _Side(base if queries is None else queries, k, known, precision)
    right = left if queries is None else _Side(base, 0, None, precision)
    return _compare(left, right, progress)[0]


def pairs_of_itself(n: int) -> int:
    """Number of pairs that are compared within a table of n rows; blocks on the diagonal count whole."""
    squares = sum(min(BLOCK, n - at) ** 2 for at in range(0, n, BLOCK))
    return (n * n + squares) // 2


def nearest_both_ways(
    one: np.ndarray,
    two: np.ndarray,
    k: int,
    *,
    known: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    precision: str | None = None,
) -> tuple[Nearest, Nearest]:
    """The k rows of `two` most similar to each row of `one`, and the reverse; products are computed once.

    Args:
        one: (n, dim) float32.
        two: (m, dim) float32.
        k: 1 or more.
        known: (n,) and (m,) float32, similarity that a neighbour of each row has to reach.
        precision: as in `nearest`.

    Returns:
        Neighbours of the n rows in `two`, and of the m rows in `one`.
    """
    left, right = (
        _Side(rows, k, least, precision) for rows, least in zip((one, two), known, strict=True)
    )
    found, found_of_two = _compare(left, right, lambda _: None)
    assert found_of_two is not None  # k places were asked for
    return found, found_of_two


def _compare(left: "_Side", right: "_Side", progress: Progress) -> tuple[Nearest, Nearest | None]:
    """Neighbours of each side among the rows of the other; None for a right side that needs none."""
    same = left is right
    left.error = right.error = _error(left, right)
    buffer = left.cast.new_empty(BLOCK, BLOCK)
    for a, b in _blocks(len(left.vectors), len(right.vectors), same=same):
        one, two = left.cast[a], right.cast[b]
        whole = len(one) == len(two) == BLOCK
        products = torch.mm(one, two.T, out=buffer if whole else None).float()
        if same and a == b:
            products.fill_diagonal_(-torch.inf)
        left.take(a, products, b.start)
        if right.k and not (same and a == b):
            right.take(b, products.T, a.start)
        progress(products.numel())
    found = left.exact_neighbours(right)
    return found, None if same or not right.k else right.exact_neighbours(left)


def _blocks(m: int, n: int, *, same: bool) -> Iterator[tuple[slice, slice]]:
    """Pairs of blocks of m and n rows; for a table with itself each pair once, the diagonal first."""
    rows = [slice(at, min(at + BLOCK, m)) for at in range(0, m, BLOCK)]
    if same:
        yield from ((block, block) for block in rows)
        yield from ((a, b) for i, a in enumerate(rows) for b in rows[i + 1 :])
        return
    yield from ((a, slice(at, min(at + BLOCK, n))) for a in rows for at in range(0, n, BLOCK))


def _error(left: "_Side", right: "_Side") -> float:
    """Bound on the error of a computed inner product.

    It is the sum of three errors. Rounding the vectors: |x·y - x'·y'| <= |x - x'| |y| + |x'| |y - y'|. Sums:
    dim times float32's unit roundoff (Higham 2002, section 3.1, any order of summation). Rounding the result.
    """
    scale = left.largest * right.largest
    rounding = left.rounding * right.largest + left.largest * right.rounding
    n_summed = left.cast.shape[1] + 2
    sums = n_summed * UNIT_ROUNDOFF[torch.float32] * scale
    output = UNIT_ROUNDOFF[left.cast.dtype] * scale
    return 1.01 * (rounding + sums + output)


class _Side:
    """Rows on one side of the products, and the candidates for their neighbours.

    Attributes:
        vectors: (n, dim) float32.
        k: Number of neighbours wanted for each row; 0 if none.
        cast: (n, dim), the vectors in the precision of the products.
        largest: Norm of the longest row.
        rounding: Largest distance between a row and its cast.
        error: Bound on the error of a product.
    """

    def __init__(
        self, vectors: np.ndarray, k: int, known: np.ndarray | None, precision: str | None
    ) -> None:
        # torch warns of arrays that it may not write to, such as Arrow's: they are copied.
        self.vectors = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
        self.k = k
        self.cast = self.vectors.to(getattr(torch, precision or fastest_precision()))
        self.largest = _longest(self.vectors)
        self.rounding = 0.0
        if self.cast.dtype != torch.float32:
            self.rounding = _longest(self.vectors - self.cast.float())
        self.error = 0.0
        if not k:
            return
        n_places = k + SLACK if self.cast.dtype == torch.float32 else 4 * k + 8 * SLACK
        self._values = torch.full((len(vectors), n_places), -torch.inf)
        self._indices = torch.full((len(vectors), n_places), -1, dtype=torch.int64)
        self._known = torch.full((len(vectors),), -torch.inf)
        if known is not None:
            self._known[:] = torch.from_numpy(known)

    def bound(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Value that a product must reach to be a candidate, (r,) float32, for r rows."""
        kth = self._values[rows, self.k - 1] - 2 * self.error
        return torch.maximum(kth, self._known[rows] - self.error)

    def take(self, rows: slice, products: torch.Tensor, start: int) -> None:
        """Keep the products that may be among the best.

        Args:
            rows: r rows of this side.
            products: (r, c) float32.
            start: index on the other side of the row in column 0.
        """
        bound = self.bound(rows)
        seen_from_here = products.is_contiguous()  # else they are the other side's, transposed
        stored, bounds = (products, bound[:, None]) if seen_from_here else (products.T, bound)
        counts = (
            (stored >= bounds).numpy().ravel()
        )  # NumPy finds the few in a tenth of torch's time
        n_candidates = np.count_nonzero(counts)
        if n_candidates * DENSE_SHARE > counts.size:
            values = torch.cat([self._values[rows], products], dim=1)
            columns = torch.arange(start, start + products.shape[1])
            indices = torch.cat([self._indices[rows], columns.expand(len(products), -1)], dim=1)
            self._keep(rows, values, indices)
        elif n_candidates:
            places = np.divmod(np.flatnonzero(counts), stored.shape[1])
            mine, other = map(torch.from_numpy, places if seen_from_here else places[::-1])
            mine, order = torch.sort(mine, stable=True)
            other = other[order]
            self._merge(mine + rows.start, other + start, products[mine, other])

    def _merge(self, rows: torch.Tensor, others: torch.Tensor, values: torch.Tensor) -> None:
        """Add candidates to their rows.

        Args:
            rows: (c,) int64 in rising order, row of each candidate.
            others: (c,) int64, index of each candidate on the other side.
            values: (c,) float32, products.
        """
        touched, counts = torch.unique_consecutive(rows, return_counts=True)
        n_places, width = self._values.shape[1], int(counts.max())
        starts = torch.cumsum(counts, 0) - counts
        line = torch.repeat_interleave(torch.arange(len(touched)), counts)
        slot = n_places + torch.arange(len(rows)) - starts[line]
        wide = values.new_full((len(touched), n_places + width), -torch.inf)
        names = others.new_full(wide.shape, -1)
        wide[:, :n_places], names[:, :n_places] = self._values[touched], self._indices[touched]
        wide[line, slot], names[line, slot] = values, others
        self._keep(touched, wide, names)

    def _keep(
        self, rows: slice | torch.Tensor, values: torch.Tensor, indices: torch.Tensor
    ) -> None:
        best = values.topk(self._values.shape[1], dim=1)
        self._values[rows] = best.values
        names = indices.gather(1, best.indices)
        self._indices[rows] = names.masked_fill(best.values == -torch.inf, -1)

    def exact_neighbours(self, other: "_Side") -> Nearest:
        """Neighbours of all rows, ranked by inner products that are computed in float64."""
        found = Nearest.none(len(self._values), self.k)
        last = self._values[:, -1]
        unproven = (last >= self.bound(slice(None))) & (last > -torch.inf)
        for rows in _chunks(~unproven, EXACT_ROWS):
            # Places hold the best first: behind the last that matters to any row nothing does.
            matters = self._values[rows] >= self.bound(rows)[:, None]
            indices = self._indices[rows, : max(self.k, int(matters.sum(dim=1).max()))]
            candidates = other.vectors[indices.clamp(min=0)].double()
            exact = torch.bmm(candidates, self.vectors[rows].double()[:, :, None])[:, :, 0].float()
            exact = exact.masked_fill(indices < 0, -torch.inf)
            found.merge(rows.numpy(), Nearest(indices.numpy(), exact.numpy()))
        for rows in _chunks(unproven, BLOCK):
            found.merge(rows.numpy(), self._search_in_float64(rows, other))
        return found

    def _search_in_float64(self, rows: torch.Tensor, other: "_Side") -> Nearest:
        """Neighbours of some rows, (r,) int64, by products with all rows in float64."""
        values = torch.full((len(rows), self.k), -torch.inf)
        indices = torch.full(values.shape, -1, dtype=torch.int64)
        queries = self.vectors[rows].double()
        for start in range(0, len(other.vectors), BLOCK):
            block = other.vectors[start : start + BLOCK]
            products = (queries @ block.double().T).float()
            if other is self:
                inside = torch.nonzero((rows >= start) & (rows < start + len(block))).flatten()
                products[inside, rows[inside] - start] = -torch.inf
            # Columns come in rising order, so that of equals the first stays.
            better = torch.nonzero((products > values[:, -1:]).any(dim=1)).flatten()
            wide = torch.cat([values[better], products[better]], dim=1)
            names = torch.arange(start, start + len(block)).expand(len(better), -1)
            names = torch.cat([indices[better], names], dim=1)
            best, order = wide.sort(dim=1, descending=True, stable=True)
            values[better] = best[:, : self.k]
            indices[better] = names.gather(1, order[:, : self.k])
        return Nearest(indices.masked_fill(values == -torch.inf, -1).numpy(), values.numpy())


def _chunks(chosen: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Indices, (size,) int64 or fewer at a time, of rows that are chosen, (n,) bool."""
    rows = torch.nonzero(chosen).flatten()
    yield from (rows[at : at + size] for at in range(0, len(rows), size))


def _longest(vectors: torch.Tensor) -> float:
    """Norm of the longest of (n, dim) rows; 0 if n is 0."""
    return float(vectors.norm(dim=1).max()) if len(vectors) else 0.0
