"""Size of a micro-batch: its token budget, and the trials that find the fastest budget on a machine."""

import threading

import numpy as np

TRIALS = 5  # batches of each candidate before the fastest is known: one to warm up, and two pairs


def batch_rows(lengths: np.ndarray, token_budget: int, *, padded: bool) -> int:
    """Number of texts, from the start of a sorted list, that fit a micro-batch.

    The longest texts come first, so that memory runs out at the first batches or never.

    Args:
        lengths: (n,) int, tokens a text, longest first, n at least 1.
        token_budget: The most tokens that a batch may compute.
        padded: True if every text of a batch costs as much as the longest.

    Returns:
        1 or more, also where the first text alone is over the budget.
        For lengths [9, 4, 3] and a budget of 13: 2, or 1 if padded.
    """
    if padded:
        return max(1, min(len(lengths), token_budget // max(1, int(lengths[0]))))
    head = np.cumsum(lengths[: token_budget + 1], dtype=np.int64)
    return max(1, int(np.searchsorted(head, token_budget, side="right")))


class TokenBudget:
    """Token budget of a micro-batch: the fastest of several candidates, tried on the first batches.

    The fastest candidate computes the most tokens a second; padding counts as no token, so that all
    encoders are measured alike. Texts come longest first, and attention costs a token of a long text more, so that the
    rate rises from batch to batch and would flatter the candidate that is tried last. So they are tried
    to and fro, a, b, c, c, b, a: after the round that warms up, over pairs of rounds, all lie equally
    early on average.

    Attributes:
        limit: The largest budget that is still allowed; it falls when a batch does not fit in memory.
    """

    def __init__(self, candidates: tuple[int, ...]) -> None:
        """Set the budgets to try; the first is used until all were tried.

        Raises:
            ValueError: A budget is below 1.
        """
        if min(candidates) < 1:
            raise ValueError(f"token_budget is {min(candidates)}, expected 1 or more")
        self.limit = max(candidates)
        self._smallest = max(1, min(candidates) // 4)  # less is not worth a call of its own
        self._lock = threading.Lock()
        self._handed_out = dict.fromkeys(candidates, 0)
        self._rates: dict[int, list[float]] = {candidate: [] for candidate in candidates}

    @property
    def best(self) -> int:
        """The fastest candidate of those fully tried; until one is, the first candidate within `limit`."""
        fitting = [candidate for candidate in self._rates if candidate <= self.limit]
        tried = [candidate for candidate in fitting if len(self._rates[candidate]) == TRIALS]
        if tried:
            return max(tried, key=lambda candidate: float(np.median(self._rates[candidate][1:])))
        return next(iter(fitting), self.limit)

    def next(self, at_most: int | None = None) -> int:
        """Token budget of the next batch.

        Args:
            at_most: Tokens that are left of the window, divided by the number of lanes, so that all
                lanes end at about the same time; None for a single lane.
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
                return min(self.best, bound)
            n_tried = min(self._handed_out[candidate] for candidate in untried)
            to_and_fro = untried if n_tried % 2 == 0 else untried[::-1]
            budget = min(to_and_fro, key=lambda candidate: self._handed_out[candidate])
            self._handed_out[budget] += 1
            return budget

    def record_time(self, budget: int, n_tokens: float, seconds: float) -> None:
        """Record the time of a batch.

        Args:
            budget: Of the batch, as `next` gave it.
            n_tokens: Tokens of the batch, padding not counted.
            seconds: Time to compute the batch.
        """
        with self._lock:
            rates = self._rates.get(budget, [])
            if len(rates) < TRIALS:
                rates.append(n_tokens / max(seconds, 1e-9))

    def record_failure(self, budget: int) -> None:
        """Record that a batch gave no time, so that its budget is tried on another batch."""
        with self._lock:
            n_tried = len(self._rates.get(budget, ()))
            if n_tried < self._handed_out.get(budget, 0):
                self._handed_out[budget] -= 1

    def record_out_of_memory(self, cost: int) -> None:
        """Lower the limit to half of a batch that did not fit in memory.

        Args:
            cost: Tokens of that batch, padding included.
        """
        with self._lock:
            self.limit = max(1, min(self.limit, cost // 2))
