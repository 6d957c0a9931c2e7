"""Bring a table in line with a source: plan, embed what is due, commit in waves, until both agree.

The first run, the retry after a crash and the nightly refresh all pass through `Sync.run`. When
somebody else writes to the table in between, the commit is refused and the run plans again.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from actors.window import HostedModel, Target
from jobs import claim
from jobs.cluster import Cluster, allocate
from jobs.outcome import Counts
from jobs.pipeline import Work, reports, scan_pieces
from jobs.progress import Progress
from jobs.scan import SourceScan, TableScan, due_by_piece, gather, read_due, scan_piece, scan_table
from jobs.stop import Stopped, StopSignal
from jobs.waves import Tally, Waves, compact
from schemas.embeddings import Fingerprint, fitted, source_columns, table_schema
from schemas.failures import FailureLog
from schemas.keys import KEYS
from schemas.plan import CONFLICT, EMBED, Plan, make_plan
from schemas.store import Refused, StoreError, Table
from sources.rows import Source

DRIVER_BYTES = 256 << 20  # a source up to this size is scanned in the driver while Ray starts
MAX_REPLANS = 20
PRUNE_SHARE = 0.2  # a prune of more than this share of the table's ids asks first
HOPELESS_FAILURES = 1000  # so many, and above --max-failures: stop early
CHECKPOINT_VERSIONS = 50


class SyncError(RuntimeError):
    """A run that ends without having done its work; the message says why and what to do."""


class SyncModel(HostedModel, Protocol):
    """What a sync needs to know of a model; `actors.checkpoints.Model` is one."""

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
    source_name: str
    storage_options: Mapping[str, str] = field(default_factory=dict)
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
    shared_filesystem: bool = False
    token_budget: int = 4096
    wave_seconds: float = 30.0
    claims: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a sync did.

    Attributes:
        failure_share: rows that failed in this run over rows due.
        reasons: rows without a vector, by reason.
    """

    counts: Counts
    tally: Tally
    table_version: int
    embed_seconds: float
    n_waves: int
    n_replans: int
    failure_share: float
    reasons: dict[str, int]
    warnings: list[str]


@dataclass(frozen=True)
class Preview:
    """What a sync would do, with a few of the rows that it would embed."""

    counts: Counts
    n_to_embed: int
    sample: list[str]
    warnings: list[str]


class Sync:
    """One run on one table."""

    def __init__(
        self, source: Source, model: SyncModel, options: SyncOptions, run: str, cluster: Cluster
    ) -> None:
        self.source, self.model, self.options, self.cluster = source, model, options, cluster
        identity = claim.identity(run)
        self.note = {**identity, "command": "embed", "model": model.name, "precision": "fp32"}
        self.fingerprint = _fingerprint(model, options)
        self.pieces = source.pieces()
        unlisted = source.unlisted()
        self.all_listed = not unlisted
        self.warnings = [f"{path} could not be listed: {reason}" for path, reason in unlisted]
        self.stop = StopSignal()
        self.tally = Tally()
        self.embed_seconds = 0.0
        self.n_waves = 0
        self.n_replans = 0
        self._first_plan: Plan | None = None  # its counts are the run's
        self._n_lost = 0  # ids that a rebuilt table loses, since the source lacks them
        self._n_unreadable_new = 0

    def run(self) -> Outcome:
        """Do the work.

        Raises:
            SyncError, WorkerError: the run cannot go on; what was committed stays.
            Stopped: SIGINT or SIGTERM came; what was complete is committed.
            TableBusy: another run holds the table.
        """
        with self.stop.watched():
            table = self._open()
            if table is None or self.options.replace or self._is_large:
                self.cluster.start()  # it will be needed: let it start while the source is read
            try:
                return self._until_undisturbed(self._claim(table))
            except BaseException as error:
                state = "stopped" if isinstance(error, Stopped) else "failed"
                claim.release(self.options.table, self.options.storage_options, self.note, state)
                raise

    def preview(self, n_sample: int) -> Preview:
        """Plan, write nothing, and take a few of the texts that are due."""
        scan = self._scan_source()
        log = FailureLog(self.options.table, self.options.storage_options)
        _, plan = self._plan(self._open(), scan, log, defer=True)
        due = plan.due[plan.due["action"] == EMBED]
        n_sample = min(n_sample, len(due))
        chosen = due[np.linspace(0, len(due) - 1, n_sample).astype(int)] if n_sample else due
        texts: list[str] = []
        for part in due_by_piece(np.sort(chosen, order=["group", "piece", "position"])):
            for rows in read_due(self.source, self.pieces[part["piece"][0]], part, [], {}):
                texts += [text for text in rows["text"].to_pylist() if text]
        return Preview(self._counts(plan, scan), len(due), texts, self.warnings)

    def _until_undisturbed(self, table: Table | None) -> Outcome:
        scan = self._scan_source()
        while True:
            try:
                return self._until_agreed(table, scan)
            except Refused as refusal:
                self.n_replans += 1
                if self.n_replans > MAX_REPLANS:
                    raise SyncError(
                        f"{refusal} That was the {MAX_REPLANS}th time: something else keeps "
                        "writing to this table. What was committed stays; run again when it is "
                        "quiet."
                    ) from refusal
                table = self._claim(self._open())

    def _until_agreed(self, table: Table | None, scan: SourceScan) -> Outcome:
        options = self.options
        log = FailureLog(options.table, options.storage_options)
        columns, remarks = source_columns(scan.schemas)
        rebuilds = table is not None and self._rebuilds(table)
        held, plan = self._plan(table, scan, log, defer=not rebuilds)
        if self._first_plan is None:
            self.warnings += remarks
            if table is not None:
                self._guard_prune(table, scan, plan, rebuilds)
            self._first_plan = plan
        schema = table_schema(columns.values(), self.fingerprint, with_text=options.with_text)
        if table is None:
            claimed = {**self.note, "state": "claim"}
            table = Table.create(options.table, schema, claimed, options.storage_options)
        if not rebuilds:
            columns, schema = self._fit(table, columns)
        unreadable = [self._failure(row) for row in scan.failures.to_pylist()]
        self._n_unreadable_new += log.add(unreadable, self.note)
        while True:
            log.seen[plan.known_failures] = True
            waves = self._work(table, held, plan, log, columns, schema, rebuilds)
            if rebuilds:
                waves.finish_overwrite(schema)
            if not plan.deferred:
                return self._finish(table, scan, log)
            held, plan = self._plan(table, scan, log, defer=False)

    # What is due

    def _open(self) -> Table | None:
        table = Table.open(self.options.table, self.options.storage_options)
        if table is not None and not self.options.replace:
            _refuse_other_space(table, self.fingerprint)
        return table

    def _claim(self, table: Table | None) -> Table | None:
        if table is None or not self.options.claims:
            return table
        return claim.take(table, self.note, wait=self.options.wait)

    def _rebuilds(self, table: Table) -> bool:
        """Whether the table must change as a whole, since no row of it can stay."""
        held = Fingerprint.of(table.schema)
        return held is None or held.comparable != self.fingerprint.comparable

    @property
    def _is_large(self) -> bool:
        return sum(piece.size_bytes for piece in self.pieces) > DRIVER_BYTES

    def _scan_source(self) -> SourceScan:
        limit = self.options.limit
        if self._is_large and limit is None:
            self.cluster.nodes()
            scans = scan_pieces(self.source, self.pieces)
        else:
            indexed = enumerate(self.pieces)
            scans = (scan_piece(self.source, index, piece) for index, piece in indexed)
        done: list[Mapping[str, Any]] = []
        n_rows = 0
        with Progress("read", len(self.pieces), "pieces", quiet=self.options.quiet) as progress:
            for scan in scans:
                done.append(scan)
                progress.add(1)
                self.stop.check()
                n_rows += len(scan["keys"]) // KEYS.itemsize
                if limit is not None and n_rows >= limit:
                    break
        found = gather(done, all_listed=self.all_listed, limit=limit)
        if self.options.prune and not found.complete:
            self.warnings.append("nothing is pruned: a part of the source could not be read")
        return found

    def _plan(
        self, table: Table | None, scan: SourceScan, log: FailureLog, *, defer: bool
    ) -> tuple[TableScan, Plan]:
        options, passages = self.options, bool(self.fingerprint.chunking)
        run = self.note["run"]
        if table is not None and self._rebuilds(table):
            table = None
        only_run = run if options.replace else None
        held = scan_table(table, self.fingerprint.recipe, passages=passages, only_run=only_run)
        anew = options.retry_failed or options.replace
        plan = make_plan(
            scan.keys,
            held.keys,
            log.keys(self.fingerprint.recipe, run if anew else None),
            current_file=held.current_file,
            passages=passages,
            prune=options.prune and scan.complete,
            defer=defer,
        )
        return held, plan

    def _guard_prune(self, table: Table, scan: SourceScan, plan: Plan, rebuilds: bool) -> None:
        n_held, n_gone = plan.n_ids_stored, plan.deleted
        if rebuilds:  # what the source lacks cannot be embedded anew
            passages = "parent_id" in table.schema.names
            ids = np.unique(scan_table(table, "", passages=passages).keys["id"], axis=0)
            n_held = len(ids)
            n_gone = n_held - int(np.isin(ids[:, 0], scan.keys["id"][:, 0]).sum())
            self._n_lost = n_gone
        if n_gone > PRUNE_SHARE * n_held and not self.options.force_prune:
            raise SyncError(
                f"{n_gone:,} of the {n_held:,} ids in the table are no longer in the source, more "
                f"than {PRUNE_SHARE:.0%}. If that is meant, add --prune --force-prune; else look at "
                "the source."
            )

    def _fit(
        self, table: Table, columns: dict[str, pa.Field]
    ) -> tuple[dict[str, pa.Field], pa.Schema]:
        """The source's columns as the table holds them, and the schema of the files to write."""
        columns, missing = fitted(columns, table.schema)
        claimed = {**self.note, "state": "claim"}
        if missing:
            table.add_columns(claimed, missing)
        if Fingerprint.of(table.schema) != self.fingerprint:
            table.describe(claimed, self.fingerprint.metadata())
        vector = self.fingerprint.field
        plain = [field.remove_metadata() for field in table.schema]
        return columns, pa.schema([vector if f.name == vector.name else f for f in plain])

    # What is done

    def _work(
        self,
        table: Table,
        held: TableScan,
        plan: Plan,
        log: FailureLog,
        columns: dict[str, pa.Field],
        schema: pa.Schema,
        at_once: bool,
    ) -> Waves:
        """Let the workers work on what is due, and commit what they have written."""
        options = self.options
        waves = Waves(
            table, held.files, plan, log, self.note, self._failure, self.tally, at_once=at_once
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
        files = [file.name for file in held.files]
        work = Work(self.source, self.pieces, plan.due, files, columns, self.model, target)
        started = time.monotonic()
        try:
            if len(plan.due):
                self._watch(work, waves)
            waves.commit()
        except Refused:
            raise
        except BaseException:
            with contextlib.suppress(StoreError, OSError):  # the error that got us here is the news
                waves.commit()
            raise
        finally:
            self.embed_seconds += time.monotonic() - started
            self.n_waves += waves.n_waves
        return waves

    def _watch(self, work: Work, waves: Waves) -> None:
        use = allocate(
            self._nodes(),
            device=self.options.device,
            actors=self.options.actors,
            n_due=len(work.due),
        )
        with (
            Progress("embed", len(work.due), "rows", quiet=self.options.quiet) as progress,
            contextlib.closing(reports(work, use, self.options.token_budget)) as arriving,
        ):
            for report in arriving:
                if report is not None:
                    waves.take(report)
                progress.add(report["n_due"] if report else 0)
                if waves.seconds_since_commit() > self.options.wave_seconds:
                    waves.commit()
                    self._check_hopeless()
                self.stop.check()

    def _nodes(self) -> list[dict[str, float]]:
        nodes = self.cluster.nodes()
        if (
            len(nodes) > 1
            and "://" not in self.options.table
            and not self.options.shared_filesystem
        ):
            raise SyncError(
                f"TABLE {self.options.table} is a local path, and this Ray cluster has {len(nodes)} "
                "nodes. Give a URI such as s3://bucket/table, or --shared-filesystem if all nodes "
                "see that path."
            )
        return nodes

    def _failure(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A failure of a source or a worker as the failures table has it."""
        content = row["content_hash"]
        return {
            **row,
            "content_hash": content.hex() if isinstance(content, bytes) else content,
            "recipe": self.fingerprint.recipe if row["stage"] == "embed" else None,
            "source": self.options.source_name,
            "run": self.note["run"],
        }

    # What is told

    def _finish(self, table: Table, scan: SourceScan, log: FailureLog) -> Outcome:
        plan = self._first_plan
        assert plan is not None  # noqa: S101 - set before any work
        if scan.complete:  # what this source no longer says is over
            sources = log.rows["source"].to_pylist()
            of_others = np.array([name != self.options.source_name for name in sources], bool)
            log.keep(log.seen | of_others, self.note)
        counts = self._counts(plan, scan)
        compact(table, self.note)
        table.commit({**self.note, "state": "done", **vars(counts)})
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()
        reasons = np.array(log.rows["reason"].to_pylist(), object)[log.seen]
        names, numbers = np.unique(reasons.astype(str), return_counts=True)
        return Outcome(
            counts=counts,
            tally=self.tally,
            table_version=table.version,
            embed_seconds=self.embed_seconds,
            n_waves=self.n_waves,
            n_replans=self.n_replans,
            failure_share=self._failure_share(),
            reasons=dict(zip(names.tolist(), numbers.tolist(), strict=True)),
            warnings=self.warnings,
        )

    def _counts(self, plan: Plan, scan: SourceScan) -> Counts:
        tally = self.tally
        return Counts(
            rows_read=plan.n_rows + len(scan.failures),
            unchanged=plan.unchanged,
            embedded=plan.embedded - tally.n_failed_new,
            replaced=plan.replaced - tally.n_failed_replaced,
            updated=plan.updated - tally.n_failed_updated,
            duplicates=plan.duplicates,
            failed=len(scan.failures) + plan.conflicts + plan.known + tally.n_failed,
            deleted=plan.deleted + self._n_lost,
        )

    def _failure_share(self) -> float:
        plan = self._first_plan
        assert plan is not None  # noqa: S101 - set before any work
        n_conflicts = int((plan.due["action"] == CONFLICT).sum())
        n_failed = self.tally.n_failed + n_conflicts + self._n_unreadable_new
        return n_failed / max(1, len(plan.due) + plan.deferred + self._n_unreadable_new)

    def _check_hopeless(self) -> None:
        share, allowed = self._failure_share(), self.options.max_failures
        if self.tally.n_failed >= HOPELESS_FAILURES and share > allowed:
            raise SyncError(too_many_failures(share, allowed, self.options.table))


def too_many_failures(share: float, allowed: float, table: str) -> str:
    """The message for a run that failed too often."""
    return (
        f"{share:.1%} of the rows due failed, more than --max-failures {allowed:g}. What was "
        f"committed stays; see `embatch failures {table}`, then fix the source, or raise "
        "--max-failures."
    )


def _refuse_other_space(table: Table, mine: Fingerprint) -> None:
    held = Fingerprint.of(table.schema)
    if held is None:
        raise SyncError(
            f"{table.uri} is a Delta table, but not one of embeddings. Give another TABLE."
        )
    rescue = "give another TABLE, or --replace to embed all its rows anew."
    if (held.space, held.dim) != (mine.space, mine.dim):
        raise SyncError(
            f"Table {table.uri} holds vectors of {held.model} ({held.dim}), not {mine.model} "
            f"({mine.dim}). {rescue[0].upper()}{rescue[1:]}"
        )
    if bool(held.chunking) != bool(mine.chunking):
        what, way = ("passages", "with") if held.chunking else ("whole documents", "without")
        raise SyncError(f"Table {table.uri} holds {what}. Run {way} --chunk-tokens, {rescue}")


def _fingerprint(model: SyncModel, options: SyncOptions) -> Fingerprint:
    chunking = f"{options.chunk_tokens}/{options.chunk_overlap}" if options.chunk_tokens else ""
    recipe = f"{model.recipe}-{chunking.replace('/', '-')}" if chunking else model.recipe
    return Fingerprint(model.name, model.dim, model.space, recipe, model.unit, chunking)
