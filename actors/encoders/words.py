"""Word vectors as an encoder: a text's vector is the mean of its words' vectors.

The vectors are word2vec's, GloVe's or fastText's. Words are runs of letters, digits and underscores, with
apostrophes inside them. A word is looked up as it stands, then in lower case; fastText makes vectors of
other words from parts of them. With a file of `embatch words weights`, rare words count more than frequent
ones.

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
    """A file of word vectors in memory; an `actors.engine.engine.Encoder`.

    Attributes:
        dim: Length of a vector.
        max_tokens: Words after which a text is cut.
        setup: The default: fp32, on a CPU.
    """

    setup = Setup()
    max_tokens = MOST_TOKENS

    def __init__(self, path: str, *, encoding: str = "utf-8", word_weights: str = "") -> None:
        """Read all words and vectors.

        Args:
            path: A file that `open_vocabulary` reads.
            encoding: Encoding of its words.
            word_weights: A JSON file with the number of documents, and of those that hold each word; ""
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
        self._word_weights, self._rarest = (
            read_word_weights(word_weights) if word_weights else ({}, 1.0)
        )

    def tokenize(self, texts: list[str]) -> Tokens:
        """Words of texts that have vectors, in the form in which they are looked up.

        Raises:
            ValueError: No word of a text has a vector.
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
        """Form of a word that has a vector, or None: as it stands, or in lower case."""
        if (form := find_form(self._index, word)) is not None:
            return form
        return word if self._subwords is not None and self._subwords(word) is not None else None

    def vector(self, word: str) -> np.ndarray | None:
        """Vector of a word as trained, (dim,) float32 of any length; None if the word has none."""
        row = self._index.get(word)
        if row is not None:
            vector: np.ndarray = self._vectors[row]
            return vector
        return self._subwords(word) if self._subwords is not None else None

    def forward(self, ids: list[list[str]]) -> np.ndarray:
        """Vectors of n texts, given as words: (n, dim) float32, unit rows, weighted means of words' vectors."""
        means = np.zeros((len(ids), self.dim), np.float32)
        for row, words in enumerate(ids):
            vectors = np.stack([v for word in words if (v := self.vector(word)) is not None])
            weights = [self._word_weights.get(word.lower(), self._rarest) for word in words]
            means[row] = np.average(
                vectors, axis=0, weights=weights if self._word_weights else None
            )
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        unit: np.ndarray = means / np.where(norms > 0, norms, np.nan)  # no direction: not finite
        return unit

    def spans(self, text: str) -> np.ndarray:
        """Character offsets (n_words, 2) int64 of all words of a text, with or without vectors."""
        found = [match.span() for match in WORD.finditer(text)]
        return np.array(found or [(0, len(text))], np.int64)


def find_form(words: Container[str], word: str) -> str | None:
    """Find a word among words, as it stands, else in lower case; None if neither form is among them."""
    return next((form for form in (word, word.lower()) if form in words), None)


def read_word_weights(path: str) -> tuple[dict[str, float], float]:
    """Read document frequencies, and turn them into weights of words: inverse document frequencies.

    Returns:
        Weight of each word, and the weight of a word that is in no document.

    Source: Spärck Jones 1972; the form is scikit-learn's `TfidfTransformer` with `smooth_idf`:
    ln((1 + n) / (1 + n_with_word)) + 1.

    Raises:
        ModelError: The file is missing or none of `embatch words weights`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        n, counts = int(content["documents"]), dict(content["words"])
        weights = {word: math.log((1 + n) / (1 + count)) + 1 for word, count in counts.items()}
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise ModelError(
            f"{path} holds no weights of words ({type(error).__name__}: {error})."
            " `embatch words weights SOURCE FILE.json` writes them."
        ) from error
    return weights, math.log(1 + n) + 1
