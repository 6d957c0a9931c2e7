"""The two Ray Data pipelines of a sync: pieces to keys, and due rows to the workers' reports."""

import queue
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.window import EmbedWindow, HostedModel, Target
from jobs.cluster import READ_CPUS, Allocation
from jobs.scan import due_by_piece, due_from_bytes, read_due, scan_piece
from sources.rows import Piece, Source

if TYPE_CHECKING:
    from ray.data import Dataset

TASK_RETRIES = 10  # Ray's default is for ever, also for a row that kills its worker
POLL_SECONDS = 0.5


class WorkerError(RuntimeError):
    """A worker failed in a way that no other row can be spared of; the message says how."""


@dataclass(frozen=True)
class Work:
    """What the workers are to do.

    Attributes:
        source: where the rows are.
        pieces: its pieces, which `due` points into.
        due: (k,) `schemas.plan.DUE`, in the order of work.
        files: names of the table's files, which `due` points into.
        columns: the source's other columns with the table's fields for them.
        model: embeds.
        target: where the workers write.
    """

    source: Source
    pieces: list[Piece]
    due: np.ndarray
    files: list[str]
    columns: Mapping[str, pa.Field]
    model: HostedModel
    target: Target


def scan_pieces(source: Source, pieces: Sequence[Piece]) -> Iterator[Mapping[str, Any]]:
    """`scan_piece` of every piece, by Ray's tasks, in any order."""
    import ray.data

    def scan(row: dict[str, Any]) -> dict[str, Any]:
        return scan_piece(source, row["piece"], pieces[row["piece"]])

    indices = [{"piece": index} for index in range(len(pieces))]
    rows = ray.data.from_items(indices, override_num_blocks=len(indices))
    yield from rows.map(scan, num_cpus=1).iter_rows()


def reports(
    work: Work, use: Allocation, token_budget: int
) -> Generator[dict[str, Any] | None, None, None]:
    """Run the workers.

    Yields:
        Rows of `actors.window.REPORT` as they come, and None now and then in between, so that who
        waits can do something else. Closing the generator ends the pipeline.

    Raises:
        WorkerError: the pipeline failed, or due rows never came back.
    """
    dataset = _dataset(work, use, token_budget)
    arrived: queue.Queue[Any] = queue.Queue()
    over = threading.Event()

    def pump() -> None:
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for report in batch.to_pylist():
                    arrived.put(report)
                if over.is_set():
                    return  # leaving the loop ends the pipeline
            arrived.put(None)
        except BaseException as error:  # noqa: B036 - told to the thread that waits
            arrived.put(error)

    threading.Thread(target=pump, daemon=True, name="reports").start()
    n_left = len(work.due)
    try:
        while True:
            try:
                report = arrived.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if report is None:
                break
            if isinstance(report, BaseException):
                raise WorkerError(_message(report)) from report
            n_left -= report["n_due"]
            yield report
    finally:
        over.set()
    if n_left:
        raise WorkerError(f"{n_left:,} due rows never came back from the workers; run again.")


def _dataset(work: Work, use: Allocation, token_budget: int) -> "Dataset":
    import ray.data

    source, pieces, files, columns = work.source, work.pieces, work.files, work.columns

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for task in batch.to_pylist():
            due = due_from_bytes(task["due"])
            yield from read_due(source, pieces[task["piece"]], due, files, columns)

    parts = due_by_piece(work.due)
    tasks = [{"piece": int(due["piece"][0]), "due": due.tobytes()} for due in parts]
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # else no bound on retries
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    rows = rows.map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READ_CPUS)
    return rows.map_batches(
        EmbedWindow,
        fn_constructor_args=(work.model, work.target),
        fn_constructor_kwargs={
            "device": use.device,
            "threads": use.threads,
            "token_budget": token_budget,
        },
        batch_size=use.window_rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=use.n_actors, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        num_cpus=use.cpus,
        num_gpus=use.gpus,
        max_task_retries=TASK_RETRIES,
    )


def _message(error: BaseException) -> str:
    """What went wrong in a worker, without Ray's wrapping."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return (
            f"A worker could not write: {error.strerror}. What was committed stays; "
            "run again when it is mended."
        )
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    from_ray = "ray" in type(error).__module__
    why = lines[-1] if from_ray else f"{type(error).__name__}: {lines[0]}"
    return f"A worker failed: {why.strip()[:300]}. What was committed stays; --verbose shows more."
