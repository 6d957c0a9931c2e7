import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.analysis.nearest
from jobs.analysis.nearest import Nearest, nearest, nearest_both_ways


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a few hundred rows are many blocks."""
    monkeypatch.setattr(jobs.analysis.nearest, "BLOCK", 32)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)).astype(
        np.float32
    )


def by_hand(base, k, queries=None):
    """The definition: all inner products in float64, rounded to float32, ties to the smaller index."""
    own = queries is None
    queries = base if own else queries
    products = (queries.astype(np.float64) @ base.astype(np.float64).T).astype(np.float32)
    if own:
        np.fill_diagonal(products, -np.inf)
    order = np.argsort(-products, axis=1, kind="stable")[:, : min(k, len(base) - own)]
    return order, np.take_along_axis(products, order, axis=1)


def check(base, k, queries=None, precision="float32"):
    found = nearest(base, k, queries, precision=precision)
    order, products = by_hand(base, k, queries)
    n = order.shape[1]
    np.testing.assert_array_equal(found.indices[:, :n], order)
    # Another order of the same sum in float64 may round to the next float32.
    np.testing.assert_allclose(found.similarities[:, :n], products, rtol=2e-7)
    assert (found.indices[:, n:] == -1).all()
    assert (found.similarities[:, n:] == -np.inf).all()


def test_the_example():
    found = nearest(np.float32([[1, 0], [0.6, 0.8], [0, 1]]), 1)
    np.testing.assert_array_equal(found.indices, [[1], [2], [1]])
    np.testing.assert_allclose(found.similarities, [[0.6], [0.8], [0.8]], rtol=1e-6)


CHANCE = np.random.default_rng(5)
SETS = {
    "random": unit(CHANCE.normal(size=(300, 24))),
    "one row": unit(CHANCE.normal(size=(1, 8))),
    "two rows": unit(CHANCE.normal(size=(2, 8))),
    "identical": unit(np.ones((150, 12))),
    "duplicates": np.repeat(unit(CHANCE.normal(size=(40, 16))), 7, axis=0),
    "near ties": unit(np.ones((200, 16)) + CHANCE.normal(size=(200, 16)) * 1e-6),
    "few values": unit(CHANCE.integers(0, 2, (200, 6)) + 0.01),
    "a huge cluster": unit(
        np.concatenate(
            [
                np.ones((150, 16)) + CHANCE.normal(size=(150, 16)) * 1e-4,
                CHANCE.normal(size=(100, 16)),
            ]
        )
    ),
    "opposites": np.concatenate([unit(CHANCE.normal(size=(80, 8)))] * 2)
    * np.repeat([1, -1], 80)[:, None].astype(np.float32),
    "zeros": np.zeros((60, 4), np.float32),
    "not unit": (CHANCE.normal(size=(200, 16)) * CHANCE.gamma(1, 5, (200, 1))).astype(np.float32),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 10, 70])
@pytest.mark.parametrize("kind", SETS)
def test_neighbours_are_exact(kind, k, precision):
    rows = SETS[kind]
    check(rows, k, precision=precision)
    check(rows, k, rows[::3].copy(), precision=precision)


@given(
    st.integers(1, 120),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_neighbours_are_exact_whatever_the_set(n, m, dim, k, decimals, seed):
    chance = np.random.default_rng(seed)
    base, queries = (
        chance.normal(size=(rows, dim)).round(decimals).astype(np.float32) for rows in (n, m)
    )
    check(base, k)
    check(base, k, queries)


def test_both_ways_at_once():
    one, two = SETS["random"][:130], SETS["random"][130:]
    found, found_of_two = nearest_both_ways(one, two, 5)
    np.testing.assert_array_equal(found.indices, by_hand(two, 5, one)[0])
    np.testing.assert_array_equal(found_of_two.indices, by_hand(one, 5, two)[0])


def test_what_is_known_is_not_lost_when_merged():
    base, queries = SETS["duplicates"], SETS["random"][:50, :16]
    first, second = base[:130], base[130:]
    found = nearest(first, 6, queries)
    more = nearest(second, 6, queries, known=found.similarities[:, -1])
    names = np.where(more.indices < 0, -1, more.indices + len(first))
    found.merge(slice(None), Nearest(names, more.similarities))
    order, products = by_hand(base, 6, queries)
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.similarities, products, rtol=2e-7)


def test_each_pair_of_a_table_with_itself_is_compared_once():
    told = []
    nearest(SETS["random"], 3, progress=told.append)
    n = len(SETS["random"])
    assert (
        sum(told) == jobs.analysis.nearest.pairs_of_itself(n) == (300**2 + 9 * 32**2 + 12**2) // 2
    )
    assert n * n / 2 < sum(told) < n * (n + 32) / 2 + 1


def test_the_bound_on_a_product_holds():
    rows = torch.from_numpy(SETS["not unit"])
    exact = rows.double() @ rows.double().T
    for precision in ("float32", "bfloat16"):
        side = jobs.analysis.nearest._Side(SETS["not unit"], 1, None, precision)
        products = (side.cast @ side.cast.T).float()
        assert (products.double() - exact).abs().max() <= jobs.analysis.nearest._error(side, side)


def test_a_row_without_itself():
    found = Nearest(np.array([[4, 7, 2], [1, 9, 3]]), np.float32([[3, 2, 1], [3, 2, 1]]))
    left = found.without(np.array([7, 8]))
    assert left.indices.tolist() == [[4, 2], [1, 9]]
    assert left.similarities.tolist() == [[3, 1], [3, 2]]


def test_bfloat16_where_the_processor_has_it(monkeypatch):
    for name, want in (("amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("avx2", "float32")):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda name=name: {name: True}, raising=False
        )
        assert jobs.analysis.nearest.fastest_precision() == want
    check(SETS["random"], 5, precision=None)
