"""Classify a table's rows with words, without training: each row gets the class with the nearest prompt.

    embatch embed photos/ tables/photos --model clip-ViT-B-32 --label-from-folder
    embatch embed --labels classes.txt tables/classes --model clip-ViT-B-32
    embatch zero-shot tables/photos tables/classes tables/predicted

Both tables must be of one space. Texts are classified like images. If the rows have a column `label`, the
accuracy is printed, and --picture draws a confusion matrix.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import tyro
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from jobs.analysis.plots import check_picture, draw_confusion
from jobs.analysis.vectors import open_vectors, refuse_two_spaces
from jobs.runtime.command import Flag, run_command, storage_options, table_uri
from jobs.runtime.progress import Progress
from schemas.columns import labels_as_text
from schemas.delta.derived import open_derived, write_derived
from schemas.delta.store import Table
from schemas.errors import UsageError, UserError
from schemas.tables.predictions import PREDICTIONS, class_probabilities, prediction_rows
from schemas.vectors import vectors_of

DEFAULT_SCALE = 20.0  # sentence-transformers' contrastive losses train with it
N_MISTAKES = 5
TOP = 5
BATCH_ROWS = 8192
Positional = Annotated[str, tyro.conf.Positional]


class ClassError(UserError):
    """There are no classes, or no labels, or labels that are no class; the message says which."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """The rows to classify, the classes, and the table of predictions.

    Attributes:
        table: table of images or texts
        prompts: table of classes, made by `embatch embed --labels`
        out: table of predictions; the rows of an old one are replaced
        label_column: column with the true class of a row (default: label, if there is one)
        top: number of best classes in the column `top`
        picture: file for a picture of the confusion matrix: .png, .svg or .pdf
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    table: Annotated[Positional, tyro.conf.arg(metavar="TABLE")]
    prompts: Annotated[Positional, tyro.conf.arg(metavar="PROMPTS")]
    out: Annotated[Positional, tyro.conf.arg(metavar="OUT")]
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    top: int = TOP
    picture: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"--top is {self.top}, expected 1 or more.")
        check_picture(self.picture)
        storage_options(self.storage_option)


@dataclass(frozen=True)
class ZeroShotSummary:
    """Measures of the predictions.

    Attributes:
        n: number of rows with a label; the measures are of these rows, and None if there are none.
        n_rows: number of rows classified.
        accuracy: share of rows whose nearest class is their label.
        top5_accuracy: share of rows whose label is among the five nearest classes.
        macro_f1: mean over classes of their F1.
        per_class: share of each label's rows that were predicted right.
        confusion: number of rows by label (first) and predicted class (second), in the order of `classes`.
        classes: names of the classes.
        mistakes: the wrong predictions with the highest probability.
        logit_scale: factor of cosines before the softmax.
        templates: sentences that class names were put into, as `embed --labels` recorded them.
        inputs: versions of the tables that were read, by table.
        table_version: version of the table of predictions.
    """

    n: int
    n_rows: int
    accuracy: float | None
    top5_accuracy: float | None
    macro_f1: float | None
    per_class: dict[str, float]
    confusion: list[list[int]]
    classes: list[str]
    mistakes: list[dict[str, Any]]
    logit_scale: float
    templates: list[str]
    inputs: dict[str, int]
    table_version: int


def run(config: ZeroShotConfig) -> ZeroShotSummary:
    """Classify all rows, write the predictions, and compare them with the labels.

    Raises:
        StoreError: a table is missing, or of another space.
        ClassError: there are no classes, or labels that are no class.
        SchemaError: the column of labels holds no labels.
    """
    options = storage_options(config.storage_option)
    table, of_rows = open_vectors(config.table, options)
    prompts, of_classes = open_vectors(config.prompts, options)
    refuse_two_spaces(config.table, of_rows, config.prompts, of_classes)
    class_rows = prompts.read(["id", "embedding"])
    classes: list[str] = class_rows["id"].to_pylist()
    if not classes:
        raise ClassError(f"{config.prompts} holds no class.")
    label_column = _label_column(config.label_column, table, config.table)
    if label_column is not None:
        _check_labels(table, label_column, classes, config)
    scale = of_rows.logit_scale or of_classes.logit_scale or DEFAULT_SCALE
    predictions = _Predictions(
        classes, vectors_of(class_rows["embedding"]), scale, min(config.top, len(classes))
    )
    out = open_derived(table_uri(config.out), PREDICTIONS, options)
    inputs = {config.table: table.version, config.prompts: prompts.version}
    batches = predictions.rows(table, label_column, quiet=config.json)
    note = {"command": "zero-shot", "inputs": inputs}
    out = write_derived(out, table_uri(config.out), PREDICTIONS, batches, note, options)
    templates = of_classes.ingredients.get("templates", [])
    summary = predictions.summary(templates, inputs, out.version)
    if config.picture:
        if not summary.n:
            raise ClassError(f"{config.table} has no labels, so there is no confusion to draw.")
        draw_confusion(summary.confusion, summary.classes, config.picture)
    return summary


class _Predictions:
    """Classifies a table's rows, and counts right and wrong predictions."""

    def __init__(self, classes: list[str], vectors: np.ndarray, scale: float, n_top: int) -> None:
        """Begin with no rows.

        Args:
            classes: c names.
            vectors: (c, dim) float32, unit rows; row j is class j.
            scale: factor of cosines before the softmax.
            n_top: number of best classes in the column `top`.
        """
        self.classes, self.vectors, self.scale, self.n_top = classes, vectors, scale, n_top
        self.code = {name: index for index, name in enumerate(classes)}
        self.n_rows = self.n_top5 = 0
        self.truth: list[np.ndarray] = []  # numbers of classes, of rows whose label is known
        self.predicted: list[np.ndarray] = []
        self.mistakes: list[dict[str, Any]] = []

    def rows(self, table: Table, label_column: str | None, *, quiet: bool) -> Iterator[pa.Table]:
        """Classify a table's rows, file by file, and yield rows of PREDICTIONS."""
        columns = ["id", "embedding", *([label_column] if label_column else [])]
        files = table.files()
        n_rows = sum(file.n_rows for file in files)
        with Progress("classify", n_rows, "rows", quiet=quiet) as progress:
            for file in files:
                rows = table.read_file(file.name, columns)
                for start in range(0, len(rows), BATCH_ROWS):
                    yield self._batch(rows.slice(start, BATCH_ROWS), label_column)
                    progress.add(min(BATCH_ROWS, len(rows) - start))

    def _batch(self, rows: pa.Table, label_column: str | None) -> pa.Table:
        ids = rows["id"].combine_chunks()
        labels = pa.nulls(len(rows), pa.string())
        if label_column is not None and label_column in rows.column_names:
            labels = rows[label_column].combine_chunks().cast(pa.string())
        shares = class_probabilities(vectors_of(rows["embedding"]), self.vectors, self.scale)
        self._count(ids, labels, shares)
        return prediction_rows(ids, labels, self.classes, shares, self.n_top)

    def _count(self, ids: pa.Array, labels: pa.Array, shares: np.ndarray) -> None:
        self.n_rows += len(ids)
        names = labels.to_pylist()
        truth = np.array([self.code.get(name, -1) for name in names], np.int64)
        known = np.flatnonzero(truth >= 0)
        truth, shares = truth[known], shares[known]
        predicted = shares.argmax(axis=1)
        self.truth.append(truth.astype(np.int32))
        self.predicted.append(predicted.astype(np.int32))
        ahead = (shares > shares[np.arange(len(truth)), truth][:, None]).sum(axis=1)
        self.n_top5 += int((ahead < TOP).sum())
        wrong = np.flatnonzero(predicted != truth)
        surest = wrong[np.argsort(-shares[wrong, predicted[wrong]], kind="stable")][:N_MISTAKES]
        mistakes = [
            {
                "id": ids[int(known[row])].as_py(),
                "label": self.classes[truth[row]],
                "predicted": self.classes[predicted[row]],
                "probability": round(float(shares[row, predicted[row]]), 4),
            }
            for row in surest
        ]
        mistakes = sorted(self.mistakes + mistakes, key=lambda mistake: -mistake["probability"])
        self.mistakes = mistakes[:N_MISTAKES]

    def summary(
        self, templates: list[str], inputs: dict[str, int], version: int
    ) -> ZeroShotSummary:
        """Compute the measures of all rows that were classified."""
        truth, predicted = (
            np.concatenate([np.zeros(0, np.int32), *parts])
            for parts in (self.truth, self.predicted)
        )
        n, numbers = len(truth), np.unique(truth)
        labels = range(len(self.classes))
        recalls = recall_score(truth, predicted, labels=numbers, average=None) if n else []
        return ZeroShotSummary(
            n=n,
            n_rows=self.n_rows,
            accuracy=round(float(accuracy_score(truth, predicted)), 6) if n else None,
            top5_accuracy=round(self.n_top5 / n, 6) if n else None,
            macro_f1=round(float(f1_score(truth, predicted, average="macro")), 6) if n else None,
            per_class={
                self.classes[number]: round(float(recall), 6)
                for number, recall in zip(numbers, recalls, strict=True)
            },
            confusion=confusion_matrix(truth, predicted, labels=labels).tolist() if n else [],
            classes=self.classes,
            mistakes=self.mistakes,
            logit_scale=round(self.scale, 4),
            templates=templates,
            inputs=inputs,
            table_version=version,
        )


def _label_column(asked: str, table: Table, place: str) -> str | None:
    if asked and asked not in table.schema.names:
        raise ClassError(
            f"{place} has no column {asked!r}. It has: {', '.join(table.schema.names)}."
        )
    return asked or ("label" if "label" in table.schema.names else None)


def _check_labels(
    table: Table, label_column: str, classes: list[str], config: ZeroShotConfig
) -> None:
    """Check that each label is a class, before the table of predictions is written.

    Raises:
        ClassError: a label is no class.
        SchemaError: the column holds no labels.
    """
    labels: set[str] = set()
    for file in table.files():
        rows = table.read_file(file.name, [label_column])
        if label_column in rows.column_names:
            texts = labels_as_text(rows[label_column], label_column, config.table)
            labels.update(texts.drop_null().unique().to_pylist())
    if unknown := labels - set(classes):
        raise ClassError(
            f"Labels of {config.table} that are no class of {config.prompts}: {_some_of(unknown)}. Its"
            f" classes: {_some_of(classes)}. Name each class as its label is, with a wording of its own"
            " where needed (`7: seven`), and embed the classes again; or name another --label-column."
        )


def _some_of(names: set[str] | list[str]) -> str:
    shown = sorted(names)[:20]
    return ", ".join(map(repr, shown)) + (", …" if len(names) > len(shown) else "")


def _text(config: ZeroShotConfig, summary: ZeroShotSummary) -> str:
    lines = [f"{summary.n_rows:>12,}  rows classified into {len(summary.classes)} classes"]
    if summary.templates:
        lines.append(f"{'':>14}names put into: {' | '.join(summary.templates)}")
    if summary.n:
        lines += [
            f"{summary.accuracy:>12.1%}  accuracy, of {summary.n:,} rows whose label is known",
            f"{summary.top5_accuracy:>12.1%}  have their label among the five nearest classes",
            f"{summary.macro_f1:>12.3f}  macro F1",
            "",
        ]
        worst = sorted(summary.per_class.items(), key=lambda item: item[1])
        lines += [f"{accuracy:>12.1%}  {name}" for name, accuracy in worst]
        lines += ["", "Surest mistakes:"] if summary.mistakes else []
        lines += [
            f"{row['probability']:>12.1%}  {row['predicted']}, truly {row['label']}: {row['id']}"
            for row in summary.mistakes
        ]
    lines.append(f"\n{config.out} is at version {summary.table_version}.")
    if config.picture:
        lines.append(f"{config.picture} shows the confusion matrix.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(ZeroShotConfig, "zero-shot", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
