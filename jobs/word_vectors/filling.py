"""Make rows of a table of words from a model's vocabulary: each word that has a vector, once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from actors.checkpoints import Model
from actors.encoders.modules import load_modules
from actors.files.layout import read_layout
from actors.files.word_vectors import Block, Vocabulary
from actors.models import ModelError
from jobs.runtime.progress import Progress
from schemas.delta.store import now
from schemas.tables.embeddings import Fingerprint
from schemas.vectors import vector_column

N_EXTREME = 10
NOT_TEXT = "the word is no text in the encoding"
NO_DIRECTION = "the vector is zero or not finite"


def word_schema(fingerprint: Fingerprint) -> pa.Schema:
    """Schema of a table of words."""
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("rank", pa.int64()),
            pa.field("frequency", pa.int64()),
            pa.field("norm", pa.float32()),
            fingerprint.field,
            pa.field("embedded_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def token_vocabulary(model: Model) -> Vocabulary:
    """Vocabulary of a transformer's tokens with their input embeddings; a row without a token is `<row N>`.

    Raises:
        ModelError: the model has no input embeddings.
    """
    if model.spec.family == "use":
        raise ModelError(f"{model.name} is no transformer: it has no input embeddings.")
    modules = load_modules(read_layout(model.folder))
    tokenizer = modules.tokenizer
    matrix = modules[0].model.get_input_embeddings().weight.detach().numpy()
    names = tokenizer.convert_ids_to_tokens(list(range(min(len(matrix), len(tokenizer)))))
    words: list[str | None] = [name or f"<row {row}>" for row, name in enumerate(names)]
    words += [f"<row {row}>" for row in range(len(words), len(matrix))]
    return Vocabulary(
        len(words),
        matrix.shape[1],
        lambda: iter([Block(words, matrix)]),
        {"kind": "input embeddings of a transformer"},
    )


@dataclass
class WordRows:
    """Rows of a vocabulary, read in two passes: the first checks and counts all words, the second makes rows.

    Attributes:
        vocabulary: of the model.
        n: number of words that get a row.
        duplicates: number of words that stand in the vocabulary before.
        failures: words without a row, each with its reason.
    """

    vocabulary: Vocabulary
    n: int = 0
    duplicates: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        total, smallest = np.zeros(self.vocabulary.dim), []
        for words, _, _, norms, vectors in self._blocks_with_vectors():
            self.n += len(words)
            total += vectors.sum(axis=0, dtype=np.float64)
            smallest += sorted(zip(norms.tolist(), words, strict=True))[:N_EXTREME]
        self._mean = total / max(self.n, 1)
        self.smallest_norms = [(word, round(norm, 6)) for norm, word in sorted(smallest)]
        self.smallest_norms = self.smallest_norms[:N_EXTREME]

    @property
    def reasons(self) -> dict[str, int]:
        """Number of words that failed, by reason."""
        reasons = [failure["reason"] for failure in self.failures]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}

    def _blocks_with_vectors(
        self,
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]]:
        """Yield the words of each block that get a row, with arrays of n words each.

        Yields:
            Words, ranks (n,) int64, counts (n,) int64 or None, norms (n,) float, and vectors (n, dim) float
            as trained.
        """
        met: set[str] = set()
        self.duplicates, self.failures, start = 0, [], 0
        for block in self.vocabulary.blocks():
            norms = np.linalg.norm(block.vectors, axis=1)
            kept = []
            for row, word in enumerate(block.words):
                if word in met:
                    self.duplicates += 1
                elif word is None or not 0 < norms[row] < np.inf:
                    reason = NOT_TEXT if word is None else NO_DIRECTION
                    place = {"id": word, "position": start + row, "content_hash": None}
                    self.failures.append(place | {"stage": "read", "reason": reason})
                else:
                    met.add(word)
                    kept.append(row)
            words = [word for row in kept if (word := block.words[row]) is not None]
            counts = None if block.counts is None else block.counts[kept]
            yield words, np.array(kept, np.int64) + start, counts, norms[kept], block.vectors[kept]
            start += len(block.words)

    def rows(self, schema: pa.Schema, *, quiet: bool) -> Iterator[pa.Table]:
        """Yield rows of the table of words, a table for each block of the vocabulary."""
        moment = now()
        with Progress("words", self.n, "words", quiet=quiet) as progress:
            for words, ranks, counts, norms, vectors in self._blocks_with_vectors():
                unit = (vectors / norms[:, None]).astype(np.float32)
                yield pa.table(
                    [
                        pa.array(words, pa.string()),
                        pa.array(ranks),
                        pa.nulls(len(words), pa.int64()) if counts is None else pa.array(counts),
                        pa.array(norms.astype(np.float32)),
                        vector_column(unit),
                        pa.array([moment] * len(words), pa.timestamp("us", tz="UTC")),
                    ],
                    schema=schema,
                )
                progress.add(len(words))

    def nearest_to_centroid(self) -> list[tuple[str, float]]:
        """The N_EXTREME words whose vectors are nearest to the mean of all, with their Euclidean distances."""
        nearest: list[tuple[float, str]] = []
        for words, _, _, _, vectors in self._blocks_with_vectors():
            distances = np.linalg.norm(vectors - self._mean, axis=1)
            nearest += sorted(zip(distances.tolist(), words, strict=True))[:N_EXTREME]
        return [(word, round(distance, 6)) for distance, word in sorted(nearest)[:N_EXTREME]]
