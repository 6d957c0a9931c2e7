"""Bring a table in line with a source: plan, embed what is due, commit in waves, until both agree.

The first run, the retry after a crash and the nightly refresh all pass through `Sync.run`. When
somebody else writes to the table in between, the commit is refused and the run plans again.
"""

import contextlib
import time
from contextlib import AbstractContextManager

import pyarrow as pa

from actors.worker.window import Target
from jobs.runtime.progress import Progress
from jobs.runtime.ray_cluster import Cluster, allocate, this_machine
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.canary import CanaryWatch
from jobs.sync.commits import Tally, Waves
from jobs.sync.dry_run import sample_due
from jobs.sync.events import Events
from jobs.sync.ledger import Ledger
from jobs.sync.planning import Planner, SyncError, SyncModel, SyncOptions
from jobs.sync.scan import SourceScan, TableScan
from jobs.sync.summary import ALL_FAILED, Outcome, Preview, too_many_failures
from jobs.sync.workers import Work, reports, reports_here
from schemas.columns import source_columns
from schemas.delta import claim
from schemas.delta.rewriting import compact
from schemas.delta.store import Refused, StoreError, Table
from schemas.errors import without_secrets
from schemas.plan import EMBED, Plan
from schemas.tables.embeddings import table_schema
from sources.rows import Source

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
        self._makes_table = False

    def run(self) -> Outcome:
        """Do the work.

        Raises:
            SyncError, WorkerError: the run cannot go on; what was committed stays.
            Stopped: SIGINT or SIGTERM came; what was complete, and quick to write, is committed.
            TableBusy: another run holds the table.
        """
        table = self.planner.open_table()
        self._makes_table = table is None
        anew = self._makes_table or self.options.replace
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
        ledger = self._ledger(scan)
        log = ledger.open(self.options.table, self.options.storage_options)
        _, plan = self.planner.compare(self.planner.open_table(), scan, log, defer=True)
        ledger.plan(plan)
        due = plan.due[plan.due["action"] == EMBED]
        sample = sample_due(self.source, self.planner.pieces, due, n_sample, self.model.preprocess)
        return Preview(
            ledger.counts, len(due), sample, self.source.left_out(), self.planner.warnings
        )

    def _ledger(self, scan: SourceScan) -> Ledger:
        return Ledger(
            scan,
            self.planner.pieces,
            source=self.options.source_name,
            also_known_as=self.options.given_source,
            recipe=self.planner.fingerprint.recipe,
            note=self.note,
        )

    def _until_undisturbed(self, table: Table | None) -> Outcome:
        try:
            with self._claim_kept(table):
                scan = self.planner.scan_source()
        except Refused:
            table = self.planner.claim_table(self.planner.open_table())
        ledger = self._ledger(scan)
        while True:
            try:
                return self._until_agreed(table, scan, ledger)
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

    def _claim_kept(self, table: Table | None) -> AbstractContextManager[None]:
        return claim.kept(table if self.options.claims else None, self.note)

    def _until_agreed(self, table: Table | None, scan: SourceScan, ledger: Ledger) -> Outcome:
        options = self.options
        log = ledger.open(options.table, options.storage_options)
        columns, remarks = source_columns(scan.schemas)
        rebuilds = table is not None and self.planner.rebuilds(table)
        with self._claim_kept(table):
            held, plan = self.planner.compare(table, scan, log, defer=not rebuilds)
        is_first = not ledger.is_planned
        ledger.plan(plan)
        if is_first:
            self.planner.warnings += remarks
            if table is not None:
                ledger.n_deleted += self.planner.guard(table, scan, plan, ledger)
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
        while True:
            ledger.record(plan)
            waves = self._work(table, held, plan, ledger, columns, schema, rebuilds)
            if rebuilds:
                waves.finish_overwrite(schema)
            if not plan.deferred:
                self.canary.keep(table, {**self.note, "state": "claim"})
                return self._finish(table, ledger)
            with self._claim_kept(table):
                held, plan = self.planner.compare(table, scan, log, defer=False)
            ledger.plan(plan)

    def _work(
        self,
        table: Table,
        held: TableScan,
        plan: Plan,
        ledger: Ledger,
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
            ledger,
            self.note,
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
                    self.events.starved(self.tally.starved_share(elapsed, use.n_actors))
                progress.add()
                if waves.seconds_since_wave() > self.options.wave_seconds:
                    waves.commit(self.stop)
                    self._check_hopeless(waves.ledger)
                self.stop.check()

    def _finish(self, table: Table, ledger: Ledger) -> Outcome:
        ledger.close()
        counts = ledger.counts
        with Progress("join", 0, "files", quiet=self.options.quiet) as progress:
            compact(table, self.note, self.stop.check, progress.reach)
        end = {**vars(counts), "files_left_out": self.source.left_out()}
        table.commit({**self.note, "state": "done", **end})
        self.events.tell("end", state="done", version=table.version, **end)
        if table.version % CHECKPOINT_VERSIONS == 0:
            table.checkpoint()
        complaint = too_many_failures(ledger, self.options.max_failures, self.options.table)
        if counts.failed and self.options.max_failures < 1 and not table.files():
            complaint = complaint or ALL_FAILED.format(table=self.options.table)
        if ledger.n_new and not complaint and not self._makes_table:  # else all failures are new
            self.planner.warnings.append(
                f"of the rows that failed, {ledger.n_new:,} did not before"
            )
        return Outcome(
            counts=counts,
            tally=self.tally,
            table_version=table.version,
            embed_seconds=self.embed_seconds,
            start_seconds=self.start_seconds,
            n_actors=self.n_actors,
            n_waves=self.n_waves,
            n_replans=self.n_replans,
            complaint=complaint,
            reasons=ledger.reasons,
            files_left_out=self.source.left_out(),
            warnings=self.planner.warnings,
        )

    def _check_hopeless(self, ledger: Ledger) -> None:
        complaint = too_many_failures(ledger, self.options.max_failures, self.options.table)
        if ledger.n_refused >= HOPELESS_FAILURES and complaint:
            raise SyncError(complaint)
