import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.batches import TRIALS, TokenBudget, batch_rows

PLENTY = 10**6  # tokens left in the window
LENGTHS = st.lists(st.integers(1, 60), max_size=80).map(lambda n: np.array(sorted(n)[::-1], int))


def cut(lengths, budget, padded):
    """All micro-batches of a window."""
    batches, start = [], 0
    while start < len(lengths):
        n = batch_rows(lengths[start:], budget, padded=padded)
        assert n >= 1
        batches.append(lengths[start : start + n])
        start += n
    return batches


def cost(lengths, padded):
    return lengths[0] * len(lengths) if padded else lengths.sum()


@given(LENGTHS, st.integers(1, 300), st.booleans())
def test_batches_take_each_row_once_and_as_many_as_the_budget_allows(lengths, budget, padded):
    batches = cut(lengths, budget, padded)
    assert np.concatenate([lengths[:0], *batches]).tolist() == lengths.tolist()
    assert all(len(batch) == 1 or cost(batch, padded) <= budget for batch in batches)
    for batch, after in itertools.pairwise(batches):
        assert cost(np.append(batch, after[0]), padded) > budget


@given(LENGTHS, st.integers(0, 30), st.integers(1, 300), st.booleans())
def test_texts_without_tokens_are_taken_too(lengths, n_empty, budget, padded):
    lengths = np.append(lengths, np.zeros(n_empty, int))
    batches = cut(lengths, budget, padded)
    assert np.concatenate([lengths[:0], *batches]).tolist() == lengths.tolist()
    assert all(len(batch) == 1 or cost(batch, padded) <= budget for batch in batches)


def test_the_worked_example_and_a_first_text_over_the_budget():
    lengths = np.array([9, 4, 3])
    assert batch_rows(lengths, 13, padded=False) == 2
    assert batch_rows(lengths, 13, padded=True) == 1
    for padded in (False, True):
        assert batch_rows(lengths, 8, padded=padded) == 1
        assert batch_rows(lengths, 9, padded=padded) == 1


def test_costs_beyond_32_bits_are_counted():
    lengths = np.full(5, 2**30, np.int32)
    assert batch_rows(lengths, 2**31, padded=False) == 2
    assert batch_rows(lengths, 2**32, padded=True) == 4


def work(budget, seconds_a_batch, n_batches=100):
    """Run full batches; the budgets that were handed out."""
    given_out = []
    for _ in range(n_batches):
        size = budget.next(PLENTY)
        given_out.append(size)
        budget.record_time(size, float(size), seconds_a_batch.get(size, 1.0))
    return given_out


@pytest.mark.parametrize("fastest", [100, 200, 400])
def test_every_budget_is_tried_and_the_fastest_kept(fastest):
    candidates = (200, 100, 400)
    budget = TokenBudget(candidates)
    assert (budget.best, budget.limit) == (200, 400)  # the first until all were tried
    seconds = {size: size / (2.0 if size == fastest else 1.0) for size in candidates}
    sizes = work(budget, seconds)
    n_trials = TRIALS * len(candidates)
    assert sorted(sizes[:n_trials]) == sorted(candidates * TRIALS)
    assert set(sizes[n_trials:]) == {fastest} == {budget.best}


def test_the_batch_that_warms_up_does_not_count():
    budget = TokenBudget((10, 20))
    rates = {10: iter([0.1, 4.0, 4.0, 1.0, 2.5]), 20: iter([3.0] * TRIALS)}  # with it it is 2.5
    for _ in range(2 * TRIALS):
        size = budget.next(PLENTY)
        budget.record_time(size, next(rates[size]), 1.0)
    assert budget.best == 10
    work(budget, {10: 99.0})  # what was found is not tried again
    assert budget.best == 10


@pytest.mark.parametrize("fastest", [100, 200, 400])
def test_texts_that_become_cheaper_flatter_no_budget(fastest):
    """Texts come longest first, so that a token costs less from batch to batch."""
    budget, n_done = TokenBudget((200, 100, 400)), 0
    for _ in range(3 * TRIALS):
        size = budget.next(PLENTY)
        cost = 1.0 - 1e-4 * (n_done + size / 2) - (0.01 if size == fastest else 0)
        budget.record_time(size, size, size * cost)
        n_done += size
    assert budget.best == fastest


def test_a_budget_that_did_not_fit_is_never_handed_out_again():
    budget = TokenBudget((200, 100, 400))
    work(budget, {}, 3)
    budget.record_out_of_memory(400)
    assert budget.limit == 200
    assert set(work(budget, {200: 1.0, 100: 9.0})) == {100, 200}
    assert budget.best == 200
    budget.record_out_of_memory(300)  # also once it was settled
    assert set(work(budget, {}, 5)) == {100} == {budget.best}
    budget.record_out_of_memory(1000)  # a larger one says nothing new
    assert (budget.limit, budget.best) == (150, 100)


def test_memory_for_less_than_every_budget_leaves_what_fits():
    budget = TokenBudget((200, 100))
    budget.record_out_of_memory(90)
    assert set(work(budget, {})) == {45}
    budget.record_out_of_memory(1)
    assert budget.next(PLENTY) == budget.limit == 1


@pytest.mark.parametrize("settled", [False, True])
def test_no_batch_is_larger_than_a_lanes_share_of_what_is_left(settled):
    budget = TokenBudget((200, 100, 400))
    if settled:
        work(budget, {200: 0.1})
    assert {budget.next(150) for _ in range(99)} == ({150} if settled else {100, 150})
    assert {budget.next(30) for _ in range(9)} == {30}
    assert budget.next(0) == budget.next(24) == 25  # a quarter of the smallest is worth a call
    assert budget.best == 200


def test_one_budget_is_settled_at_once():
    budget = TokenBudget((7,))
    assert budget.best == 7
    assert set(work(budget, {7: 1e-12}, 9)) == {7}


def test_a_budget_below_1_is_refused():
    with pytest.raises(ValueError, match="token_budget is -3, expected 1 or more"):
        TokenBudget((5, -3))
    with pytest.raises(ValueError, match="token_budget is 0, expected 1 or more"):
        TokenBudget((0,))


def test_lanes_that_ask_at_once_still_settle():
    budget, start = TokenBudget((200, 100, 400)), threading.Barrier(8)
    sizes = []

    def lane():
        start.wait(10)
        sizes.extend(work(budget, {200: 2.0, 100: 0.5, 400: 4.0}, 50))

    lanes = [threading.Thread(target=lane) for _ in range(8)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(10)
    assert len(sizes) == 400
    assert budget.best == 100
    assert all(sizes.count(size) >= TRIALS for size in (100, 200, 400))
    assert budget.next(PLENTY) == 100
