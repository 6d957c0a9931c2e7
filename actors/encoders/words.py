"""Texts as the mean of their words' vectors: word2vec, GloVe and fastText as encoders.

A text's words are its runs of letters, digits and underscores, apostrophes inside them included. A
word is looked up as it stands, then in lower case; what fastText does not hold is made of its parts.
With a file of weights (`embatch words weights`) rare words count more than frequent ones.

    encoder = resolve("GoogleNews-vectors.bin").load()
    vectors = encoder.forward(encoder.tokenize(["Berlin is in Germany"]).ids)
"""

import json
import math
from collections.abc import Container
from pathlib import Path

import numpy as np
import regex

from actors.engine.engine import Setup, Tokens
from actors.files.vocabulary import MOST_TOKENS, open_vocabulary
from actors.models import ModelError

WORD = regex.compile(r"[\w\p{M}]+(?:['’][\w\p{M}]+)*")  # with combining marks


class WordEncoder:
    """A file of word vectors in memory; an `actors.engine.engine.Encoder`."""

    setup = Setup()
    max_tokens = MOST_TOKENS

    def __init__(self, path: str, *, encoding: str = "utf-8", weights: str = "") -> None:
        """Read all words.

        Args:
            path: A file that `open_vocabulary` reads.
            encoding: Of its words.
            weights: A file of JSON that says how many of how many documents hold a word; empty
                weighs all words alike.

        Raises:
            ModelError: A file is missing or damaged.
        """
        vocabulary = open_vocabulary(path, encoding=encoding)
        self.dim = vocabulary.dim
        self._subwords = vocabulary.subwords
        self._index: dict[str, int] = {}
        parts = []
        n = 0
        for block in vocabulary.blocks():
            parts.append(block.vectors)
            for row, word in enumerate(block.words, n):
                if word is not None:
                    self._index.setdefault(word, row)
            n += len(block.words)
        self._vectors = np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)
        self._weights, self._rarest = read_weights(weights) if weights else ({}, 1.0)

    def tokenize(self, texts: list[str]) -> Tokens:
        """The words that have vectors, as they are looked up.

        Raises:
            ValueError: No word of a text is known.
        """
        ids, n_unknown = [], 0
        for text in texts:
            words = WORD.findall(text)
            known = [found for word in words if (found := self._known(word)) is not None]
            if not known:
                raise ValueError("no word of the text is in the vocabulary")
            n_unknown += len(words) - len(known)
            ids.append(known)
        truncated = np.array([len(words) > self.max_tokens for words in ids], bool)
        return Tokens([words[: self.max_tokens] for words in ids], truncated, n_unknown)

    def _known(self, word: str) -> str | None:
        """The form of a word that has a vector."""
        if (form := form_in(self._index, word)) is not None:
            return form
        return word if self._subwords is not None and self._subwords(word) is not None else None

    def vector(self, word: str) -> np.ndarray | None:
        """(dim,) float32 as trained; None for a word that has none."""
        row = self._index.get(word)
        if row is not None:
            vector: np.ndarray = self._vectors[row]
            return vector
        return self._subwords(word) if self._subwords is not None else None

    def forward(self, ids: list[list[str]]) -> np.ndarray:
        """Vectors (n, dim) float32, unit rows: of each text the weighted mean of its words'."""
        means = np.zeros((len(ids), self.dim), np.float32)
        for row, words in enumerate(ids):
            vectors = np.stack([v for word in words if (v := self.vector(word)) is not None])
            weights = [self._weights.get(word.lower(), self._rarest) for word in words]
            means[row] = np.average(vectors, axis=0, weights=weights if self._weights else None)
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        unit: np.ndarray = means / np.where(norms > 0, norms, np.nan)  # no direction: not finite
        return unit

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_words, 2) int64 of a text's words, those without vectors included."""
        found = [match.span() for match in WORD.finditer(text)]
        return np.array(found or [(0, len(text))], np.int64)


def form_in(words: Container[str], word: str) -> str | None:
    """The form in which words hold a word: as it stands, else in lower case; None where in neither."""
    return next((form for form in (word, word.lower()) if form in words), None)


def read_weights(path: str) -> tuple[dict[str, float], float]:
    """Inverse document frequencies, log(n / n_with_word) + 1, and that of a word in no document.

    Source: Spärck Jones 1972; the form is scikit-learn's `TfidfTransformer` with `smooth_idf`:
    ln((1 + n) / (1 + n_with_word)) + 1.

    Raises:
        ModelError: The file is missing or none of `embatch words weights`.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        n, counts = int(held["documents"]), dict(held["words"])
        weights = {word: math.log((1 + n) / (1 + count)) + 1 for word, count in counts.items()}
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise ModelError(
            f"{path} holds no weights of words ({type(error).__name__}: {error})."
            " `embatch words weights SOURCE FILE.json` writes them."
        ) from error
    return weights, math.log(1 + n) + 1
