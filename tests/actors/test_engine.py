import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine import NOT_FINITE, Tokens, encode, passages, plan_batches

LENGTHS = st.lists(st.integers(1, 40), max_size=60).map(lambda x: np.array(x, dtype=np.int64))


class FakeEncoder:
    """A text of n characters is n tokens; its vector is (n, sum of its ids)."""

    dim = 2
    max_tokens = 50

    def __init__(self, memory=10_000):
        self.memory = memory
        self.costs = []

    def tokenize(self, texts):
        if "untokenisable" in texts:
            raise UnicodeError("bad text\nsecond line")
        ids = [[ord(c) for c in text] for text in texts]
        truncated = np.array([len(i) > self.max_tokens for i in ids])
        return Tokens([i[: self.max_tokens] for i in ids], truncated)

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


@given(LENGTHS, st.integers(1, 200))
def test_a_plan_holds_each_row_once_longest_first_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= budget for b in batches)
    assert (np.diff(lengths[rows]) <= 0).all()


def test_a_plan_by_hand():
    assert [b.tolist() for b in plan_batches(np.array([3, 9, 4]), 10)] == [[1], [2, 0]]
    assert [b.tolist() for b in plan_batches(np.zeros(3, dtype=np.int32), 2)] == [[0, 1], [2]]
    assert plan_batches(np.zeros(0, dtype=np.int32), 10) == []


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="token_budget is 0, expected 1 or more"):
        plan_batches(np.array([1]), 0)


@given(st.integers(0, 50), st.integers(1, 20), st.data())
def test_passages_cover_all_tokens_and_none_lies_in_another(n, chunk, data):
    overlap = data.draw(st.integers(0, chunk - 1))
    spans = np.array([(2 * i, 2 * i + 1) for i in range(n)], dtype=np.int64).reshape(-1, 2)
    found = passages(spans, chunk, overlap)
    if n == 0:
        assert found == []
        return
    assert found[0][0] == 0
    assert found[-1][1] == spans[-1, 1]
    step = 2 * (chunk - overlap)
    for (begin, end), (next_begin, next_end) in zip(found, found[1:], strict=False):
        assert next_begin == begin + step
        assert next_begin <= end + 1  # no token between them is left out
        assert next_end > end
    assert all(end - begin <= 2 * chunk - 1 for begin, end in found)


def test_passages_by_hand():
    spans = np.array([[i, i + 1] for i in range(5)])
    assert passages(spans, 3, 1) == [(0, 3), (2, 5)]
    assert passages(spans, 2, 0) == [(0, 2), (2, 4), (4, 5)]
    assert passages(spans, 5, 4) == [(0, 5)]


@pytest.mark.parametrize(("chunk", "overlap"), [(0, 0), (3, 3), (3, -1)])
def test_passages_that_do_not_advance_are_refused(chunk, overlap):
    with pytest.raises(ValueError, match="an overlap from 0 to chunk_tokens - 1"):
        passages(np.zeros((4, 2)), chunk, overlap)


@given(st.lists(st.text("abc", min_size=1, max_size=12), max_size=40), st.integers(1, 99))
def test_vectors_keep_the_order_of_their_texts(texts, budget):
    result = encode(FakeEncoder(), texts, budget)
    np.testing.assert_array_equal(result.vectors, expected(texts).reshape(-1, 2))
    assert result.n_tokens.tolist() == [len(t) for t in texts]
    assert result.errors == {}


def test_no_texts_give_no_vectors():
    result = encode(FakeEncoder(), [], 10)
    assert result.vectors.shape == (0, 2)
    assert result.vectors.dtype == np.float32
    assert (result.n_tokens.dtype, result.truncated.dtype) == (np.int32, np.bool_)


def test_dtypes_and_truncated():
    result = encode(FakeEncoder(), ["a" * 51, "a" * 50], 10)
    assert result.truncated.tolist() == [True, False]
    assert result.n_tokens.tolist() == [50, 50]
    assert (result.vectors.dtype, result.n_tokens.dtype) == (np.float32, np.int32)


def test_a_poison_row_fails_alone_with_its_reason():
    texts = [*"abcdefgh", "x!", *"ijklm"]
    result = encode(FakeEncoder(), texts, 1000)
    assert list(result.errors) == [8]
    assert result.errors[8].startswith("ValueError: poison xxx")
    assert len(result.errors[8]) == 300
    assert result.vectors[8].tolist() == [0, 0]
    rest = [i for i in range(len(texts)) if i != 8]
    np.testing.assert_array_equal(result.vectors[rest], expected(texts)[rest])


def test_a_vector_that_is_not_finite_fails_alone():
    result = encode(FakeEncoder(), ["ab", "c?", "de"], 1000)
    assert result.errors == {1: NOT_FINITE}
    np.testing.assert_array_equal(result.vectors[[0, 2]], expected(["ab", "de"]))
    assert result.vectors[1].tolist() == [0, 0]


def test_a_text_that_cannot_be_tokenised_fails_alone():
    result = encode(FakeEncoder(), ["ab", "untokenisable", "a" * 60], 1000)
    assert result.errors == {1: "UnicodeError: bad text"}
    assert result.n_tokens.tolist() == [2, 0, 50]
    assert result.truncated.tolist() == [False, False, True]
    np.testing.assert_array_equal(result.vectors[0], expected(["ab"])[0])


def test_out_of_memory_splits_and_the_smaller_budget_is_kept():
    encoder = FakeEncoder(memory=16)
    texts = ["abcd"] * 40
    result = encode(encoder, texts, 64)
    assert result.errors == {}
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert encoder.costs[:2] == [64, 32]  # then it fits, and no later batch is tried larger
    assert encoder.costs[2:] == [16] * 10


def test_a_row_too_large_for_memory_fails_alone():
    result = encode(FakeEncoder(memory=3), ["abcd", "ab"], 64)
    assert list(result.errors) == [0]
    assert "can't allocate memory" in result.errors[0]
    np.testing.assert_array_equal(result.vectors[1], expected(["ab"])[0])


def test_an_interrupt_is_not_a_row_that_failed():
    class Interrupted(FakeEncoder):
        def forward(self, ids):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(Interrupted(), ["a"], 10)
