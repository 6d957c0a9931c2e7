"""Classes that all readers of word vectors share: a vocabulary, and its blocks of words and vectors."""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import numpy as np

BLOCK_WORDS = 16_384
MOST_DIMENSIONS = 65_536


@dataclass(frozen=True)
class Block:
    """Some words of a file with their vectors, in the order of the file.

    Attributes:
        words: n words as the file writes them; None for bytes that are no text in the given encoding.
        vectors: (n, dim) float32, as trained, of any length.
        counts: (n,) int64, occurrences of each word in training; None if the file does not say.
    """

    words: list[str | None]
    vectors: np.ndarray
    counts: np.ndarray | None = None


class Subwords(Protocol):
    """Function that makes a vector, from parts of words, for a word that the file does not hold."""

    def __call__(self, word: str) -> np.ndarray | None:
        """Vector of a word, (dim,) float32; None if no part of the word is known either."""


@dataclass(frozen=True)
class Vocabulary:
    """An open file of word vectors.

    Attributes:
        n: Number of words in the file's header; None if it has no header.
        dim: Length of a vector.
        about: Facts on the training, by name: `kind`, `window`, `min_n`, `max_n`, …
        blocks: Function that reads the file from its beginning.
        subwords: Function that makes vectors of other words, in fastText; None if there is none.
    """

    n: int | None
    dim: int
    blocks: Callable[[], Iterator[Block]]
    about: dict[str, Any] = field(default_factory=dict)
    subwords: Subwords | None = None


def open_bytes(path: str) -> IO[bytes]:
    """Open a file to read its bytes; a .gz is unpacked."""
    return gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]
