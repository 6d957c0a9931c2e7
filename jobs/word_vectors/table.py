"""Read a table of words into gensim's KeyedVectors, which answer questions about words."""

import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.checkpoints import resolve
from actors.encoders.words import WordEncoder, find_form
from jobs.analysis.vectors import read_vectors
from jobs.runtime.command import table_uri
from schemas.delta.derived import note_of
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint, is_of_words

N_LIKE = 100_000  # an unknown word's likeliest spelling is looked for among so many frequent words


class WordTable:
    """Words and their vectors, in memory.

    Attributes:
        place: address of the table, as the user wrote it.
        keyed: gensim's KeyedVectors of all words, with vectors as trained, in the order of the model's
            file, which begins with the most frequent word.
    """

    def __init__(self, place: str, options: Mapping[str, str]) -> None:
        """Read a table of `embatch words`.

        Raises:
            StoreError: there is no such table, it is empty, or it is of another kind.
        """
        self.place = place
        table = Table.open(table_uri(place), options)
        if table is None:
            raise StoreError(
                f"There is no table of words at {place}. `embatch words MODEL {place}` makes one."
            )
        fingerprint = Fingerprint.of(table.schema)
        if fingerprint is None or not is_of_words(table.schema):
            raise StoreError(
                f"{place} is no table of words. `embatch words MODEL TABLE` makes one."
            )
        self.table, self._space = table, fingerprint.space
        rows = read_vectors(table, fingerprint.dim, by="rank")
        if not len(rows.ids):
            raise StoreError(f"{place} holds no words.")
        norms = table.read(["rank", "norm"]).sort_by("rank")["norm"].to_numpy()
        np.multiply(rows.vectors, norms[:, None], out=rows.vectors)
        self.keyed = _keyed_vectors(rows.ids.to_pylist(), rows.vectors, norms)

    def form(self, word: str) -> str:
        """Form of a word under which the table has it: as written, or in lower case; else the word itself."""
        return find_form(self.keyed.key_to_index, word) or word

    def raw(self, word: str) -> np.ndarray:
        """Vector of a word, (dim,) float32, as trained; made of the word's parts if the table lacks the word.

        Raises:
            StoreError: the word has no vector.
        """
        if (form := self.form(word)) in self.keyed:
            vector: np.ndarray = self.keyed[form]
            return vector
        encoder = self._encoder_of_parts()
        of_parts = None if encoder is None else encoder.vector(word)
        if of_parts is None:
            words = self.keyed.index_to_key
            like = [other for other in words if other.lower() == word.lower()]
            like += difflib.get_close_matches(word, words[:N_LIKE], n=3)
            hint = (
                f" Like it: {', '.join(map(repr, list(dict.fromkeys(like))[:3]))}." if like else ""
            )
            raise StoreError(f"{self.place} has no word {word!r}.{hint}")
        return of_parts

    @functools.cache  # noqa: B019 - a table lives as long as its command
    def _encoder_of_parts(self) -> WordEncoder | None:
        """Model of the table, if it makes vectors from parts of words and its file is still there; else None."""
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
        """Vector of a word, (dim,) float32, of length 1; see `raw`."""
        vector = self.raw(word)
        unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit

    def subset(self, words: Sequence[str]) -> Any:  # noqa: ANN401 - gensim has no types
        """KeyedVectors of some words, each under the form in which the caller writes it.

        Raises:
            StoreError: a word has no vector.
        """
        vectors = np.stack([self.raw(word) for word in words])
        return _keyed_vectors(list(words), vectors, np.linalg.norm(vectors, axis=1))

    def most_similar(
        self, words: Sequence[str], without: Sequence[str], k: int
    ) -> list[tuple[str, float]]:
        """The k words nearest to the mean direction of given words, and their cosines.

        Args:
            words: one or more words, which are not among the answers.
            without: words whose directions are subtracted; they are not among the answers either.
            k: 1 or more.

        Raises:
            StoreError: a word has no vector.
        """
        likes, unlikes = ([self._key(word) for word in some] for some in (words, without))
        similar: list[tuple[str, float]] = self.keyed.most_similar(likes, unlikes, topn=k)
        return similar

    def _key(self, word: str) -> str | np.ndarray:
        """Argument for gensim that stands for a word: its form in the table, else its direction."""
        form = self.form(word)
        return form if form in self.keyed else self.direction(word)


def _keyed_vectors(words: list[str], vectors: np.ndarray, norms: np.ndarray) -> Any:  # noqa: ANN401
    """KeyedVectors that share the given arrays; gensim's `add_vectors` would copy them three times.

    Args:
        words: n words.
        vectors: (n, dim) float32.
        norms: (n,) float32, lengths of the vectors.
    """
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(vectors.shape[1])
    keyed.index_to_key = words
    keyed.key_to_index = {word: row for row, word in enumerate(words)}
    keyed.vectors, keyed.norms = vectors, norms
    return keyed
