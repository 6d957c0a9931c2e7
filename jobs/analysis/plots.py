"""Draw the results of jobs as .png, .svg or .pdf files."""

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from actors.images.image_files import ImageError, read_rgb
from schemas.delta.store import StoreError
from schemas.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")
THUMBNAIL = 96  # pixels of the longer edge
MAX_COLOURS = 20  # labels, above which colours could not be told apart
MAX_NUMBERED = 40  # classes, above which numbers in the cells could not be read


def check_picture(path: str) -> None:
    """Check the file name of a picture; an empty one stands for no picture.

    Raises:
        UsageError: the name ends in none of KINDS.
    """
    if path and not path.lower().endswith(KINDS):
        raise UsageError(f"--picture {path}: expected a .png, .svg or .pdf file.")


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: str) -> None:
    """Draw a confusion matrix; a cell shows the share of its label's rows.

    Args:
        confusion: Rows by label (first) and predicted class (second).
        classes: Their names.
        path: The file; its ending says of which kind.

    Raises:
        StoreError: matplotlib is not installed.
    """
    figure_of = _figure_class()
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.4 * len(classes) + 2)
    figure = figure_of(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    ConfusionMatrixDisplay(shares, display_labels=classes).plot(
        ax=axes,
        include_values=len(classes) <= MAX_NUMBERED,
        values_format=".0%",
        cmap="Blues",
        colorbar=False,
        im_kw={"vmin": 0, "vmax": 1},
        text_kw={"size": 7},
        xticks_rotation="vertical",
    )
    title = f"accuracy {counts.trace() / max(1, counts.sum()):.1%}"
    axes.set(xlabel="predicted", ylabel="label", title=title)
    figure.savefig(path)


def draw_pairs(matched: np.ndarray, unmatched: np.ndarray, path: str) -> None:
    """Draw two histograms of cosines: of pairs that belong together, and of other pairs.

    Args:
        matched: (n,) float, cosines of pairs that belong together.
        unmatched: (m,) float, cosines of other pairs.
        path: The file; its ending says of which kind.

    Raises:
        StoreError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([matched, unmatched]), bins=60)
    for values, name in ((unmatched, "other pairs"), (matched, "pairs that belong together")):
        axes.hist(
            values,
            edges.tolist(),
            density=True,
            alpha=0.6,
            label=f"{name}, mean {values.mean():.2f}",
        )
    axes.set(xlabel="cosine", ylabel="density")
    axes.legend()
    figure.savefig(path)


def draw_map(points: np.ndarray, labels: Sequence[str | None], path: str, title: str) -> None:
    """Draw a map as points, coloured by label.

    Args:
        points: (n, 2) or (n, 3) float32.
        labels: n names; a point without a label is grey, and so are all if there are too many labels.
        path: The file; its ending says of which kind.
        title: Written above.

    Raises:
        StoreError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(8, 7), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d" if points.shape[1] == 3 else None)
    names = sorted({label for label in labels if label is not None})
    if len(names) > MAX_COLOURS:
        names = []
    known = np.array([label if label in names else None for label in labels], object)
    size = float(np.clip(20_000 / len(points), 1, 20))
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(names) <= 10 else "tab20"](range(len(names)))
    for name, color in zip((None, *names), ("lightgrey", *palette), strict=True):
        mine = known == name
        if mine.any():
            axes.scatter(*points[mine].T, s=size, label=name, color=color, linewidths=0)
    if names:
        scale = max(1.0, (20 / size) ** 0.5)
        figure.legend(loc="outside right upper", markerscale=scale, fontsize="small")
    axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def draw_words(points: np.ndarray, words: Sequence[str], groups: Sequence[str], path: str) -> None:
    """Draw words at their points on a map; the word that names a group is bold.

    Args:
        points: (n, 2) float32.
        words: n words.
        groups: n names of groups, each a word among `words`.
        path: The file; its ending says of which kind.

    Raises:
        StoreError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(10, 8), layout="constrained")
    from matplotlib import colormaps

    axes = figure.subplots()
    names = sorted(set(groups))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    for point, word, group in zip(points, words, groups, strict=True):
        color = palette(names.index(group) % palette.N)
        axes.scatter(point[0], point[1], s=40 if word == group else 10, color=color)
        weight = "bold" if word == group else "normal"
        shown = word.replace("$", r"\$")  # else matplotlib takes it for a formula
        axes.annotate(shown, point, (3, 2), textcoords="offset points", size=8, weight=weight)
    axes.margins(0.1)  # for names at the right edge
    axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def draw_learning(epochs: Sequence[Mapping[str, float]], path: str) -> None:
    """Draw the losses, the accuracy and F1 of each epoch of training.

    Args:
        epochs: `epoch`, `train_loss` where it is known, `loss`, `accuracy` and `f1` of each.
        path: The file; its ending says of which kind.

    Raises:
        StoreError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    shown = (("train_loss", "loss"), ("accuracy", "f1"))
    for axes, names, title in zip(panels, shown, ("loss", "on texts held back"), strict=True):
        for name in names:
            points = [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch]
            axes.plot(*zip(*points, strict=True), marker="o", label=name.replace("_", " "))
        axes.set(title=title, xlabel="epoch", xticks=[epoch["epoch"] for epoch in epochs])
        axes.legend()
    figure.savefig(path, dpi=150)


def thumbnail(image: bytes) -> str | None:
    """Thumbnail of an image file's bytes as a `data:` address for HTML; None if it cannot be read."""
    with contextlib.suppress(ImageError):
        small = read_rgb(image, THUMBNAIL)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        sink = io.BytesIO()
        small.save(sink, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
    return None


def _figure_class() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StoreError("--picture needs matplotlib: pip install -e '.[plot]'") from error
    return Figure
