"""A table of words in memory, and word arithmetic over it, as gensim defines it; exact and batched."""

import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from actors.checkpoints import resolve
from actors.encoders.words import WordEncoder, form_in
from jobs.analysis.nearest import nearest
from jobs.analysis.vectors import in_order, read_vectors
from jobs.runtime.command import table_uri
from schemas.delta.derived import note_of
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint, is_of_words


class Found(NamedTuple):
    """A word, and its cosine with what was asked."""

    word: str
    similarity: float


class WordTable:
    """Words and their vectors.

    Attributes:
        words: n of them, sorted.
        by_rank: (n,) int64, rows of `words`, as the model's file had them: the most frequent first.
        unit: (n, dim) float32, unit rows.
        norms: (n,) float32, length of each vector as trained.
    """

    def __init__(self, place: str, options: Mapping[str, str]) -> None:
        """Read a table of `embatch words`.

        Raises:
            StoreError: there is none, it is empty or a table of something else.
        """
        self.place = place
        table = Table.open(table_uri(place), options)
        if table is None:
            raise StoreError(
                f"There is no table of words at {place}. `embatch words MODEL {place}` makes one."
            )
        held = Fingerprint.of(table.schema)
        if held is None or not is_of_words(table.schema):
            raise StoreError(
                f"{place} is no table of words. `embatch words MODEL TABLE` makes one."
            )
        self.table, self._space = table, held.space
        vectors = read_vectors(self.table, held.dim)
        if not len(vectors.ids):
            raise StoreError(f"{place} holds no words.")
        columns = in_order(self.table.read(["id", "rank", "norm"]), vectors.ids)
        self.by_rank = np.argsort(columns["rank"].to_numpy(), kind="stable")
        self.words: list[str] = vectors.ids.to_pylist()
        self.unit = vectors.vectors
        self.norms: np.ndarray = columns["norm"].to_numpy()
        self.index = {word: row for row, word in enumerate(self.words)}

    @functools.cached_property
    def in_capitals(self) -> np.ndarray:
        """(n,) int64, equal for words that differ in case alone."""
        capitals = pa.array([word.upper() for word in self.words])
        codes: np.ndarray = capitals.dictionary_encode().indices.to_numpy()
        return codes

    def form(self, word: str) -> str:
        """The form of a word that is looked up, as `embed` does; the word where the table has none."""
        return form_in(self.index, word) or word

    def raw(self, word: str) -> np.ndarray:
        """(dim,) float32, as trained; of a word that is not in the table, made of its parts.

        Raises:
            StoreError: the word has no vector.
        """
        row = self.index.get(self.form(word))
        if row is not None:
            vector: np.ndarray = self.unit[row] * self.norms[row]
            return vector
        encoder = self._makes_words()
        of_parts = None if encoder is None else encoder.vector(word)
        if of_parts is None:
            like = [other for other in self.words if other.lower() == word.lower()]
            like += difflib.get_close_matches(
                word, [self.words[row] for row in self.by_rank[:100_000]], n=3
            )
            hint = (
                f" Like it: {', '.join(map(repr, list(dict.fromkeys(like))[:3]))}." if like else ""
            )
            raise StoreError(f"{self.place} has no word {word!r}.{hint}")
        return of_parts

    @functools.cache  # noqa: B019 - a table lives as long as its command
    def _makes_words(self) -> WordEncoder | None:
        """The model that the table is of, if it makes vectors of parts of words and is still there."""
        note = note_of(self.table)
        if not note.get("about", {}).get("max_n") or not os.path.exists(note["given_model"]):
            return None
        if resolve(note["given_model"]).space != self._space:
            raise StoreError(
                f"{note['given_model']} is another file than {self.place} was made of, so that it makes"
                f" no vectors of parts of words for it. `embatch words {note['given_model']}"
                f" {self.place}` brings the table up to date."
            )
        return WordEncoder(note["given_model"])

    def direction(self, word: str) -> np.ndarray:
        """(dim,) float32 of length 1."""
        return _unit(self.raw(word))

    def mean(self, words: Sequence[str], weights: Sequence[float] = ()) -> np.ndarray:
        """The weighted mean of words' directions, of length 1; all weights are 1 where none is given."""
        directions = np.stack([self.direction(word) for word in words])
        return _unit((directions * np.array(weights or [1.0] * len(words))[:, None]).mean(axis=0))

    def similar_to_each(
        self,
        queries: np.ndarray,
        asked: Sequence[Sequence[str]],
        k: int,
    ) -> list[list[Found]]:
        """The k words nearest to each query, best first, without those it was made of.

        Args:
            queries: (m, dim) float32, unit rows.
            asked: of each, the words that are left out.
            k: 1 or more.
        """
        most = min(len(self.words), k + max(map(len, asked)))
        found = nearest(self.unit, most, queries)
        answers = []
        for left_out, indices, values in zip(
            asked, found.indices, found.similarities.tolist(), strict=True
        ):
            pairs = [
                Found(self.words[row], value) for row, value in zip(indices, values, strict=True)
            ]
            answers.append([one for one in pairs if one.word not in left_out][:k])
        return answers

    def analogy(self, a: str, b: str, c: str, k: int) -> list[Found]:
        """What is to c as b is to a: the words nearest to b - a + c (3CosAdd, Mikolov et al. 2013)."""
        query = self.mean([b, c, a], [1, 1, -1])[None]
        return self.similar_to_each(query, [[self.form(word) for word in (a, b, c)]], k)[0]

    def similarity(self, one: Sequence[str], other: Sequence[str]) -> float:
        """Cosine of two words, or of the means of two lists of words as trained."""
        means = [
            _unit(np.mean([self.raw(word) for word in words], axis=0)) for words in (one, other)
        ]
        return float(means[0] @ means[1])

    def odd_one_out(self, words: Sequence[str]) -> list[Found]:
        """Words by their cosine with the mean of all directions, the odd one last."""
        mean = self.mean(words)
        found = [Found(word, float(self.direction(word) @ mean)) for word in words]
        return sorted(found, key=lambda one: -one.similarity)


def _unit(vector: np.ndarray) -> np.ndarray:
    """Length 1; zeros stay."""
    norm = float(np.linalg.norm(vector))
    unit: np.ndarray = (vector / norm if norm else vector).astype(np.float32)
    return unit
