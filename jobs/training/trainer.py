"""Fine-tune a model by transformers' Trainer, in this process or, on a cluster, under Ray Train."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from actors.files.layout import read_layout
from actors.files.weights import hash_parts
from actors.heads.classifier import TextClassifier
from actors.models import ModelError

STATE = "fitting.json"  # beside the checkpoints: the identity of their job


@dataclass(frozen=True)
class Fit:
    """A job of fine-tuning: model, texts and settings; it is pickled and sent to workers.

    Attributes:
        folder: of the model to begin with.
        recipe: of the model to begin with: other weights in the same folder make another job.
        prompt: words before each text.
        work: folder of the checkpoints.
        out: folder of the best model.
        texts, labels: for training.
        held_texts, held_labels: for evaluation.
        names: of the labels, by number.
        class_weights: weight of each label's texts in the loss; empty if all weigh the same.
        max_tokens: tokens at which texts are cut.
        epochs: passes over the texts, at most.
        batch_rows: texts of one step of a worker.
        patience: epochs without progress after which training ends.
        quiet: True if no progress is shown.
    """

    folder: str
    recipe: str
    prompt: str
    work: str
    out: str
    texts: list[str]
    labels: list[int]
    held_texts: list[str]
    held_labels: list[int]
    names: list[str]
    class_weights: list[float]
    max_tokens: int
    epochs: int
    batch_rows: int
    learning_rate: float
    patience: int
    seed: int
    quiet: bool

    @property
    def identity(self) -> str:
        """Hash of all that decides the result; training goes on from checkpoints of the same identity."""
        settings = asdict(self)
        for name in ("work", "out", "quiet"):
            del settings[name]
        return hash_parts([settings])


def fit(job: Fit) -> list[dict[str, float]]:
    """Train in this process, from the last checkpoint of the same job if there is one.

    Returns:
        Figures of each epoch: `epoch`, `step` (of all workers together), `loss`, `train_loss`, `accuracy`,
        `f1`, `precision`, `recall`.
    """
    import torch
    import transformers

    if not _in_ray_worker():
        _tidy(job)
    transformers.set_seed(job.seed)
    transformers.utils.logging.set_verbosity_error()
    weights = np.array(job.class_weights, np.float32) if job.class_weights else None
    network = TextClassifier(read_layout(job.folder), len(job.names), weights)
    tokenizer = network.tokenizer

    def collate(rows: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
        texts = [job.prompt + text for text, _ in rows]
        tokens = tokenizer(
            texts, truncation=True, max_length=job.max_tokens, padding=True, return_tensors="pt"
        )
        return {**tokens, "labels": torch.tensor([label for _, label in rows])}

    show = sys.stderr.isatty() and not job.quiet
    arguments = transformers.TrainingArguments(
        output_dir=job.work,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_rows,
        per_device_eval_batch_size=2 * job.batch_rows,
        learning_rate=job.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.1,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # patience, for one
        metric_for_best_model="f1",
        seed=job.seed,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),  # else workers without GPUs do not find each other
        disable_tqdm=not show,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    trainer = transformers.Trainer(
        model=network,
        args=arguments,
        data_collator=collate,
        train_dataset=list(zip(job.texts, job.labels, strict=True)),
        eval_dataset=list(zip(job.held_texts, job.held_labels, strict=True)),
        compute_metrics=_figures,
        callbacks=[transformers.EarlyStoppingCallback(job.patience)],
    )
    trainer = _under_ray(trainer)
    if not show:
        trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=any(Path(job.work).glob("checkpoint-*")) or None)
    history = _history(trainer.state.log_history)
    if trainer.is_world_process_zero():
        network.save(job.out, job.names, job.max_tokens)
    return history


def fit_on_cluster(job: Fit, n_workers: int, *, use_gpu: bool) -> list[dict[str, float]]:
    """Train by `fit` in workers of Ray Train that share each batch; all must see the folders `work` and `out`."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    _tidy(job)  # here, since several workers would do it at once
    file = Path(job.work) / "history.json"

    def loop() -> None:
        history = fit(job)
        if _rank() == 0:
            file.write_text(json.dumps(history))

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=use_gpu),
        run_config=RunConfig(storage_path=str(Path(job.work).absolute() / "ray")),
    ).fit()
    history: list[dict[str, float]] = json.loads(file.read_text())
    return history


def _rank() -> int:
    import ray.train

    return int(ray.train.get_context().get_world_rank())


def _under_ray(trainer: Any) -> Any:  # noqa: ANN401
    """Prepare the trainer for Ray Train, if this process is a worker of Ray Train."""
    if not _in_ray_worker():
        return trainer
    from ray.train.huggingface.transformers import prepare_trainer

    return prepare_trainer(trainer)


def _in_ray_worker() -> bool:
    """True if Ray Train has started this process."""
    return "RANK" in os.environ and "ray" in sys.modules


def _tidy(job: Fit) -> None:
    """Delete checkpoints of another job, and incomplete ones of this job.

    Raises:
        ModelError: The folder of checkpoints holds other files.
    """
    work = Path(job.work)
    state = work / STATE
    if state.is_file():
        if state.read_text(encoding="utf-8") == job.identity:
            for checkpoint in work.glob("checkpoint-*"):  # its state is what is written last
                if not (checkpoint / "trainer_state.json").is_file():
                    shutil.rmtree(checkpoint)
            return
        shutil.rmtree(work)
    elif work.exists() and any(work.iterdir()):
        raise ModelError(
            f"{work}, where checkpoints go, holds something else. Move it away, or give another --out."
        )
    work.mkdir(parents=True, exist_ok=True)
    state.write_text(job.identity, encoding="utf-8")


def _figures(evaluation: Any) -> dict[str, float]:  # noqa: ANN401
    """Accuracy, and macro means over labels of precision, recall and F1."""
    predicted = evaluation.predictions.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        evaluation.label_ids, predicted, average="macro", zero_division=0
    )
    accuracy = accuracy_score(evaluation.label_ids, predicted)
    return {
        "accuracy": float(accuracy),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def _history(log: list[Mapping[str, float]]) -> list[dict[str, float]]:
    """Figures of each epoch from the Trainer's log."""
    by_epoch: dict[int, dict[str, float]] = {}
    for entry in log:
        epoch = by_epoch.setdefault(round(entry["epoch"]), {})
        epoch["step"] = entry["step"]
        if "loss" in entry:
            epoch["train_loss"] = round(entry["loss"], 6)
        for name in ("loss", "accuracy", "precision", "recall", "f1"):
            if f"eval_{name}" in entry:
                epoch[name] = round(entry[f"eval_{name}"], 6)
    epochs = sorted(by_epoch.items())
    return [{"epoch": epoch, **figures} for epoch, figures in epochs if "f1" in figures]
