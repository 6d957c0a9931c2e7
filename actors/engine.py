"""Plan a window of texts into micro-batches, run them through an encoder, keep the order.

Reads texts and an `Encoder`, writes one (n, dim) float32 array. Texts are tokenised once, sorted
by length and cut by a budget of tokens, so that next to nothing is padded; what does not fit in
memory is split; a row that fails is named with its reason and the others go on.

    encode(resolve("all-MiniLM-L6-v2").load(), ["a text", "another"], token_budget=4096)
"""

from typing import NamedTuple, Protocol

import numpy as np

NOT_FINITE = "the model gave a vector that is not finite"
# How torch (GPU, then CPU allocator) and the system word it when memory runs out.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class ModelError(ValueError):
    """A mistake that a user can mend; the message says how."""


class Tokens(NamedTuple):
    """Token ids of n texts, special tokens included, none longer than the encoder's max_tokens.

    Attributes:
        ids: One list of token ids a text.
        truncated: (n,) bool, whether text was cut off.
    """

    ids: list[list[int]]
    truncated: np.ndarray


class Encoder(Protocol):
    """What a model family offers to the engine."""

    dim: int
    max_tokens: int

    def tokenize(self, texts: list[str]) -> Tokens:
        """Token ids of the texts, with the prompt, cut at max_tokens."""

    def forward(self, ids: list[list[int]]) -> np.ndarray:
        """Vectors (n, dim) float32 of one micro-batch, in order; padding is done inside."""

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_tokens, 2) int64, increasing; no special tokens, nothing cut."""


class Encoded(NamedTuple):
    """Vectors of n texts in their order.

    Attributes:
        vectors: (n, dim) float32; unit rows if the model normalises; zeros where a row failed.
        n_tokens: (n,) int32, special tokens and prompt included; 0 where tokenising failed.
        truncated: (n,) bool.
        errors: Reason of each failed row, by its index.
    """

    vectors: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray
    errors: dict[int, str]


def plan_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Cut rows into micro-batches of similar length, longest first.

    A batch costs its number of rows times its longest row, padding included. Longest first means
    that memory runs out at the first batch or never.

    Args:
        lengths: (n,) int, tokens a row.
        token_budget: The most a batch may cost; a longer row is a batch of its own.

    Returns:
        Indices of the rows, each exactly once; empty for no rows.
        For lengths [3, 9, 4] and a budget of 10: [[1], [2, 0]].

    Raises:
        ValueError: token_budget is below 1.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}, expected 1 or more")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        n_rows = max(1, token_budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + n_rows])
        start += n_rows
    return batches


def encode(encoder: Encoder, texts: list[str], token_budget: int) -> Encoded:
    """Embed texts; a row that fails is reported in `errors` and stops no other row.

    A micro-batch that raises is halved down to the row at fault. After memory ran out no later
    batch of this call is larger than the halves.

    Args:
        encoder: A loaded model.
        texts: May be empty, which gives vectors of shape (0, dim).
        token_budget: See `plan_batches`.
    """
    errors: dict[int, str] = {}
    tokens = _tokenize(encoder, texts, errors)
    n_tokens = np.fromiter(map(len, tokens.ids), dtype=np.int32, count=len(texts))
    vectors = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    rows = np.setdiff1d(np.arange(len(texts)), list(errors))
    budget = token_budget
    pending = [rows[batch] for batch in reversed(plan_batches(n_tokens[rows], budget))]
    while pending:
        batch = pending.pop()
        cost = len(batch) * int(n_tokens[batch[0]])
        if len(batch) > 1 and cost > budget:
            parts = plan_batches(n_tokens[batch], budget)
            pending.extend(batch[part] for part in reversed(parts))
            continue
        failure, no_memory = None, False
        try:
            out = encoder.forward([tokens.ids[row] for row in batch])
        except Exception as error:  # whatever a model raises is one row's failure, not the run's
            failure, no_memory = _reason(error), _is_out_of_memory(error)
        # The batch is split here, not in the handler, where the traceback still holds its tensors.
        if failure is None:
            finite = np.isfinite(out).all(axis=1)
            vectors[batch[finite]] = out[finite]
            errors.update((int(row), NOT_FINITE) for row in batch[~finite])
        elif len(batch) == 1:
            errors[int(batch[0])] = failure
        else:
            if no_memory:
                budget = max(1, min(budget, cost // 2))
            half = len(batch) // 2
            pending += [batch[half:], batch[:half]]
    return Encoded(vectors, n_tokens, tokens.truncated, errors)


def passages(spans: np.ndarray, chunk_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """Character ranges of the passages that a long document is cut into.

    Windows of chunk_tokens tokens, each beginning chunk_tokens - overlap after the one before; the
    last ends at the last token, and none lies within another.

    Args:
        spans: (n_tokens, 2) int64, character offsets from `Encoder.spans`.
        chunk_tokens: Tokens a passage, special tokens not counted.
        overlap: Tokens that neighbouring passages share, in [0, chunk_tokens).

    Returns:
        (begin, end) pairs, `text[begin:end]` is the passage; empty for no tokens.
        Five tokens of one character, chunks of 3 with overlap 1: [(0, 3), (2, 5)].

    Raises:
        ValueError: chunk_tokens is below 1, or overlap not in [0, chunk_tokens).
    """
    if chunk_tokens < 1 or not 0 <= overlap < chunk_tokens:
        raise ValueError(
            f"chunk_tokens {chunk_tokens} with overlap {overlap}: expected chunk_tokens of 1 or more"
            " and an overlap from 0 to chunk_tokens - 1"
        )
    ranges = []
    for first in range(0, len(spans), chunk_tokens - overlap):
        last = min(first + chunk_tokens, len(spans)) - 1
        ranges.append((int(spans[first, 0]), int(spans[last, 1])))
        if last == len(spans) - 1:
            break
    return ranges


def _tokenize(encoder: Encoder, texts: list[str], errors: dict[int, str]) -> Tokens:
    """Tokenise all texts at once, or one by one where that raises, so that only bad rows fail."""
    if not texts:
        return Tokens([], np.zeros(0, dtype=bool))
    try:
        return encoder.tokenize(texts)
    except Exception:  # the row at fault is found, and its reason kept, below
        ids: list[list[int]] = []
        truncated = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts):
        try:
            one = encoder.tokenize([text])
        except Exception as error:
            errors[row] = _reason(error)
            ids.append([])
        else:
            ids.append(one.ids[0])
            truncated[row] = one.truncated[0]
    return Tokens(ids, truncated)


def _reason(error: Exception) -> str:
    """Kind and first line of an error, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out; by name, since this module has no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)
