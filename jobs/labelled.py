"""Texts with labels, checked and split: what training on labels begins with."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from jobs.corpus import Example
from sources.rows import SourceError


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels.

    Attributes:
        texts: n of them.
        labels: (n,) int64, numbers of names.
        names: of the labels, sorted.
        n_without_label: texts that were left out, or labels without a text.
    """

    texts: list[str]
    labels: np.ndarray
    names: list[str]
    n_without_label: int

    @property
    def counts(self) -> dict[str, int]:
        """How many texts each label has."""
        return dict(zip(self.names, np.bincount(self.labels).tolist(), strict=True))

    def split(self, held_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train with and rows held back, with the same share of each label, one at least."""
        n_held = max(math.ceil(held_share * len(self.texts)), len(self.names))
        train, held = train_test_split(
            np.arange(len(self.texts)), test_size=n_held, random_state=seed, stratify=self.labels
        )
        return train, held


def labelled(examples: Iterable[Example], column: str, positive: str = "") -> Labelled:
    """Texts with labels, as training takes them.

    Args:
        examples: Those without a label or text are left out and counted.
        column: That the labels come from, for messages.
        positive: This label against all others; empty: each for itself.

    Raises:
        SourceError: Fewer than two labels, a label with one text, or nobody has the positive one.
    """
    everything = list(examples)
    kept = [(one.text, one.label) for one in everything if one.label and one.text.strip()]
    counts = Counter(label for _, label in kept)
    if positive:
        if positive not in counts:
            known = ", ".join(sorted(counts)[:20])
            raise SourceError(f"No text has the label {positive!r}. There are: {known}.")
        other = f"not {positive}"
        kept = [(text, label if label == positive else other) for text, label in kept]
        counts = Counter(label for _, label in kept)
    if len(counts) < 2:
        raise SourceError(
            f"{column!r} has {len(counts)} values ({', '.join(counts) or 'none'}), expected two or more."
        )
    rare = sorted(label for label, n in counts.items() if n < 2)
    if rare:
        raise SourceError(
            f"Of {len(counts)} labels of {column!r} {len(rare)} have one text ({', '.join(rare[:5])}),"
            " expected two or more: one to learn from, one to judge by. Leave them out or rename them."
        )
    names = sorted(counts)
    number = {name: at for at, name in enumerate(names)}
    labels = np.array([number[label] for _, label in kept])
    return Labelled([text for text, _ in kept], labels, names, len(everything) - len(kept))
