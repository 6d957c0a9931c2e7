"""Cut long documents into passages of a fixed number of tokens.

Reads the character offsets of a document's tokens (`TextEncoder.spans`), gives those of its passages.

    passages(encoder.spans(text), chunk_tokens=200, overlap=20)
"""

import numpy as np

from schemas.errors import UsageError


def passages(spans: np.ndarray, chunk_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """Character ranges of the passages of a long document.

    A passage has chunk_tokens tokens and begins chunk_tokens - overlap tokens after the one before. The
    last passage ends at the last token, and no passage lies within another.

    Args:
        spans: (n_tokens, 2) int64, character offsets from `TextEncoder.spans`.
        chunk_tokens: Number of tokens of a passage, special tokens not counted.
        overlap: Number of tokens that neighbouring passages share, in [0, chunk_tokens).

    Returns:
        (begin, end) pairs, `text[begin:end]` is the passage; empty for no tokens.
        Five tokens of one character, chunks of 3 with overlap 1: [(0, 3), (2, 5)].

    Raises:
        UsageError: chunk_tokens is below 1, or overlap not in [0, chunk_tokens).
    """
    if chunk_tokens < 1 or not 0 <= overlap < chunk_tokens:
        raise UsageError(
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
