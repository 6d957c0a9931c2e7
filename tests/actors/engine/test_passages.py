import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.passages import passages


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
