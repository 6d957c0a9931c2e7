"""Bring a table in line with a source: plan, embed what is due, commit in waves, until both agree.

The first run, the retry after a crash and the nightly refresh all pass through `Sync.run`. When
somebody else writes to the table in between, the commit is refused and the run plans again.
"""

import contextlib
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from actors.window import EmbedWindow, HostedModel, Target
from jobs import claim
from jobs.cluster import READ_CPUS, Allocation, Cluster, allocate
from jobs.progress import Progress
from jobs.scan import (
    SourceScan,
    TableScan,
    due_by_piece,
    due_from_bytes,
    gather,
    read_due,
    scan_piece,
    scan_table,
)
from jobs.waves import Tally, Waves, compact
from schemas.embeddings import Fingerprint, fitted, source_columns, table_schema
from schemas.failures import FailureLog
from schemas.keys import KEYS
from schemas.plan import CONFLICT, EMBED, Plan, make_plan
from schemas.store import Refused, StoreError, Table
from sources.rows import Piece, Source

if TYPE_CHECKING:
    from ray.data import Dataset

DRIVER_BYTES = 256 << 20  # a source up to this size is scanned in the driver while Ray starts
MAX_REPLANS = 20
PRUNE_SHARE = 0.2  # a prune of more than this share of the table's ids asks first
HOPELESS_FAILURES = 1000  # so many, and above --max-failures: stop early
CHECKPOINT_VERSIONS = 50
TASK_RETRIES = 10


class SyncError(RuntimeError):
    """A run that ends without having done its work; the message says why and what to do."""


class Stopped(Exception):
    """A signal ended the run; what was complete is committed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class SyncModel(HostedModel, Protocol):
    """What a sync needs to know of a model; `actors.models.Model` is one."""

    @property
    def name(self) -> str:
        """For display."""

    @property
    def space(self) -> str:
        """Vectors of one space may be compared."""

    @property
    def recipe(self) -> str:
        """Another recipe makes every row due."""

    @property
    def unit(self) -> bool:
        """Whether the vectors have norm 1."""


@dataclass(frozen=True)
class SyncOptions:
    """What a sync may do; see the options of `embatch embed`."""

    table: str
    storage_options: Mapping[str, str] = field(default_factory=dict)
    source_name: str = ""
    prune: bool = False
    force_prune: bool = False
    replace: bool = False
    retry_failed: bool = False
    max_failures: float = 0.1
    limit: int | None = None
    with_text: bool = True
    half: bool = False
    chunk_tokens: int = 0
    chunk_overlap: int = 0
    device: str = "auto"
    actors: int | None = None
    wait: bool = False
    quiet: bool = False
    wave_seconds: float = 30.0
    token_budget: int = 4096
    claims: bool = True
    shared_filesystem: bool = False


@dataclass
class Counts:
    """Where the rows of the source went; all but `rows_read` and `deleted` add up to `rows_read`."""

    rows_read: int = 0
    unchanged: int = 0
    embedded: int = 0
    replaced: int = 0
    updated: int = 0
    duplicates: int = 0
    failed: int = 0
    deleted: int = 0

    def check(self) -> None:
        """Raise AssertionError unless every row is accounted for."""
        parts = (
            self.unchanged
            + self.embedded
            + self.replaced
            + self.updated
            + self.duplicates
            + self.failed
        )
        if parts != self.rows_read:
            raise AssertionError(f"{self.rows_read} rows read, {parts} accounted for: {self}")


@dataclass
class Outcome:
    """What a sync did."""

    counts: Counts
    tally: Tally
    table_version: int
    embed_seconds: float
    n_waves: int
    n_replans: int
    warnings: list[str]
    failure_share: float
    reasons: dict[str, int]
    allocation: Allocation | None


@dataclass(frozen=True)
class Preview:
    """What a sync would do, with a few of the rows that it would embed."""

    plan: Plan
    n_unreadable: int
    sample: list[str]
    warnings: list[str]


class Sync:
    """One run on one table."""

    def __init__(
        self, source: Source, model: SyncModel, options: SyncOptions, run: str, cluster: Cluster
    ) -> None:
        self.source, self.model, self.options = source, model, options
        self.cluster = cluster
        self.note = {
            **claim.identity(run),
            "command": "embed",
            "model": model.name,
            "precision": "fp32",
        }
        self.fingerprint = _fingerprint(model, options)
        self.pieces = source.pieces()
        self.warnings: list[str] = [
            f"{path} could not be listed: {why}" for path, why in source.unlisted()
        ]
        self.stop_signal: int | None = None
        self.tally = Tally()
        self.embed_seconds = 0.0
        self.n_waves = 0
        self.n_replans = 0
        self.allocation: Allocation | None = None
        self._first_plan: Plan | None = None
        self._n_unreadable_new = 0
        self._deleted = 0

    def run(self) -> Outcome:
        """Do the work.

        Raises:
            SyncError: the run cannot go on; what was committed stays.
            Stopped: SIGINT or SIGTERM came; the wave in hand is committed.
            TableBusy: another run holds the table.
        """
        with self._signals():
            table = self._open()
            self._expect_work(table)
            table = self._claim(table)
            try:
                return self._until_undisturbed(table)
            except BaseException as error:
                if self.options.claims and (held := self._open()):
                    claim.release(
                        held, self.note, "stopped" if isinstance(error, Stopped) else "failed"
                    )
                raise

    def _until_undisturbed(self, table: Table | None) -> Outcome:
        scan = self._scan_source()
        while True:
            try:
                return self._until_agreed(table, scan)
            except Refused as refusal:
                self.n_replans += 1
                if self.n_replans > MAX_REPLANS:
                    raise SyncError(
                        f"{refusal} That was the {MAX_REPLANS}th time: something else keeps writing to "
                        "this table. What was committed stays; run again when it is quiet."
                    ) from refusal
                table = self._claim(self._open())

    def _claim(self, table: Table | None) -> Table | None:
        if table is None or not self.options.claims:
            return table
        return claim.take(table, self.note, wait=self.options.wait)

    def preview(self, n_sample: int) -> Preview:
        """Plan, write nothing, and take a few of the texts that are due."""
        table = self._open()
        scan = self._scan_source()
        failures = FailureLog(self.options.table, self.options.storage_options)
        held, plan = self._plan(table, scan, failures, first=True)
        due = plan.to_embed
        due = (
            due[np.linspace(0, len(due) - 1, min(n_sample, len(due))).astype(int)]
            if len(due)
            else due
        )
        texts: list[str] = []
        for part in due_by_piece(np.sort(due, order=["group", "piece", "position"])):
            for rows in read_due(self.source, self.pieces[part["piece"][0]], part, [], {}):
                texts += [text for text in rows["text"].to_pylist() if text]
        return Preview(plan, len(scan.failures), texts, self.warnings)

    # -- plan ---------------------------------------------------------------------------------

    def _open(self) -> Table | None:
        table = Table.open(self.options.table, self.options.storage_options)
        if table is not None:
            self._refuse_other_space(table)
        return table

    def _refuse_other_space(self, table: Table) -> None:
        held = Fingerprint.of(table.schema)
        if held is None:
            raise SyncError(
                f"{table.uri} is a Delta table, but not one of embeddings. Give another TABLE."
            )
        if self.options.replace:
            return
        mine = self.fingerprint
        if held.space != mine.space or held.dim != mine.dim:
            raise SyncError(
                f"Table {table.uri} holds vectors of {held.model} ({held.dim}), not {mine.model} ({mine.dim}). "
                "Give another TABLE, or --replace to embed all its rows anew."
            )
        if bool(held.chunking) != bool(mine.chunking):
            what = "passages" if held.chunking else "whole documents"
            raise SyncError(
                f"Table {table.uri} holds {what}. Run with{'' if held.chunking else 'out'} --chunk-tokens, "
                "give another TABLE, or --replace to embed all its rows anew."
            )

    def _rebuilds(self, table: Table | None) -> bool:
        """Whether the table must change as a whole, since no row of it can stay."""
        held = Fingerprint.of(table.schema) if table else None
        mine = self.fingerprint
        return held is not None and (
            held.space != mine.space
            or held.dim != mine.dim
            or bool(held.chunking) != bool(mine.chunking)
        )

    def _expect_work(self, table: Table | None) -> None:
        """Start Ray while the source is scanned, where it will surely be needed."""
        if table is None or self.options.replace or _size(self.pieces) > DRIVER_BYTES:
            self.cluster.start()

    def _scan_source(self) -> SourceScan:
        indexed = list(enumerate(self.pieces))
        all_listed = not self.source.unlisted()
        scans: list[Mapping[str, Any]] = []
        n_rows = 0
        with Progress("read", len(indexed), "pieces", quiet=self.options.quiet) as progress:
            for scan in self._scans(indexed):
                scans.append(scan)
                n_rows += len(scan["keys"]) // KEYS.itemsize
                progress.add(1)
                self._check_signal()
                if self.options.limit is not None and n_rows >= self.options.limit:
                    break
        return gather(scans, all_listed=all_listed, limit=self.options.limit)

    def _scans(self, indexed: list[tuple[int, Piece]]) -> Iterator[Mapping[str, Any]]:
        if _size(self.pieces) <= DRIVER_BYTES or self.options.limit is not None:
            yield from (scan_piece(self.source, index, piece) for index, piece in indexed)
            return
        self.cluster.nodes()
        import ray.data

        source, pieces = self.source, self.pieces

        def scan(row: dict[str, Any]) -> dict[str, Any]:
            return scan_piece(source, row["piece"], pieces[row["piece"]])

        rows = ray.data.from_items(
            [{"piece": index} for index, _ in indexed], override_num_blocks=len(indexed)
        )
        yield from rows.map(scan, num_cpus=1).iter_rows()

    def _plan(
        self, table: Table | None, scan: SourceScan, failures: FailureLog, *, first: bool
    ) -> tuple[TableScan, Plan]:
        rebuilds = self._rebuilds(table)
        held = scan_table(
            None if rebuilds else table,
            self.fingerprint.recipe,
            passages=bool(self.fingerprint.chunking),
        )
        retrying = self.options.retry_failed or self.options.replace
        known = failures.keys(self.fingerprint.recipe, self.note["run"] if retrying else None)
        prune = self.options.prune and scan.complete
        if self.options.prune and not scan.complete and first:
            self.warnings.append("nothing was pruned: a part of the source could not be read")
        plan = make_plan(
            scan.keys,
            held.keys,
            known,
            current_file=held.current_file,
            passages=bool(self.fingerprint.chunking),
            replace=self.options.replace and first,
            prune=prune,
            defer=first and not rebuilds,
        )
        if first:
            self._guard_prune(table, scan, held, plan, rebuilds)
        return held, plan

    def _guard_prune(
        self, table: Table | None, scan: SourceScan, held: TableScan, plan: Plan, rebuilds: bool
    ) -> None:
        n_held, n_gone = plan.n_ids_stored, plan.deleted
        if rebuilds and table is not None:  # what the source lacks cannot be embedded anew
            old = scan_table(table, "", passages="parent_id" in table.schema.names)
            n_held = len(np.unique(old.keys["id"], axis=0))
            n_gone = n_held - int(np.isin(old.keys["id"][:, 0], scan.keys["id"][:, 0]).sum())
            self._deleted = n_gone = max(0, n_gone)
        if n_gone > PRUNE_SHARE * n_held and not self.options.force_prune:
            raise SyncError(
                f"{n_gone:,} of the table's {n_held:,} rows are no longer in the source, more than "
                f"{PRUNE_SHARE:.0%}. If that is meant, add --force-prune; else look at the source."
            )

    # -- work ---------------------------------------------------------------------------------

    def _until_agreed(self, table: Table | None, scan: SourceScan) -> Outcome:
        options = self.options
        failures = FailureLog(options.table, options.storage_options)
        columns, remarks = source_columns(scan.schemas)
        if self._first_plan is None:
            self.warnings += remarks
        rebuilds = self._rebuilds(table)
        first = self._first_plan is None
        held, plan = self._plan(table, scan, failures, first=first)
        if self._first_plan is None:
            self._first_plan = plan
        fresh_schema = table_schema(columns.values(), self.fingerprint, with_text=options.with_text)
        if table is None:
            table = Table.create(
                options.table,
                fresh_schema,
                {**self.note, "state": "claim"},
                options.storage_options,
            )
        if rebuilds:
            schema = fresh_schema
        else:
            columns, schema = self._fit(table, columns)
        unreadable = [self._failure(row) for row in scan.failures.to_pylist()]
        self._n_unreadable_new += failures.add(unreadable, self.note)
        while True:
            failures.seen[plan.known_failures] = True
            waves = self._work(table, held, plan, failures, columns, schema, rebuilds)
            if rebuilds:
                waves.finish_overwrite(schema)
                rebuilds = False
            if not plan.deferred:
                break
            held, plan = self._plan(table, scan, failures, first=False)
        return self._finish(table, scan, failures)

    def _fit(
        self, table: Table, columns: dict[str, pa.Field]
    ) -> tuple[dict[str, pa.Field], pa.Schema]:
        """The source's columns as the table holds them, and the schema of the files to write."""
        columns, missing = fitted(columns, table.schema)
        if missing:
            table.add_columns({**self.note, "state": "claim"}, missing)
        if Fingerprint.of(table.schema) != self.fingerprint:
            table.describe({**self.note, "state": "claim"}, self.fingerprint.metadata())
        vector = pa.field(
            "embedding",
            pa.list_(pa.float32(), self.fingerprint.dim),
            metadata=self.fingerprint.metadata(),
        )
        fields = [
            vector if field.name == "embedding" else pa.field(field.name, field.type)
            for field in table.schema
        ]
        return columns, pa.schema(fields)

    def _failure(self, row: Mapping[str, Any]) -> dict[str, Any]:
        content = row["content_hash"]
        return {
            **row,
            "content_hash": content.hex() if content else None,
            **self._failure_columns(row["stage"]),
        }

    def _failure_columns(self, stage: str) -> dict[str, Any]:
        return {
            "recipe": self.fingerprint.recipe if stage == "embed" else None,
            "source": self.options.source_name,
            "run": self.note["run"],
        }

    def _work(
        self,
        table: Table,
        held: TableScan,
        plan: Plan,
        failures: FailureLog,
        columns: dict[str, pa.Field],
        schema: pa.Schema,
        at_once: bool,
    ) -> Waves:
        waves = Waves(
            table, held.files, plan, failures, self.note, self._failure_columns, at_once, self.tally
        )
        started = time.monotonic()
        try:
            with Progress(
                "embed", len(plan.due), "rows", quiet=self.options.quiet or not len(plan.due)
            ) as progress:
                with contextlib.closing(self._reports(plan, held, columns, schema)) as reports:
                    for report in reports:
                        if report is not None:
                            waves.take(report)
                        progress.add(report["n_due"] if report else 0)
                        if waves.seconds_since_commit() > self.options.wave_seconds:
                            waves.commit()
                            self._check_hopeless()
                        self._check_signal()
            waves.commit()
        except Refused:
            raise
        except BaseException:
            with contextlib.suppress(
                StoreError, OSError
            ):  # the error that got us here is the one to tell
                waves.commit()
            raise
        finally:
            self.embed_seconds += time.monotonic() - started if len(plan.due) else 0.0
            self.n_waves += waves.n_waves
        return waves

    def _reports(
        self, plan: Plan, held: TableScan, columns: dict[str, pa.Field], schema: pa.Schema
    ) -> Iterator[dict[str, Any] | None]:
        """The workers' reports as they come, and None now and then in between."""
        if not len(plan.due):
            return
        nodes = self.cluster.nodes()
        if (
            len(nodes) > 1
            and "://" not in self.options.table
            and not self.options.shared_filesystem
        ):
            raise SyncError(
                f"TABLE {self.options.table} is a local path, and this Ray cluster has {len(nodes)} nodes. Give a "
                "URI such as s3://bucket/table, or --shared-filesystem if all nodes see that path."
            )
        n_embed = int((plan.due["action"] == EMBED).sum())
        self.allocation = allocate(
            nodes, device=self.options.device, actors=self.options.actors, n_due=max(n_embed, 1)
        )
        dataset = self._dataset(plan, held, columns, schema, self.allocation)
        reports: queue.Queue[Any] = queue.Queue()
        over = threading.Event()

        def pump() -> None:
            try:
                for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for report in batch.to_pylist():
                        reports.put(report)
                    if over.is_set():
                        return  # leaving the loop ends the pipeline
                reports.put(None)
            except BaseException as error:  # noqa: B036 - told to the thread that waits
                reports.put(error)

        threading.Thread(target=pump, daemon=True, name="reports").start()
        n_left = len(plan.due)
        try:
            while True:
                try:
                    report = reports.get(timeout=0.5)
                except queue.Empty:
                    yield None
                    continue
                if report is None:
                    break
                if isinstance(report, BaseException):
                    raise SyncError(_worker_message(report)) from report
                n_left -= report["n_due"]
                yield report
        finally:
            over.set()
        if n_left:
            raise SyncError(f"{n_left:,} due rows never came back from the workers; run again.")

    def _dataset(
        self,
        plan: Plan,
        held: TableScan,
        columns: dict[str, pa.Field],
        schema: pa.Schema,
        use: Allocation,
    ) -> "Dataset":
        import ray.data

        options = self.options
        tasks = [
            {"piece": int(due["piece"][0]), "due": due.tobytes()} for due in due_by_piece(plan.due)
        ]
        source, pieces, files = self.source, self.pieces, [file.name for file in held.files]

        def read(batch: pa.Table) -> Iterator[pa.Table]:
            for task in batch.to_pylist():
                yield from read_due(
                    source, pieces[task["piece"]], due_from_bytes(task["due"]), files, columns
                )

        target = Target(
            uri=options.table,
            schema=schema,
            run=self.note["run"],
            options=options.storage_options,
            half=options.half,
            chunk_tokens=options.chunk_tokens,
            chunk_overlap=options.chunk_overlap,
        )
        warnings.filterwarnings(
            "ignore", "`ray_remote_args` is deprecated"
        )  # no other way yet to bound restarts
        rows = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        rows = rows.map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READ_CPUS)
        return rows.map_batches(
            EmbedWindow,
            fn_constructor_args=(self.model, target),
            fn_constructor_kwargs={
                "device": use.device,
                "threads": use.threads,
                "token_budget": options.token_budget,
            },
            batch_size=use.window_rows,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=use.n_actors,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            num_cpus=use.cpus,
            num_gpus=use.gpus,
            max_task_retries=TASK_RETRIES,  # Ray's default is for ever, also for a row that kills its worker
        )

    # -- end ----------------------------------------------------------------------------------

    def _finish(self, table: Table, scan: SourceScan, failures: FailureLog) -> Outcome:
        plan = self._first_plan
        assert plan is not None  # noqa: S101 - set before any work
        if self.options.limit is None:
            others = np.array(
                [name != self.options.source_name for name in failures.rows["source"].to_pylist()],
                bool,
            )
            failures.keep(failures.seen | others | (not scan.complete), self.note)
        tally = self.tally
        counts = Counts(
            rows_read=plan.n_rows + len(scan.failures),
            unchanged=plan.unchanged,
            embedded=plan.embedded - tally.n_failed_new,
            replaced=plan.replaced - tally.n_failed_replaced,
            updated=plan.updated - tally.n_failed_updated,
            duplicates=plan.duplicates,
            failed=len(scan.failures) + plan.conflicts + plan.known + tally.n_failed,
            deleted=plan.deleted + self._deleted,
        )
        counts.check()
        compact(table, self.note)
        table.commit({**self.note, "state": "done", **vars(counts)})
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()
        reasons: dict[str, int] = {}
        for reason, seen in zip(failures.rows["reason"].to_pylist(), failures.seen, strict=True):
            if seen:
                reasons[reason] = reasons.get(reason, 0) + 1
        return Outcome(
            counts=counts,
            tally=tally,
            table_version=table.version,
            embed_seconds=self.embed_seconds,
            n_waves=self.n_waves,
            n_replans=self.n_replans,
            warnings=self.warnings,
            failure_share=self._failure_share(),
            reasons=reasons,
            allocation=self.allocation,
        )

    def _failure_share(self) -> float:
        plan = self._first_plan
        assert plan is not None  # noqa: S101 - set before any work
        n_conflicts = int((plan.due["action"] == CONFLICT).sum())
        n_failed = self.tally.n_failed + n_conflicts + self._n_unreadable_new
        return n_failed / max(1, len(plan.due) + plan.deferred + self._n_unreadable_new)

    def _check_hopeless(self) -> None:
        share = self._failure_share()
        if self.tally.n_failed >= HOPELESS_FAILURES and share > self.options.max_failures:
            raise SyncError(too_many_failures(share, self.options.max_failures, self.options.table))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, _: object) -> None:
            self.stop_signal = signum

        before: dict[int, Any] = {
            s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _check_signal(self) -> None:
        if self.stop_signal is not None:
            raise Stopped(self.stop_signal)


def too_many_failures(share: float, allowed: float, table: str) -> str:
    """The message for a run that failed too often."""
    return (
        f"{share:.1%} of the rows due failed, more than --max-failures {allowed:g}. What was committed stays; "
        f"see `embatch failures {table}`, then fix the source, or raise --max-failures."
    )


def _fingerprint(model: SyncModel, options: SyncOptions) -> Fingerprint:
    chunking = f"{options.chunk_tokens}/{options.chunk_overlap}" if options.chunk_tokens else ""
    recipe = f"{model.recipe}-{chunking.replace('/', '-')}" if chunking else model.recipe
    return Fingerprint(model.name, model.dim, model.space, recipe, model.unit, chunking)


def _size(pieces: list[Piece]) -> int:
    return sum(piece.size_bytes for piece in pieces)


def _worker_message(error: BaseException) -> str:
    """What went wrong in a worker, without Ray's wrapping."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return f"A worker could not write: {error.strerror}. What was committed stays; run again when it is mended."
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    why = lines[-1] if "ray" in type(error).__module__ else f"{type(error).__name__}: {lines[0]}"
    return f"A worker failed: {why.strip()[:300]}. What was committed stays; --verbose shows more."
