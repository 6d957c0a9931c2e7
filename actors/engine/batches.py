"""How many texts make a micro-batch: a budget of tokens, and how it is found for a machine."""

import threading

import numpy as np

TRIALS = 5  # batches of each budget before one is chosen: one that warms up, and two pairs


def batch_rows(lengths: np.ndarray, token_budget: int, *, padded: bool) -> int:
    """How many of the first texts make a micro-batch.

    Longest first means that memory runs out at the first batches or never.

    Args:
        lengths: (n,) int, tokens a text, longest first, n at least 1.
        token_budget: The most tokens that a batch may compute.
        padded: Whether every text of a batch costs as much as the longest.

    Returns:
        1 or more, also where the first text alone is over the budget.
        For lengths [9, 4, 3] and a budget of 13: 2, or 1 if padded.
    """
    if padded:
        return max(1, min(len(lengths), token_budget // max(1, int(lengths[0]))))
    head = np.cumsum(lengths[: token_budget + 1], dtype=np.int64)
    return max(1, int(np.searchsorted(head, token_budget, side="right")))


class TokenBudget:
    """How many tokens a micro-batch takes: tries candidates on the first batches, keeps the fastest.

    The fastest is the one with the most tokens a second, padding left out, which any encoder can be
    measured by. Texts come longest first, and attention costs a token of a long text more, so that the
    rate rises from batch to batch and would flatter the candidate that is tried last. So they are tried
    to and fro, a, b, c, c, b, a: after the round that warms up, over pairs of rounds, all lie equally
    early on average.

    Attributes:
        limit: More than this did not fit in memory.
        chosen: The fastest candidate of those that were tried; before, the first one that fits.
    """

    def __init__(self, candidates: tuple[int, ...]) -> None:
        if min(candidates) < 1:
            raise ValueError(f"token_budget is {min(candidates)}, expected 1 or more")
        self.limit = max(candidates)
        self._smallest = max(1, min(candidates) // 4)  # less is not worth a call of its own
        self._lock = threading.Lock()
        self._handed_out = dict.fromkeys(candidates, 0)
        self._rates: dict[int, list[float]] = {candidate: [] for candidate in candidates}

    @property
    def chosen(self) -> int:
        """See the class."""
        fitting = [candidate for candidate in self._rates if candidate <= self.limit]
        tried = [candidate for candidate in fitting if len(self._rates[candidate]) == TRIALS]
        if tried:
            return max(tried, key=lambda candidate: float(np.median(self._rates[candidate][1:])))
        return next(iter(fitting), self.limit)

    def next(self, at_most: int | None = None) -> int:
        """The budget for the next batch.

        Args:
            at_most: What is left, shared out among the lanes, so that they end together.
        """
        with self._lock:
            bound = self.limit
            if at_most is not None:
                bound = min(bound, max(at_most, self._smallest))
            untried = [
                candidate
                for candidate, n in self._handed_out.items()
                if candidate <= bound and n < TRIALS
            ]
            if not untried or len(self._rates) == 1:
                return min(self.chosen, bound)
            n_tried = min(self._handed_out[candidate] for candidate in untried)
            to_and_fro = untried if n_tried % 2 == 0 else untried[::-1]
            budget = min(to_and_fro, key=lambda candidate: self._handed_out[candidate])
            self._handed_out[budget] += 1
            return budget

    def ran(self, budget: int, n_tokens: float, seconds: float) -> None:
        """Note how long a batch of one budget took; padding is none of its tokens."""
        with self._lock:
            rates = self._rates.get(budget, [])
            if len(rates) < TRIALS:
                rates.append(n_tokens / max(seconds, 1e-9))

    def failed(self, budget: int) -> None:
        """Note that a batch told nothing; another one will be tried."""
        with self._lock:
            n_tried = len(self._rates.get(budget, ()))
            if n_tried < self._handed_out.get(budget, 0):
                self._handed_out[budget] -= 1

    def ran_out_of_memory(self, cost: int) -> None:
        """Note what did not fit."""
        with self._lock:
            self.limit = max(1, min(self.limit, cost // 2))
