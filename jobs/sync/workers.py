"""The two Ray Data pipelines of a sync: one reads the keys of pieces, the other embeds due rows."""

import math
import queue
import re
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.engine.precision import HostedModel
from actors.worker.window import EmbedWindow, Target
from jobs.runtime.ray_cluster import READ_CPUS, Allocation
from jobs.sync.config import EmbedConfig
from jobs.sync.due import Images, due_by_piece, due_from_bytes, read_due
from jobs.sync.scan import scan_piece
from schemas.delta.fragments import windows
from schemas.errors import UserError
from sources.rows import Piece, Source

if TYPE_CHECKING:
    from ray.data import Dataset

TASK_RETRIES = 10  # Ray's default is for ever, also for a row that kills its worker
POLL_SECONDS = 0.5
JOIN_SECONDS = 5.0
NAMED_ERROR = re.compile(r"[\w.]*(Error|Exception)\b.*:")
WINDOW_BYTES = 16 << 20
WINDOWS_AHEAD = 4  # full windows an actor that may wait; decoding is far ahead of most models
WINDOWS_A_TASK = 4  # so many windows of scattered rows one read task gathers


class WorkerError(UserError):
    """A worker failed for a reason that no single row explains; the message says how."""


@dataclass(frozen=True)
class Work:
    """Work for the workers: the due rows, and all that is needed to embed and write them.

    Attributes:
        config: options of the run.
        source: of the rows.
        model: embeds the rows.
        run: id of the run.
        pieces: of the source, numbered.
        due: (k,) `schemas.plan.DUE`, in the order of work.
        files: names of the table's files; `due["from_file"]` is an index into them.
        columns: the source's other columns with the table's fields for them.
        schema: of the files to write.
    """

    config: EmbedConfig
    source: Source
    model: HostedModel
    run: str
    pieces: list[Piece]
    due: np.ndarray
    files: list[str]
    columns: Mapping[str, pa.Field]
    schema: pa.Schema

    def images(self, threads: int) -> Images | None:
        """Settings for decoding images; None if the model embeds texts."""
        if self.model.preprocess is None:
            return None
        return Images(self.model.preprocess, threads, self.config.keep_images)

    def target(self) -> Target:
        """Address, schema and settings for the files that the workers write."""
        return Target(
            uri=self.config.uri,
            schema=self.schema,
            run=self.run,
            options=self.config.store,
            half=self.config.vector_dtype == "float16",
            chunk_tokens=self.config.chunk_tokens,
            chunk_overlap=self.config.chunk_overlap,
        )


def scan_pieces(source: Source, pieces: Sequence[Piece]) -> Iterator[Mapping[str, Any]]:
    """Scan every piece with `scan_piece` in Ray's tasks; results come in any order."""
    import ray.data

    def scan(row: dict[str, Any]) -> dict[str, Any]:
        return scan_piece(source, row["piece"], pieces[row["piece"]])

    indices = [{"piece": index} for index in range(len(pieces))]
    rows = ray.data.from_items(indices, override_num_blocks=len(indices))
    yield from rows.map(scan, num_cpus=1).iter_rows()


def reports(work: Work, use: Allocation) -> Generator[dict[str, Any] | None, None, None]:
    """Run the workers on Ray and yield their reports.

    Yields:
        Rows of `actors.worker.exchange.REPORT` as they come, and None after each POLL_SECONDS without one,
        so that the caller can do other work. Closing the generator ends the pipeline.

    Raises:
        WorkerError: the pipeline failed, or due rows never came back.
    """
    dataset = _dataset(work, use)
    arrived: queue.Queue[Any] = queue.Queue()
    over = threading.Event()

    def pump() -> None:
        try:
            batches = dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for batch in batches:
                for report in batch.to_pylist():
                    arrived.put(report)
                if over.is_set():
                    return  # leaving the loop ends the pipeline
            arrived.put(None)
        except BaseException as error:  # told to the thread that waits
            arrived.put(error)

    thread = threading.Thread(target=pump, daemon=True, name="reports")
    thread.start()
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
        thread.join(JOIN_SECONDS)
    if n_left:
        raise WorkerError(f"{n_left:,} due rows never came back from the workers; run again.")


def _dataset(work: Work, use: Allocation) -> "Dataset":
    import ray.data
    from ray.data import ExecutionResources

    n_rows = use.window_rows
    if work.model.preprocess is not None:  # so that read tasks are small too
        n_rows = min(n_rows, max(1, WINDOW_BYTES // math.prod(work.model.preprocess.shape)))
    reading = replace(work, due=work.due[:0])  # each task brings its own due rows

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for task in batch.to_pylist():
            due = due_from_bytes(task["due"])
            for window in due_windows(reading, due, n_rows, threads=1):
                yield pa.table({"window": [_to_ipc(window)]})

    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # else no bound on retries
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")
    tasks = [
        {"due": due.tobytes()} for due in read_tasks(work.due, work.pieces, n_rows * WINDOWS_A_TASK)
    ]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    # A block is what one call of an actor gets and what is reported at once: one row, one window.
    dataset.context.target_max_block_size = 1
    dataset.context.execution_options.resource_limits = ExecutionResources(
        object_store_memory=use.n_actors * WINDOWS_AHEAD * WINDOW_BYTES
    )
    dataset = dataset.map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READ_CPUS)
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(work.model, work.target()),
        fn_constructor_kwargs={
            "device": use.device,
            "threads": use.threads,
            "precision": work.config.precision,
        },
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=use.n_actors,
            max_size=None if use.grows else use.n_actors,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=use.cpus,
        num_gpus=use.gpus,
        max_task_retries=TASK_RETRIES,
    )


class _Worker(EmbedWindow):
    """An EmbedWindow whose windows come through Ray, as one row of bytes each."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        return super().__call__(pa.ipc.open_stream(rows["window"][0].as_buffer()).read_all())


def local_reports(work: Work, use: Allocation) -> Generator[dict[str, Any] | None, None, None]:
    """Embed in this process and yield reports as `reports` does: few rows take less time than Ray's start."""
    worker = EmbedWindow(
        work.model,
        work.target(),
        device=use.device,
        threads=use.threads,
        precision=work.config.precision,
    )
    for window in due_windows(work, work.due, use.window_rows, threads=use.threads):
        yield from worker(window).to_pylist()


def due_windows(work: Work, due: np.ndarray, n_rows: int, *, threads: int) -> Iterator[pa.Table]:
    """Windows of due rows for a worker, each of at most n_rows rows and about WINDOW_BYTES bytes.

    Args:
        work: source and pieces of the rows.
        due: (k,) DUE in the order of work.
        n_rows: rows of a window, at most.
        threads: number of threads that decode images.
    """
    rows = (
        table
        for piece, part in due_by_piece(due, work.pieces)
        for table in read_due(
            work.source,
            work.pieces[piece],
            part,
            work.files,
            work.columns,
            work.images(threads),
        )
    )
    return windows(rows, n_rows, WINDOW_BYTES)


def read_tasks(due: np.ndarray, pieces: Sequence[Piece], n_rows: int) -> list[np.ndarray]:
    """Cut due rows, (k,) DUE, into read tasks; pieces with few due rows share a task of at most n_rows."""
    tasks: list[list[np.ndarray]] = []
    for _, part in due_by_piece(due, pieces):
        if tasks and sum(map(len, tasks[-1])) + len(part) <= n_rows:
            tasks[-1].append(part)
        else:
            tasks.append([part])
    return [np.concatenate(parts) for parts in tasks]


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _message(error: BaseException) -> str:
    """Message for a worker's failure: the first error in the text of Ray's error, which wraps it."""
    first = str(error).partition("The above exception was the direct cause")[0]
    lines = [line.strip() for line in first.splitlines() if line.strip()] or [type(error).__name__]
    why = next((line for line in reversed(lines) if NAMED_ERROR.match(line)), lines[-1])
    return f"A worker failed: {why[:300]} What was committed stays; --verbose shows more."
