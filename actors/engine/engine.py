"""Plan a window of texts or images into micro-batches, run them through an encoder, keep the order.

Reads items and an `Encoder`, writes one (n, dim) float32 array. Items are tokenised once, sorted
by length and cut by a budget of tokens, so that next to nothing is padded; what does not fit in
memory is split; a row that fails is named with its reason and the others go on. Call it from two
threads, and one window is tokenised while the other one computes.

    engine = Engine(resolve("all-MiniLM-L6-v2").load())
    engine.encode(["a text", "another"]).vectors
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from actors.engine.batches import TokenBudget, batch_rows
from schemas.errors import named_error_line

UNPLANNED = 0  # the budget of a batch that is what another one was split into
NOT_FINITE = "the model gave a vector that is not finite"
# How torch (GPU, then CPU allocator) and the system word it when memory runs out.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


Items = list[str] | np.ndarray
"""What an encoder embeds: texts, or images as (n, height, width, 3) uint8."""


class Tokens(NamedTuple):
    """Tokens of n items, special ones included, none longer than the encoder's max_tokens.

    Attributes:
        ids: One list of token ids a text, or one array of patches an image.
        truncated: (n,) bool, whether text was cut off.
        n_unknown: Words without a vector, which no id stands for.
    """

    ids: list[Any]
    truncated: np.ndarray
    n_unknown: int = 0


@dataclass(frozen=True)
class Setup:
    """How an encoder computes.

    Attributes:
        device: As torch names it.
        precision: "fp32", "bf16" or "fp16".
        lanes: Micro-batches that it can compute at once, each from a thread of its own.
        padded: Whether a micro-batch costs its number of texts times its longest one.
        budgets: Tokens a micro-batch that are worth trying; the first is used until all were tried.
        threads: That torch has in a lane, on a CPU; 0 leaves them as they are.
    """

    device: str = "cpu"
    precision: str = "fp32"
    lanes: int = 1
    padded: bool = False
    budgets: tuple[int, ...] = (4096,)
    threads: int = 0


class Encoder(Protocol):
    """What a model family offers to the engine."""

    dim: int
    max_tokens: int
    setup: Setup

    def tokenize(self, items: Any, /) -> Tokens:  # noqa: ANN401
        """Tokens of the Items, with the prompt, cut at max_tokens."""

    def forward(self, ids: list[Any]) -> np.ndarray:
        """Vectors (n, dim) float32 of one micro-batch, in order; padding is done inside."""


class TextEncoder(Encoder, Protocol):
    """An encoder whose documents can be cut into passages."""

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64, increasing; no special tokens, nothing cut."""


@dataclass(frozen=True)
class Work:
    """What computing a window took.

    Attributes:
        n_computed: Tokens that went through the network, padding included.
        busy_seconds: Time in which the encoder computed, averaged over its lanes.
        n_unknown: Words without a vector, where the encoder is a list of words.
    """

    n_computed: int = 0
    busy_seconds: float = 0.0
    n_unknown: int = 0


class Encoded(NamedTuple):
    """Vectors of n texts in their order.

    Attributes:
        vectors: (n, dim) float32; unit rows if the model normalises; zeros where a row failed.
        n_tokens: (n,) int32, special tokens and prompt included, patches of an image; 0 where tokenising failed.
        truncated: (n,) bool.
        errors: Reason of each failed row, by its index.
        work: What it took.
    """

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray
    errors: dict[int, str]
    work: Work


class Engine:
    """Runs texts through one encoder, on all its lanes. May be called from several threads."""

    def __init__(self, encoder: Encoder, *, token_budget: int = 0) -> None:
        """Start the lanes.

        Args:
            encoder: A loaded model.
            token_budget: Tokens a micro-batch; 0 finds out what is fastest here.
        """
        self.encoder = encoder
        self.budget = TokenBudget((token_budget,) if token_budget else encoder.setup.budgets)
        self._room = _Room()
        self._lanes = ThreadPoolExecutor(encoder.setup.lanes, thread_name_prefix="lane")

    def encode(self, items: Items) -> Encoded:
        """Embed items; a row that fails is reported in `errors` and stops no other row.

        A micro-batch that raises is halved down to the row at fault. After memory ran out no later
        batch of this engine is larger than the halves.

        Args:
            items: May be empty, which gives vectors of shape (0, dim).
        """
        errors: dict[int, str] = {}
        tokens = _tokenize(self.encoder, items, errors)
        n_tokens = np.fromiter(map(len, tokens.ids), dtype=np.int32, count=len(items))
        vectors = np.zeros((len(items), self.encoder.dim), dtype=np.float32)
        rows = np.setdiff1d(np.arange(len(items)), list(errors))
        rows = rows[np.argsort(-n_tokens[rows], kind="stable")]
        window = _Window(tokens.ids, n_tokens, rows, vectors, errors, int(n_tokens[rows].sum()))
        lanes = [self._lanes.submit(self._lane, window) for _ in range(self.encoder.setup.lanes)]
        for lane in lanes:
            lane.result()
        seconds = window.seconds / len(lanes)
        work = Work(window.n_computed, seconds, tokens.n_unknown)
        return Encoded(vectors, n_tokens, tokens.truncated, errors, work)

    def _lane(self, window: "_Window") -> None:
        """Work on a window until nothing of it is left."""
        while (batch := self._next(window)) is not None:
            rows, budget = batch
            seconds = self._compute(window, rows)
            if seconds is None:
                self.budget.failed(budget)
                continue
            self.budget.ran(budget, int(window.n_tokens[rows].sum()), seconds)
            with window.lock:
                window.seconds += seconds
                window.n_computed += self._cost(window.n_tokens[rows])

    def _next(self, window: "_Window") -> tuple[np.ndarray, int] | None:
        """The next micro-batch of a window, and the budget that it was cut by."""
        lanes = self.encoder.setup.lanes
        with window.lock:
            if window.again:
                rows = window.again.pop()
                if self._cost(window.n_tokens[rows]) <= self.budget.limit or len(rows) == 1:
                    return rows, UNPLANNED
                half = len(rows) // 2
                window.again.append(rows[half:])
                return rows[:half], UNPLANNED
            if window.start == len(window.rows):
                return None
            budget = self.budget.next(window.n_left // lanes if lanes > 1 else None)
            lengths = window.n_tokens[window.rows[window.start :]]
            n = batch_rows(lengths, budget, padded=self.encoder.setup.padded)
            window.start += n
            window.n_left -= int(lengths[:n].sum())
            return window.rows[window.start - n : window.start], budget

    def _cost(self, lengths: np.ndarray) -> int:
        """Tokens that a micro-batch computes, longest text first."""
        padded = self.encoder.setup.padded
        return int(lengths[0]) * len(lengths) if padded else int(lengths.sum())

    def _compute(self, window: "_Window", rows: np.ndarray) -> float | None:
        """Fill in a micro-batch's vectors; the seconds it took, None where it was split instead."""
        started = time.perf_counter()
        out, why, no_memory = self._forward(window, rows, alone=False)
        if no_memory:
            self.budget.ran_out_of_memory(self._cost(window.n_tokens[rows]))
            if self.encoder.setup.lanes > 1:  # the others may hold what this one lacked
                out, why, no_memory = self._forward(window, rows, alone=True)
        if out is not None:
            finite = np.isfinite(out).all(axis=1)
            window.vectors[rows[finite]] = out[finite]
            window.errors.update((int(row), NOT_FINITE) for row in rows[~finite])
            return time.perf_counter() - started
        if len(rows) == 1:
            window.errors[int(rows[0])] = why
        else:
            half = len(rows) // 2
            with window.lock:
                window.again += [rows[half:], rows[:half]]
        return None

    def _forward(
        self, window: "_Window", rows: np.ndarray, *, alone: bool
    ) -> tuple[np.ndarray | None, str, bool]:
        """Vectors, or why there are none and whether memory ran out.

        The error itself ends here: its traceback would hold the tensors of the batch that failed.
        """
        try:
            with self._room.entered(alone=alone):
                return self.encoder.forward([window.ids[row] for row in rows]), "", False
        except Exception as error:  # whatever a model raises is one row's failure, not the run's
            return None, named_error_line(error), _is_out_of_memory(error)


class _Room:
    """Where lanes compute side by side, or one of them alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_inside = 0
        self._n_alone = 0  # waiting to be alone, or being it

    @contextlib.contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Wait until there is room, and take it."""
        with self._changed:
            self._n_alone += alone
            self._changed.wait_for(
                (lambda: self._n_inside == 0) if alone else (lambda: self._n_alone == 0)
            )
            self._n_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_inside -= 1
                self._n_alone -= alone
                self._changed.notify_all()


@dataclass
class _Window:
    """Items on their way through the lanes; rows are sorted by length, longest first."""

    ids: list[Any]
    n_tokens: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray
    errors: dict[int, str]
    n_left: int  # tokens of rows that no lane has taken yet
    start: int = 0
    again: list[np.ndarray] = field(default_factory=list)
    n_computed: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _tokenize(encoder: Encoder, items: Items, errors: dict[int, str]) -> Tokens:
    """Tokenise all items at once, or one by one where that raises, so that only bad rows fail."""
    if len(items) == 0:
        return Tokens([], np.zeros(0, dtype=bool))
    try:
        return encoder.tokenize(items)
    except Exception:  # the row at fault is found, and its reason kept, below
        ids: list[Any] = []
        truncated = np.zeros(len(items), dtype=bool)
        n_unknown = 0
    for row, item in enumerate(items):
        try:
            one = encoder.tokenize([item])
        except Exception as error:
            errors[row] = named_error_line(error)
            ids.append([])
        else:
            ids.append(one.ids[0])
            truncated[row] = one.truncated[0]
            n_unknown += one.n_unknown
    return Tokens(ids, truncated, n_unknown)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out; by name, since this module has no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)
