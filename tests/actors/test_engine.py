import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine import NOT_FINITE, Engine, Setup, Tokens


class FakeEncoder:
    """A text of n characters is n tokens; its vector is (n, sum of its ids)."""

    dim = 2
    max_tokens = 50
    setup = Setup(padded=True)

    def __init__(self, memory=10_000):
        self.memory = memory
        self.costs = []

    def tokenize(self, texts):
        if "untokenisable" in texts:
            raise UnicodeError("bad text\nsecond line")
        ids = [[ord(c) for c in text] for text in texts]
        truncated = np.array([len(i) > self.max_tokens for i in ids])
        return Tokens([i[: self.max_tokens] for i in ids], truncated)

    def flops(self, lengths):
        return float(lengths.sum())

    def forward(self, ids):
        cost = len(ids) * max(map(len, ids))
        self.costs.append(cost)
        if cost > self.memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        if any(ord("!") in text for text in ids):
            raise ValueError("poison " + "x" * 400)
        out = np.array([[len(text), sum(text)] for text in ids], dtype=np.float32)
        out[[ord("?") in text for text in ids], 0] = np.nan
        return out


def expected(texts):
    return np.array([[len(t), sum(map(ord, t))] for t in texts], dtype=np.float32)


@given(st.lists(st.text("abc", min_size=1, max_size=12), max_size=40), st.integers(1, 99))
def test_vectors_keep_the_order_of_their_texts(texts, budget):
    result = Engine(FakeEncoder(), token_budget=budget).encode(texts)
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
