"""Word vectors as every reader of a file gives them: a vocabulary, in blocks of words and vectors."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import numpy as np

BLOCK_WORDS = 16_384
MOST_DIMENSIONS = 65_536


@dataclass(frozen=True)
class Block:
    """Some words of a file, in its order.

    Attributes:
        words: n as the file has them; None where the bytes are no text in the given encoding.
        vectors: (n, dim) float32, as trained, of any length.
        counts: (n,) int64, how often each was met in training; None where the file does not say.
    """

    words: list[str | None]
    vectors: np.ndarray
    counts: np.ndarray | None = None


class Subwords(Protocol):
    """What makes a vector for a word that the file does not hold."""

    def __call__(self, word: str) -> np.ndarray | None:
        """(dim,) float32, None where no part of the word is known either."""


@dataclass(frozen=True)
class Vocabulary:
    """A file of word vectors, opened.

    Attributes:
        n: words, as the file's header says; None where it has none.
        dim: length of a vector.
        about: what is known of the training: `kind`, `window`, `min_n`, `max_n`, …
        blocks: reads the file from its beginning.
        subwords: of fastText; None where only whole words have vectors.
    """

    n: int | None
    dim: int
    blocks: Callable[[], Iterator[Block]]
    about: dict[str, Any] = field(default_factory=dict)
    subwords: Subwords | None = None


def open_bytes(path: str) -> IO[bytes]:
    """The bytes of a file; those of a .gz unpacked."""
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
