"""Texts with labels, checked and split: what training on labels begins with."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from jobs.training.examples import Example
from sources.rows import SourceError

COVERED_SHARE = 0.95  # of the texts, that must fit into the length that is chosen


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels.

    Attributes:
        texts: n of them.
        labels: (n,) int64, numbers of names.
        names: of the labels, sorted.
        n_without_label: rows that were left out for lack of a label, or of a text.
        n_duplicates: rows that were left out since their text stands there before: it would else be
            learnt and judged by at once.
    """

    texts: list[str]
    labels: np.ndarray
    names: list[str]
    n_without_label: int
    n_duplicates: int

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
        for label in np.setdiff1d(
            self.labels, self.labels[held]
        ):  # so rare that chance left it out
            moved = train[self.labels[train] == label][:1]
            held, train = np.append(held, moved), np.setdiff1d(train, moved)
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
    known = [(one.text, one.label) for one in everything if one.label and one.text.strip()]
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


def chosen_length(lengths: np.ndarray, bound: int) -> int:
    """Tokens that hold 95 of 100 texts whole, a multiple of 8, at most the model's bound.

    For lengths [10, 20, 30] and a bound of 512: 32.
    """
    covered = float(np.quantile(lengths, COVERED_SHARE))
    return int(min(8 * math.ceil(covered / 8), bound))


def histogram(lengths: np.ndarray) -> dict[int, int]:
    """How many texts have at most so many tokens, by powers of two: {16: 1, 32: 2} for [10, 20, 30]."""
    ends = 2 ** np.ceil(np.log2(np.maximum(lengths, 2))).astype(int)
    return {int(end): int((ends == end).sum()) for end in np.unique(ends)}
