"""Bring a table in line with a source: plan, embed what is due, commit in waves, until both agree.

The first run, the retry after a crash and the nightly refresh all pass through `Sync.run`. When
somebody else writes to the table in between, the commit is refused and the run plans again.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from actors.window import Target
from jobs import claim
from jobs.canary import CanaryWatch
from jobs.cluster import Cluster, allocate, this_machine
from jobs.events import Events
from jobs.outcome import Counts, Outcome, Preview, too_many_failures
from jobs.pipeline import Work, reports, reports_here
from jobs.planning import Planner, SyncError, SyncModel, SyncOptions
from jobs.preview import sample_due
from jobs.progress import Progress
from jobs.rewriting import compact
from jobs.scan import SourceScan, TableScan
from jobs.stop import Stopped, StopSignal
from jobs.waves import Tally, Waves
from schemas.columns import source_columns
from schemas.embeddings import table_schema
from schemas.failures import OF_RECIPE, FailureLog
from schemas.keys import id_hashes
from schemas.plan import CONFLICT, EMBED, Plan
from schemas.store import Refused, StoreError, Table
from sources.rows import Source, without_secrets

MAX_REPLANS = 20
FEW_ROWS = 512  # so many are embedded in this process, if no Ray is up
HOPELESS_FAILURES = 1000  # so many, and above --max-failures: stop early
CHECKPOINT_VERSIONS = 50


class Sync:
    """One run on one table."""

    def __init__(
        self,
        source: Source,
        model: SyncModel,
        options: SyncOptions,
        run: str,
        cluster: Cluster,
        stop: StopSignal,
        events: Events,
    ) -> None:
        self.source, self.model, self.options, self.cluster = source, model, options, cluster
        self.note = {**claim.identity(run), "command": "embed", "model": model.name}
        self.note |= {"given_model": options.given_model, "source": options.source_name}
        self.note |= {"word_weights": options.word_weights} if options.word_weights else {}
        self.note |= {"templates": list(model.templates)} if model.templates else {}
        self.stop, self.events = stop, events
        self.planner = Planner(source, model, options, self.note, cluster, self.stop)
        self.canary = CanaryWatch(self.planner.fingerprint, replaces=options.replace)
        self.tally = Tally()
        self.embed_seconds = 0.0
        self.start_seconds = 0.0  # of these, until the first worker was ready
        self.n_actors = 1
        self.n_waves = 0
        self.n_replans = 0
        self._first_plan: Plan | None = None  # its counts are the run's
        self._n_lost = 0  # ids that a rebuilt table loses, since the source lacks them
        self._n_unreadable_new = 0
        self._seen: set[int] = set()  # failures that this run has met

    def run(self) -> Outcome:
        """Do the work.

        Raises:
            SyncError, WorkerError: the run cannot go on; what was committed stays.
            Stopped: SIGINT or SIGTERM came; what was complete, and quick to write, is committed.
            TableBusy: another run holds the table.
        """
        table = self.planner.open_table()
        anew = table is None or self.options.replace
        if self.planner.is_large or (anew and not self.planner.is_small):
            self.cluster.start()  # it will be needed: let it start while the source is read
        try:
            return self._until_undisturbed(self.planner.claim_table(table))
        except BaseException as error:
            state = "stopped" if isinstance(error, Stopped) else "failed"
            self.events.tell("end", state=state, reason=without_secrets(str(error)))
            claim.release(self.options.table, self.options.storage_options, self.note, state)
            raise

    def preview(self, n_sample: int) -> Preview:
        """Plan, write nothing, and take a few of the texts or images that are due."""
        scan = self.planner.scan_source()
        log = FailureLog(self.options.table, self.options.storage_options)
        _, plan = self.planner.compare(self.planner.open_table(), scan, log, defer=True)
        due = plan.due[plan.due["action"] == EMBED]
        sample = sample_due(self.source, self.planner.pieces, due, n_sample, self.model.preprocess)
        return Preview(self._counts(plan, scan), len(due), sample, self.planner.warnings)

    def _until_undisturbed(self, table: Table | None) -> Outcome:
        scan = self.planner.scan_source()
        while True:
            try:
                return self._until_agreed(table, scan)
            except Refused as refusal:
                self.n_replans += 1
                self.events.tell("replan", reason=str(refusal))
                if self.n_replans > MAX_REPLANS:
                    raise SyncError(
                        f"{refusal} That was the {MAX_REPLANS}th time: something else keeps "
                        "writing to this table. What was committed stays; run again when it is "
                        "quiet."
                    ) from refusal
                table = self.planner.claim_table(self.planner.open_table())

    def _until_agreed(self, table: Table | None, scan: SourceScan) -> Outcome:
        options = self.options
        log = FailureLog(options.table, options.storage_options, self._seen)
        columns, remarks = source_columns(scan.schemas)
        rebuilds = table is not None and self.planner.rebuilds(table)
        held, plan = self.planner.compare(table, scan, log, defer=not rebuilds)
        if self._first_plan is None:
            self.planner.warnings += remarks
            if table is not None:
                self._n_lost = self.planner.guard_prune(table, scan, plan)
            n_before = log.n_unreadable(options.source_name)
            self._n_unreadable_new = max(0, len(scan.failures) - n_before)
            self._first_plan = plan
        self.events.plan(len(plan.due) + plan.deferred)
        modality, fingerprint = self.source.options.modality, self.planner.fingerprint
        schema = table_schema(
            columns.values(), fingerprint, with_text=options.with_text, modality=modality
        )
        if table is None:
            claimed = {**self.note, "state": "claim"}
            table = Table.create(options.table, schema, claimed, options.storage_options)
        if not rebuilds:
            columns, schema = self.planner.fit(table, columns)
        unreadable = [self._failure(row) for row in scan.failures.to_pylist()]
        log.add(unreadable, self.note)
        while True:
            log.meet(plan.known_failures)
            waves = self._work(table, held, plan, log, columns, schema, rebuilds)
            if rebuilds:
                waves.finish_overwrite(schema)
            if not plan.deferred:
                self.canary.keep(table, {**self.note, "state": "claim"})
                return self._finish(table, scan, log)
            held, plan = self.planner.compare(table, scan, log, defer=False)

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
            table,
            held.files,
            plan,
            log,
            self.note,
            self._failure,
            self.tally,
            self.events,
            at_once=at_once,
            apart=options.replace,
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
        work = Work(
            source=self.source,
            pieces=self.planner.pieces,
            due=plan.due,
            files=[file.name for file in held.files],
            columns=columns,
            model=self.model,
            target=target,
            keep_images=self.options.keep_images,
        )
        started = time.monotonic()
        try:
            try:
                if len(plan.due):
                    self._watch(work, waves)
            except Refused:
                raise
            except BaseException:  # the error that got us here is the news
                with contextlib.suppress(StoreError, OSError, Stopped):
                    waves.commit(self.stop)
                raise
            waves.commit(self.stop, quiet=options.quiet)
        finally:
            self.embed_seconds += time.monotonic() - started
            self.n_waves += waves.n_waves
        return waves

    def _watch(self, work: Work, waves: Waves) -> None:
        here = len(work.due) <= FEW_ROWS and (self.options.actors or 1) == 1
        here = here and not self.cluster.is_up()
        started, is_first = time.monotonic(), True
        use = allocate(
            [this_machine()] if here else self.planner.nodes(),
            device=self.options.device,
            actors=self.options.actors,
            n_due=len(work.due),
            model_bytes=self.model.size_bytes,
            grows=self.cluster.grows,
        )
        self.n_actors = use.n_actors
        make = reports_here if here else reports
        with (
            Progress("embed", len(work.due), "rows", quiet=self.options.quiet) as progress,
            contextlib.closing(
                make(
                    work,
                    use,
                    precision=self.options.precision,
                    token_budget=self.options.token_budget,
                )
            ) as arriving,
        ):
            for report in arriving:
                if report is not None:
                    if is_first:
                        self.start_seconds += time.monotonic() - started - report["seconds"]
                        is_first = False
                    self.canary.check(report, waves.table, {**self.note, "state": "claim"})
                    waves.take(report)
                    progress.add(report["n_due"])
                    self.events.report(report, progress.total - progress.done)
                    elapsed = time.monotonic() - started - self.start_seconds
                    self.events.shares(
                        self.tally.gemm_share, self.tally.starved_share(elapsed, use.n_actors)
                    )
                progress.add()
                if waves.seconds_since_wave() > self.options.wave_seconds:
                    waves.commit(self.stop)
                    self._check_hopeless()
                self.stop.check()

    def _failure(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A failure of a source or a worker as the failures table has it."""
        content = row["content_hash"]
        return {
            **row,
            "source_file": without_secrets(row["source_file"]),
            "reason": without_secrets(row["reason"]),
            "content_hash": content.hex() if isinstance(content, bytes) else content,
            "recipe": self.planner.fingerprint.recipe if row["stage"] in OF_RECIPE else None,
            "source": self.options.source_name,
            "run": self.note["run"],
        }

    def _finish(self, table: Table, scan: SourceScan, log: FailureLog) -> Outcome:
        plan = self._first_plan
        assert plan is not None  # set before any work
        sources = log.rows["source"].to_pylist()
        over = ~log.seen & np.array([name == self.options.source_name for name in sources], bool)
        if not scan.complete:  # what was read and is not refused again is over all the same
            over &= log.of_model & np.isin(id_hashes(log.rows["id"])[:, 0], scan.keys["id"][:, 0])
        log.keep(~over, self.note)
        counts = self._counts(plan, scan)
        compact(table, self.note, self.stop, quiet=self.options.quiet)
        table.commit({**self.note, "state": "done", **vars(counts)})
        self.events.tell("end", state="done", version=table.version, **vars(counts))
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()
        reasons = np.array(log.rows["reason"].to_pylist(), object)[log.seen]
        names, numbers = np.unique(reasons.astype(str), return_counts=True)
        return Outcome(
            counts=counts,
            tally=self.tally,
            table_version=table.version,
            embed_seconds=self.embed_seconds,
            start_seconds=self.start_seconds,
            n_actors=self.n_actors,
            n_waves=self.n_waves,
            n_replans=self.n_replans,
            failure_share=self._failure_share(),
            reasons=dict(zip(names.tolist(), numbers.tolist(), strict=True)),
            warnings=self.planner.warnings,
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
        assert plan is not None  # set before any work
        n_conflicts = int((plan.due["action"] == CONFLICT).sum())
        n_failed = self.tally.n_failed + n_conflicts + self._n_unreadable_new
        return n_failed / max(1, len(plan.due) + plan.deferred + self._n_unreadable_new)

    def _check_hopeless(self) -> None:
        share, allowed = self._failure_share(), self.options.max_failures
        if self.tally.n_failed >= HOPELESS_FAILURES and share > allowed:
            raise SyncError(too_many_failures(share, allowed, self.options.table))
