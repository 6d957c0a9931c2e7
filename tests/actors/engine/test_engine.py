import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.engine import NOT_FINITE, Engine, Setup, Tokens, Usage

PADDED, LANES = Setup(padded=True), Setup(lanes=4)


class FakeEncoder:
    """A text of n characters is n tokens; its vector is (n, sum of its ids)."""

    dim = 2
    max_tokens = 50

    def __init__(self, memory=10_000, setup=PADDED, fails_at=None):
        self.memory, self.setup = memory, setup
        self.costs = []
        self.calls, self.fails_at = itertools.count(1), fails_at

    def tokenize(self, texts):
        if "untokenisable" in texts:
            raise UnicodeError("bad text\nsecond line")
        ids = [[ord(c) for c in text] for text in texts]
        truncated = np.array([len(i) > self.max_tokens for i in ids])
        return Tokens([i[: self.max_tokens] for i in ids], truncated)

    def forward(self, ids):
        lengths = list(map(len, ids))
        cost = len(ids) * max(lengths) if self.setup.padded else sum(lengths)
        self.costs.append(cost)
        if cost > self.memory or next(self.calls) == self.fails_at:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        if any(ord("!") in text for text in ids):
            raise ValueError("poison " + "x" * 400)
        out = np.array([[len(text), sum(text)] for text in ids], dtype=np.float32)
        out[[ord("?") in text for text in ids], 0] = np.nan
        return out


def expected(texts):
    return np.array([[len(t), sum(map(ord, t))] for t in texts], dtype=np.float32)


@given(
    st.lists(st.text("abc", min_size=1, max_size=12), max_size=40),
    st.integers(1, 99),
    st.builds(Setup, lanes=st.integers(1, 4), padded=st.booleans()),
)
def test_vectors_keep_the_order_of_their_texts(texts, budget, setup):
    result = Engine(FakeEncoder(setup=setup), token_budget=budget).encode(texts)
    np.testing.assert_array_equal(result.vectors, expected(texts).reshape(-1, 2))
    assert result.n_tokens.tolist() == [len(t) for t in texts]
    assert result.errors == {}


def test_no_texts_give_no_vectors():
    result = Engine(FakeEncoder(), token_budget=10).encode([])
    assert result.vectors.shape == (0, 2)
    assert result.vectors.dtype == np.float32
    assert (result.n_tokens.dtype, result.truncated.dtype) == (np.int32, np.bool_)


def test_dtypes_and_truncated():
    result = Engine(FakeEncoder(), token_budget=10).encode(["a" * 51, "a" * 50])
    assert result.truncated.tolist() == [True, False]
    assert result.n_tokens.tolist() == [50, 50]
    assert (result.vectors.dtype, result.n_tokens.dtype) == (np.float32, np.int32)


def test_a_poison_row_fails_alone_with_its_reason():
    texts = [*"abcdefgh", "x!", *"ijklm"]
    result = Engine(FakeEncoder(), token_budget=1000).encode(texts)
    assert list(result.errors) == [8]
    assert result.errors[8].startswith("ValueError: poison xxx")
    assert len(result.errors[8]) == 300
    assert result.vectors[8].tolist() == [0, 0]
    rest = [i for i in range(len(texts)) if i != 8]
    np.testing.assert_array_equal(result.vectors[rest], expected(texts)[rest])


def test_a_vector_that_is_not_finite_fails_alone():
    result = Engine(FakeEncoder(), token_budget=1000).encode(["ab", "c?", "de"])
    assert result.errors == {1: NOT_FINITE}
    np.testing.assert_array_equal(result.vectors[[0, 2]], expected(["ab", "de"]))
    assert result.vectors[1].tolist() == [0, 0]


def test_a_text_that_cannot_be_tokenised_fails_alone():
    result = Engine(FakeEncoder(), token_budget=1000).encode(["ab", "untokenisable", "a" * 60])
    assert result.errors == {1: "UnicodeError: bad text"}
    assert result.n_tokens.tolist() == [2, 0, 50]
    assert result.truncated.tolist() == [False, False, True]
    np.testing.assert_array_equal(result.vectors[0], expected(["ab"])[0])


def test_out_of_memory_splits_and_the_smaller_budget_is_kept():
    encoder = FakeEncoder(memory=16)
    texts = ["abcd"] * 40
    result = Engine(encoder, token_budget=64).encode(texts)
    assert result.errors == {}
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert encoder.costs[:2] == [64, 32]  # then it fits, and no later batch is tried larger
    assert encoder.costs[2:] == [16] * 10


def test_a_row_too_large_for_memory_fails_alone():
    result = Engine(FakeEncoder(memory=3), token_budget=64).encode(["abcd", "ab"])
    assert list(result.errors) == [0]
    assert "can't allocate memory" in result.errors[0]
    np.testing.assert_array_equal(result.vectors[1], expected(["ab"])[0])


def test_an_interrupt_is_not_a_row_that_failed():
    class Interrupted(FakeEncoder):
        def forward(self, ids):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(Interrupted(), token_budget=10).encode(["a"])


TEXTS = ["abcd"[: 1 + row % 4] * (1 + row // 40) for row in range(80)]  # 1 to 8 tokens


def test_micro_batches_are_computed_at_once_on_all_lanes():
    class Meeting(FakeEncoder):
        all_here = threading.Barrier(4)

        def forward(self, ids):
            self.all_here.wait(10)
            time.sleep(0.02)
            return super().forward(ids)

    started = time.perf_counter()
    result = Engine(Meeting(setup=LANES), token_budget=4).encode(["abcd"] * 8)
    np.testing.assert_array_equal(result.vectors, expected(["abcd"] * 8))
    assert result.errors == {}
    assert 0.04 <= result.usage.busy_seconds <= time.perf_counter() - started


def test_callers_at_once_get_their_own_rows():
    engine = Engine(FakeEncoder(setup=LANES), token_budget=16)
    windows = [
        [letter * (1 + n % 7) for n in range(50)] + ["!"] * row
        for row, letter in enumerate("abcdefgh")
    ]
    with ThreadPoolExecutor(4) as callers:
        for texts, result in zip(windows, callers.map(engine.encode, windows), strict=True):
            np.testing.assert_array_equal(result.vectors[:50], expected(texts[:50]))
            assert sorted(result.errors) == list(range(50, len(texts)))
            assert result.usage.n_computed == sum(map(len, texts[:50]))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("memory", [8, 9, 15, 16, 31, 64])
def test_out_of_memory_on_several_lanes_loses_no_row(memory, padded):
    encoder = FakeEncoder(memory, Setup(lanes=4, padded=padded))
    result = Engine(encoder, token_budget=128).encode(TEXTS)
    assert result.errors == {}
    np.testing.assert_array_equal(result.vectors, expected(TEXTS))
    assert result.usage.n_computed == sum(cost for cost in encoder.costs if cost <= memory)


@pytest.mark.parametrize("setup", [PADDED, LANES], ids=["padded", "lanes"])
@pytest.mark.parametrize("call", range(1, 9))
def test_out_of_memory_in_the_middle_of_a_window_loses_no_row(call, setup):
    engine = Engine(FakeEncoder(setup=setup, fails_at=call), token_budget=32)
    result = engine.encode(TEXTS)
    assert result.errors == {}
    np.testing.assert_array_equal(result.vectors, expected(TEXTS))
    assert 1 <= engine.budget.limit <= 16


def test_poison_rows_among_lanes_fail_alone():
    texts = ["x!" if row in (0, 7, 41, 79) else text for row, text in enumerate(TEXTS)]
    result = Engine(FakeEncoder(setup=LANES), token_budget=24).encode(texts)
    assert sorted(result.errors) == [0, 7, 41, 79]
    good = np.setdiff1d(np.arange(80), [0, 7, 41, 79])
    np.testing.assert_array_equal(result.vectors[good], expected(texts)[good])
    assert not result.vectors[list(result.errors)].any()
    assert result.usage.n_computed == sum(len(texts[row]) for row in good)


@pytest.mark.parametrize(("padded", "n_computed"), [(False, 7), (True, 12)])
def test_usage_counts_tokens_with_padding(padded, n_computed):
    engine = Engine(FakeEncoder(setup=Setup(padded=padded)), token_budget=48)
    usage = engine.encode(["bb", "aaaa", "c"]).usage
    assert usage.n_computed == n_computed
    assert usage.busy_seconds > 0
    assert engine.encode([]).usage == engine.encode(["!"]).usage == Usage()


def test_a_poison_row_does_not_keep_the_fastest_budget_from_being_found():
    class Slow(FakeEncoder):
        def forward(self, ids):
            time.sleep(0.004)  # whatever its size, so the largest batch is the fastest
            return super().forward(ids)

    encoder = Slow(setup=Setup(budgets=(8, 4, 16)))
    engine = Engine(encoder)
    engine.encode([*["abcd"] * 2, "abc!", *["abcd"] * 200])  # the one of 4 tokens fails
    assert engine.budget.best == 16
    assert set(encoder.costs[-5:-1]) == {16}


def test_lanes_that_share_one_memory_lose_no_row():
    class Shared(FakeEncoder):
        held, lock = 0, threading.Lock()

        def forward(self, ids):
            cost = sum(map(len, ids))
            with self.lock:
                if self.held + cost > 20:
                    raise RuntimeError("CUDA out of memory.")
                self.held += cost
            time.sleep(0.02)
            with self.lock:
                self.held -= cost
            return super().forward(ids)

    result = Engine(Shared(setup=Setup(lanes=2)), token_budget=18).encode(["abc"] * 60)
    assert result.errors == {}
    np.testing.assert_array_equal(result.vectors, expected(["abc"] * 60))
