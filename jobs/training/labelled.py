"""Select and check labelled texts, and split them into texts for training and texts for evaluation."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from jobs.training.examples import Example
from sources.rows import SourceError

COVERED_SHARE = 0.95  # of the texts must be no longer than the length that is chosen


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels.

    Attributes:
        texts: n texts.
        labels: (n,) int64, indices into `names`.
        names: names of the labels, sorted.
        n_without_label: number of rows left out because they have no label or no text.
        n_duplicates: number of rows left out because an earlier row has the same text, which could else
            be used for training and for evaluation.
    """

    texts: list[str]
    labels: np.ndarray
    names: list[str]
    n_without_label: int
    n_duplicates: int

    @property
    def counts(self) -> dict[str, int]:
        """Number of texts of each label."""
        return dict(zip(self.names, np.bincount(self.labels).tolist(), strict=True))

    def split(self, held_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Split the rows into training rows and evaluation rows.

        Each label has the same share in both, and at least one evaluation row.

        Returns:
            Indices of the training rows, (t,) int64, and of the evaluation rows, (h,) int64.
        """
        n_held = max(math.ceil(held_share * len(self.texts)), len(self.names))
        train, held = train_test_split(
            np.arange(len(self.texts)), test_size=n_held, random_state=seed, stratify=self.labels
        )
        for label in np.setdiff1d(
            self.labels, self.labels[held]
        ):  # so rare that chance left it out
            moved = train[self.labels[train] == label][:1]
            held, train = np.append(held, moved), np.setdiff1d(train, moved)
        return train, held


def select_labelled(examples: Iterable[Example], column: str, positive: str = "") -> Labelled:
    """Select the examples that have a text and a label, each text once.

    Args:
        examples: Texts and labels; those that are left out are counted.
        column: Name of the column of labels, for messages.
        positive: Label to learn against all others; empty learns every label.

    Raises:
        SourceError: There are fewer than two labels, a label has one text, or no text has the positive label.
    """
    everything = list(examples)
    known = [(text, label) for text, label in everything if label and text.strip()]
    first: dict[str, str] = {}
    for text, label in known:
        first.setdefault(text, label)
    kept = list(first.items())
    counts = Counter(label for _, label in kept)
    if positive:
        if positive not in counts:
            names = ", ".join(sorted(counts)[:20])
            raise SourceError(f"No text has the label {positive!r}. There are: {names}.")
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
    order = sorted(counts)
    number = {name: at for at, name in enumerate(order)}
    labels = np.array([number[label] for _, label in kept])
    texts = [text for text, _ in kept]
    return Labelled(texts, labels, order, len(everything) - len(known), len(known) - len(kept))


def choose_length(lengths: np.ndarray, bound: int) -> int:
    """Smallest multiple of 8 tokens that COVERED_SHARE of the texts fit into, at most the model's bound.

    Args:
        lengths: (n,) int, tokens of each text.
        bound: tokens that the model reads.

    For lengths [10, 20, 30] and a bound of 512: 32.
    """
    covered = float(np.quantile(lengths, COVERED_SHARE))
    return int(min(8 * math.ceil(covered / 8), bound))


def histogram(lengths: np.ndarray) -> dict[int, int]:
    """Number of texts by length, (n,) int, rounded up to a power of two: {16: 1, 32: 2} for [10, 20, 30]."""
    ends = 2 ** np.ceil(np.log2(np.maximum(lengths, 2))).astype(int)
    return {int(end): int((ends == end).sum()) for end in np.unique(ends)}
