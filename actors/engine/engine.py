"""Cut a window of texts or images into micro-batches, run them through an encoder, keep the order.

Reads items and an `Encoder`, gives one (n, dim) float32 array. Items are tokenised once, sorted by
length and cut into micro-batches by a token budget, so that hardly anything is padded. A micro-batch that
does not fit in memory is split. A row that fails is reported with its reason, and the other rows go on.
Called from two threads, the engine tokenises one window while it computes the other.

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

UNPLANNED = 0  # stands for the budget of a half of a batch that was split
NOT_FINITE = "the model gave a vector that is not finite"
# Messages of torch (GPU, then CPU allocator) and of the operating system when memory runs out.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


Items = list[str] | np.ndarray
"""What an encoder embeds: texts, or images as (n, height, width, 3) uint8."""


class Tokens(NamedTuple):
    """Tokens of n items, special tokens included, at most the encoder's max_tokens of each.

    Attributes:
        ids: n lists of token ids, one a text; or n arrays of patches, one an image.
        truncated: (n,) bool, True where a text was cut.
        n_unknown: Number of words without a vector; no id stands for them.
    """

    ids: list[Any]
    truncated: np.ndarray
    n_unknown: int = 0


@dataclass(frozen=True)
class Setup:
    """Device, precision and degree of parallelism of an encoder.

    Attributes:
        device: Name of the device, in torch's words.
        precision: "fp32", "bf16" or "fp16".
        lanes: Number of micro-batches that the encoder computes at once, each in its own thread.
        padded: True if a micro-batch costs its number of texts times the tokens of its longest text.
        budgets: Token budgets worth trying; the first is used until all were tried.
        threads: Number of torch's threads in a lane, on a CPU; 0 leaves torch's setting as it is.
    """

    device: str = "cpu"
    precision: str = "fp32"
    lanes: int = 1
    padded: bool = False
    budgets: tuple[int, ...] = (4096,)
    threads: int = 0


class Encoder(Protocol):
    """A loaded model, as the engine calls it; every family of models has one.

    Attributes:
        dim: Length of a vector.
        max_tokens: Tokens after which an item is cut.
        setup: Device, precision and degree of parallelism.
    """

    dim: int
    max_tokens: int
    setup: Setup

    def tokenize(self, items: Any, /) -> Tokens:  # noqa: ANN401
        """Tokens of some Items, with the prompt, cut at max_tokens."""

    def forward(self, ids: list[Any]) -> np.ndarray:
        """Vectors (n, dim) float32 of one micro-batch of n items, in order; the encoder itself pads."""


class TextEncoder(Encoder, Protocol):
    """An encoder whose documents can be cut into passages."""

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64 of all tokens of the uncut text, without special tokens."""


@dataclass(frozen=True)
class Usage:
    """Tokens and seconds that it took to embed a window.

    Attributes:
        n_computed: Number of tokens that went through the network, padding included.
        busy_seconds: Time in which the encoder computed, averaged over its lanes.
        n_unknown: Number of words without a vector, where the encoder is a file of word vectors.
    """

    n_computed: int = 0
    busy_seconds: float = 0.0
    n_unknown: int = 0


class Encoded(NamedTuple):
    """Vectors of n items, in the order of the items.

    Attributes:
        vectors: (n, dim) float32; unit rows if the model normalises; zeros where a row failed.
        n_tokens: (n,) int32, tokens of a text with special tokens and prompt, or patches of an image;
            0 where the tokenizer failed.
        truncated: (n,) bool, True where a text was cut.
        errors: Reason of each failed row, by the row's index.
        usage: Tokens and seconds that it took.
    """

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray
    errors: dict[int, str]
    usage: Usage


class Engine:
    """Runs items through one encoder, on all its lanes; several threads may call it at once."""

    def __init__(self, encoder: Encoder, *, token_budget: int = 0) -> None:
        """Start a thread for each lane.

        Args:
            encoder: A loaded model.
            token_budget: Tokens of a micro-batch; 0 tries several budgets and keeps the fastest.
        """
        self.encoder = encoder
        self.budget = TokenBudget((token_budget,) if token_budget else encoder.setup.budgets)
        self._room = _Room()
        self._lanes = ThreadPoolExecutor(encoder.setup.lanes, thread_name_prefix="lane")

    def encode(self, items: Items) -> Encoded:
        """Embed items; a row that fails is reported in `errors` and stops no other row.

        A micro-batch that raises an error is halved again and again, down to the row at fault. Once
        memory ran out, no later batch of this engine is larger than half of the batch that did not fit.

        Args:
            items: n texts or images; none gives vectors of shape (0, dim).
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
        usage = Usage(window.n_computed, seconds, tokens.n_unknown)
        return Encoded(vectors, n_tokens, tokens.truncated, errors, usage)

    def _lane(self, window: "_Window") -> None:
        """Compute micro-batches of a window, in one lane, until none is left."""
        while (batch := self._next(window)) is not None:
            rows, budget = batch
            seconds = self._compute(window, rows)
            if seconds is None:
                self.budget.record_failure(budget)
                continue
            self.budget.record_time(budget, int(window.n_tokens[rows].sum()), seconds)
            with window.lock:
                window.seconds += seconds
                window.n_computed += self._cost(window.n_tokens[rows])

    def _next(self, window: "_Window") -> tuple[np.ndarray, int] | None:
        """Rows (k,) int64 of the next micro-batch, and its token budget; None if no row is left."""
        lanes = self.encoder.setup.lanes
        with window.lock:
            if window.to_retry:
                rows = window.to_retry.pop()
                if self._cost(window.n_tokens[rows]) <= self.budget.limit or len(rows) == 1:
                    return rows, UNPLANNED
                half = len(rows) // 2
                window.to_retry.append(rows[half:])
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
        """Number of tokens that a micro-batch computes, padding included; lengths (k,) int32, longest first."""
        padded = self.encoder.setup.padded
        return int(lengths[0]) * len(lengths) if padded else int(lengths.sum())

    def _compute(self, window: "_Window", rows: np.ndarray) -> float | None:
        """Compute a micro-batch and store its vectors; returns its seconds, or None if it failed."""
        started = time.perf_counter()
        out, why, no_memory = self._forward(window, rows, alone=False)
        if no_memory:
            self.budget.record_out_of_memory(self._cost(window.n_tokens[rows]))
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
                window.to_retry += [rows[half:], rows[:half]]
        return None

    def _forward(
        self, window: "_Window", rows: np.ndarray, *, alone: bool
    ) -> tuple[np.ndarray | None, str, bool]:
        """Vectors (k, dim) float32 or None, the reason of a failure, and True if memory ran out.

        The error itself ends here: its traceback would hold the tensors of the batch that failed.
        """
        try:
            with self._room.enter(alone=alone):
                return self.encoder.forward([window.ids[row] for row in rows]), "", False
        except Exception as error:  # whatever a model raises is one row's failure, not the run's
            return None, named_error_line(error), _is_out_of_memory(error)


class _Room:
    """A lock that many lanes share, or one lane has to itself (a readers-writer lock)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_inside = 0
        self._n_alone = 0  # lanes that have the lock to themselves, or wait for that

    @contextlib.contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Wait for the lock, and hold it during the block."""
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
    """State of one call of `Engine.encode`, which all lanes share.

    Attributes:
        ids: Tokens of each item.
        n_tokens: (n,) int32, tokens of each item.
        rows: (k,) int64, items to compute, longest first.
        vectors: (n, dim) float32, filled in batch by batch.
        errors: Reasons of failed rows, by the row's index.
        n_left: Number of tokens of the rows that no lane has taken yet.
        start: Index in rows of the first row that no lane has taken yet.
        to_retry: Rows of halves of batches that failed.
        n_computed: Number of tokens computed so far, padding included.
        seconds: Time that all lanes together computed.
        lock: Held to change the state.
    """

    ids: list[Any]
    n_tokens: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray
    errors: dict[int, str]
    n_left: int
    start: int = 0
    to_retry: list[np.ndarray] = field(default_factory=list)
    n_computed: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _tokenize(encoder: Encoder, items: Items, errors: dict[int, str]) -> Tokens:
    """Tokenise all items at once; if that raises, one by one, so that only bad rows fail."""
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
    """True if an error says that memory ran out; it is known by its name, as torch is not imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)
