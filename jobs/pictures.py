"""Pictures of what jobs found, as .png, .svg or .pdf files."""

from collections.abc import Sequence

import numpy as np

from schemas.store import StoreError


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: str) -> None:
    """Draw a confusion matrix: counts, shaded by their share of the label's rows.

    Args:
        confusion: Rows by label (first) and predicted class (second).
        classes: Their names.
        path: The file; its ending says of which kind.

    Raises:
        StoreError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StoreError("--picture needs matplotlib: pip install -e '.[plot]'") from error
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.4 * len(classes) + 2)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    title = f"accuracy {counts.trace() / max(1, counts.sum()):.1%}"
    axes.set(xlabel="predicted", ylabel="label", title=title)
    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color, size=7)
    figure.savefig(path)
