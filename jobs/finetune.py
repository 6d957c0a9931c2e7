"""Fine-tune an encoder on labelled texts, so that texts of different labels get different vectors.

    embatch finetune tables/articles --model all-MiniLM-L6-v2 --label-column topic --out models/topics
    embatch finetune news.csv --model bert-base-german-cased --label-column kind --positive Web --out models/web
    embatch embed news.csv tables/after --model models/topics

A fifth of the texts, drawn by --seed with the same share of each label, is held back for evaluation after each
epoch. The best epoch is kept, and training ends early without progress. For comparison, a logistic regression
on the vectors before training is evaluated too. The folder is a model for `embed`, with learning.png and
finetune.json in it. After a kill run the same command again: it goes on from the last epoch.
"""

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from actors.checkpoints import Model, resolve
from actors.engine.engine import Engine, TextEncoder
from actors.models import ModelError
from jobs.analysis.metrics import separation
from jobs.analysis.plots import draw_learning
from jobs.runtime.command import Flag, run_command
from jobs.runtime.ray_cluster import cluster
from jobs.training.examples import CorpusOptions
from jobs.training.labelled import Labelled, choose_length, histogram, select_labelled
from jobs.training.trainer import STATE, Fit, fit, fit_on_cluster
from schemas.errors import UsageError

HELD_SHARE = 0.2
Number = Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class FinetuneConfig(CorpusOptions):
    """The labelled texts, the model to begin with, and the folder of the new one.

    Attributes:
        model: the encoder to begin with: a name that `embatch models` lists, a folder, or a hub name
        out: folder of the new model
        positive: learn this label against all others
        epochs: passes over the texts, at most
        batch_rows: texts of one step
        learning_rate: highest learning rate; it rises for a tenth of the steps, then falls to zero
        patience: epochs without progress after which training ends
        class_weights: let rare labels count as much as frequent ones
        max_tokens: cut texts to so many tokens (default: the length that 95 of 100 texts do not exceed)
        seed: of the split, the new layer and the order of texts
        address: Ray cluster to train on (default: RAY_ADDRESS, else this process)
        workers: on a cluster, number of workers that train together
    """

    model: Annotated[str, tyro.conf.arg(metavar="MODEL")] = ""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = ""
    positive: Annotated[str, tyro.conf.arg(metavar="LABEL", help_behavior_hint="")] = ""
    epochs: int = 4
    batch_rows: int = 16
    learning_rate: float = 5e-5
    patience: int = 2
    class_weights: Flag = False
    max_tokens: Number = 0
    seed: int = 0
    address: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("model", "out", "label_column"):
            if not getattr(self, name):
                raise UsageError(f"--{name.replace('_', '-')} is missing.")
        for name in ("epochs", "batch_rows", "patience", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, expected 1 or more."
                )
        if "://" in self.out:
            raise UsageError(f"--out is {self.out}, expected a local folder.")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}, expected 0 or more.")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"--learning-rate is {self.learning_rate}, expected one such as 5e-5.")


@dataclass(frozen=True)
class FinetuneSummary:
    """Result of a training: numbers of texts, and accuracy on the evaluation texts.

    Attributes:
        labels: number of texts of each label.
        n: number of texts for training.
        n_held: number of texts for evaluation, which the training never sees.
        n_without_label: number of rows left out because they have no label.
        n_duplicates: number of rows left out because an earlier row has the same text.
        unread: number of rows that could not be read, by reason.
        max_tokens: tokens at which texts are cut.
        lengths: number of texts by their tokens, rounded up to a power of two.
        truncated_share: share of the texts that are longer than max_tokens.
        epochs: figures after each epoch.
        best_epoch: number of the epoch with the best macro F1, whose weights were kept.
        accuracy, f1: of the best epoch.
        probe_accuracy, probe_f1: of a logistic regression on the vectors before training.
        before, after: separation of labels by the vectors before and after training: share of rows whose
            ten nearest rows vote for their label, and silhouette (Rousseeuw 1987) by cosine.
    """

    model: str
    out: str
    labels: dict[str, int]
    n: int
    n_held: int
    n_without_label: int
    n_duplicates: int
    unread: dict[str, int]
    max_tokens: int
    lengths: dict[int, int]
    truncated_share: float
    epochs: list[dict[str, float]]
    best_epoch: int
    accuracy: float
    f1: float
    probe_accuracy: float
    probe_f1: float
    before: dict[str, float]
    after: dict[str, float]


def run(config: FinetuneConfig) -> FinetuneSummary:
    """Train the model, save it, and compare its vectors with those before.

    Raises:
        SourceError: there is no such source or column, or too few texts of a label.
        ModelError: the model cannot be had or trained, or OUT holds something else.
    """
    model, out = resolve(config.model, max_tokens=config.max_tokens or None), Path(config.out)
    _check(config, model)
    unread: Counter[str] = Counter()
    data = select_labelled(config.examples(unread), config.label_column, config.positive)
    train, held = data.split(HELD_SHARE, config.seed)
    engine = Engine(model.load())
    lengths = _lengths(engine, [model.prompt + text for text in data.texts])
    max_tokens = config.max_tokens or choose_length(lengths, model.max_tokens)
    _print_lengths(config, lengths, max_tokens)
    before = _vectors(model, data, max_tokens)
    probe = LogisticRegression(max_iter=1000, C=10).fit(before[train], data.labels[train])
    guessed = probe.predict(before[held])
    job = _job(config, model, data, train, held, max_tokens)
    history = _train(config, job)
    best = max(history, key=lambda epoch: epoch["f1"])
    after = _vectors(resolve(str(out)), data, max_tokens)
    truth = data.labels[held]
    summary = FinetuneSummary(
        model=model.name,
        out=config.out,
        labels=data.counts,
        n=len(train),
        n_held=len(held),
        n_without_label=data.n_without_label,
        n_duplicates=data.n_duplicates,
        unread=dict(unread),
        max_tokens=max_tokens,
        lengths=histogram(lengths),
        truncated_share=round(float((lengths > max_tokens).mean()), 4),
        epochs=history,
        best_epoch=int(best["epoch"]),
        accuracy=best["accuracy"],
        f1=best["f1"],
        probe_accuracy=round(float(accuracy_score(truth, guessed)), 6),
        probe_f1=round(float(f1_score(truth, guessed, average="macro")), 6),
        before=separation(before[held], truth),
        after=separation(after[held], truth),
    )
    shutil.rmtree(job.work)
    draw_learning(history, str(out / "learning.png"))
    (out / "finetune.json").write_text(
        json.dumps(asdict(summary), ensure_ascii=False), encoding="utf-8"
    )
    return summary


def _check(config: FinetuneConfig, model: Model) -> None:
    """Check model and folder before any text is read.

    Raises:
        ModelError: The model is no transformer of texts, OUT holds other files, or there is no cluster.
    """
    if model.spec.family != "transformer":
        raise ModelError(f"{model.name} cannot be fine-tuned; expected a transformer of texts.")
    out, work = Path(config.out), Path(f"{config.out}.training")
    if out.resolve() == Path(model.folder).resolve():
        raise ModelError(f"{out} is the model to begin with. Give another folder as --out.")
    if out.is_file():
        raise ModelError(f"{out} is a file. Give a folder as --out.")
    is_ours = (out / "finetune.json").is_file() or (work / STATE).is_file()
    if out.exists() and not is_ours and any(out.iterdir()):
        raise ModelError(
            f"{out} is not empty and no model of finetune. Give a new folder as --out."
        )
    with cluster(config.address or None, verbose=False) as ray_cluster:
        if config.workers > 1 and not ray_cluster.is_up():
            raise ModelError("--workers is for a cluster: give its --address.")


def _lengths(engine: Engine, texts: Sequence[str]) -> np.ndarray:
    """Number of tokens of each text before it is cut, (n,) int64."""
    spans = cast(TextEncoder, engine.encoder).spans
    return np.array([len(spans(text)) + 2 for text in texts])


def _vectors(model: Model, data: Labelled, max_tokens: int) -> np.ndarray:
    """Vectors, (n, dim) float32, of all texts, cut as in training."""
    cut = resolve(model.folder, max_tokens=max_tokens)
    encoded = Engine(cut.load()).encode(data.texts)
    if encoded.errors:
        raise ModelError(f"A text cannot be embedded: {next(iter(encoded.errors.values()))}")
    return encoded.vectors


def _job(
    config: FinetuneConfig,
    model: Model,
    data: Labelled,
    train: np.ndarray,
    held: np.ndarray,
    max_tokens: int,
) -> Fit:
    counts = np.bincount(data.labels[train], minlength=len(data.names))
    weights = len(train) / (len(counts) * counts) if config.class_weights else np.zeros(0)
    return Fit(
        folder=model.folder,
        recipe=model.recipe,
        prompt=model.prompt,
        work=f"{Path(config.out).absolute()}.training",
        out=str(Path(config.out).absolute()),
        texts=[data.texts[row] for row in train],
        labels=data.labels[train].tolist(),
        held_texts=[data.texts[row] for row in held],
        held_labels=data.labels[held].tolist(),
        names=data.names,
        class_weights=weights.tolist(),
        max_tokens=max_tokens,
        epochs=config.epochs,
        batch_rows=config.batch_rows,
        learning_rate=config.learning_rate,
        patience=config.patience,
        seed=config.seed,
        quiet=config.json,
    )


def _train(config: FinetuneConfig, job: Fit) -> list[dict[str, float]]:
    with cluster(config.address or None, verbose=False) as ray_cluster:
        if not ray_cluster.is_up():
            return fit(job)
        use_gpu = any(node.get("GPU", 0) for node in ray_cluster.nodes())
        return fit_on_cluster(job, config.workers, use_gpu=use_gpu)


def _print_lengths(config: FinetuneConfig, lengths: np.ndarray, max_tokens: int) -> None:
    """Print a histogram of the lengths of texts, (n,) int64 tokens, to stderr."""
    if config.json:
        return
    counts = histogram(lengths)
    most = max(counts.values())
    print(f"Texts are cut at {max_tokens} tokens; so long they are:", file=sys.stderr)
    for end, n in counts.items():
        print(f"  to {end:>6,}  {n:>9,}  {'#' * round(40 * n / most)}", file=sys.stderr)


def _text(config: FinetuneConfig, summary: FinetuneSummary) -> str:
    lines = [
        f"{summary.n:>12,}  texts to learn from, {summary.n_held:,} held back,"
        f" {len(summary.labels)} labels",
        f"{summary.truncated_share:>12.1%}  are longer than {summary.max_tokens} tokens",
    ]
    if summary.n_without_label:
        lines.append(f"{summary.n_without_label:>12,}  had no label")
    if summary.n_duplicates:
        lines.append(
            f"{summary.n_duplicates:>12,}  were left out: the same text stands there before"
        )
    lines += [f"{n:>12,}  could not be read: {reason}" for reason, n in summary.unread.items()]
    lines += ["", "   epoch   train loss     loss   accuracy       F1   precision   recall"]
    for epoch in summary.epochs:
        mark = "*" if epoch["epoch"] == summary.best_epoch else " "
        lines.append(
            f"{mark}{int(epoch['epoch']):>7} {epoch.get('train_loss', math.nan):>12.4f}"
            f" {epoch['loss']:>8.4f} {epoch['accuracy']:>10.1%} {epoch['f1']:>8.4f}"
            f" {epoch['precision']:>11.4f} {epoch['recall']:>8.4f}"
        )
    lines += [
        "* kept",
        "",
        f"{summary.accuracy:>12.1%}  accuracy, macro F1 {summary.f1:.4f}",
        f"{summary.probe_accuracy:>12.1%}  accuracy of a logistic regression on the vectors before,"
        f" macro F1 {summary.probe_f1:.4f}",
    ]
    for name, measures in (("before", summary.before), ("after", summary.after)):
        silhouette = measures.get("silhouette")
        more = "" if silhouette is None else f", silhouette {silhouette:.3f}"
        accuracy = measures["knn_accuracy"]
        lines.append(f"{accuracy:>12.1%}  of neighbours' votes are right {name}{more}")
    lines.append(f"\n`embatch embed SOURCE TABLE --model {config.out}` embeds with it.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(FinetuneConfig, "finetune", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
