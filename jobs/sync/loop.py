"""Bring a table in line with a source: plan, embed the due rows, commit in waves, until both agree.

The first run, the retry after a crash and the nightly refresh all pass through `Sync.run`. When
somebody else writes to the table in between, the commit is refused and the run plans again.
"""

import time

from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.canary import CanaryWatch
from jobs.sync.commits import Waves
from jobs.sync.embedding import EmbedStage
from jobs.sync.errors import SyncError
from jobs.sync.events import Events
from jobs.sync.ledger import Ledger
from jobs.sync.planning import Planner
from jobs.sync.summary import ALL_FAILED, EmbedSummary, too_many_failures
from jobs.sync.tally import Tally
from schemas.delta.store import Refused, Table
from schemas.errors import without_secrets

MAX_REPLANS = 20


class Sync:
    """One run on one table.

    Attributes:
        complaint: why the run counts as failed although it came to its end; empty if it does not.
    """

    def __init__(
        self,
        planner: Planner,
        stop: StopSignal,
        events: Events,
        *,
        wave_seconds: float,
        began: float,
    ) -> None:
        """Prepare the run.

        Args:
            planner: knows source, model, table and options of the run.
            stop: ends the run between two steps.
            events: gets an event of each step.
            wave_seconds: time between two commits.
            began: the time of `time.monotonic` at which the command began.
        """
        self.planner, self.table, self.config = planner, planner.table, planner.config
        self.stop, self.events = stop, events
        self.tally, self.complaint = Tally(), ""
        self.canary = CanaryWatch(planner.fingerprint, replaces=self.config.replace)
        self.stage = EmbedStage(self.config, planner.cluster, self.canary, stop, wave_seconds)
        self._makes_table = False
        self._began = began

    def run(self) -> EmbedSummary:
        """Run the sync from its claim on the table to its last commit.

        Raises:
            OtherSpace: the table holds vectors of another model.
            SyncError, WorkerError: the run cannot go on; rows that were committed stay.
            Stopped: SIGINT or SIGTERM came; rows that were complete and quick to write are committed.
            TableBusy: another run has claimed the table.
        """
        self.stage.check_device()  # before there is a table
        table = self.table.open()
        self._makes_table = table is None
        anew = self._makes_table or self.config.replace
        if self.planner.is_large or (anew and not self.planner.is_small):
            self.planner.cluster.start()  # it will be needed: let it start while the source is read
        try:
            return self._run_until_undisturbed(self.table.claim(table))
        except BaseException as error:
            state = "stopped" if isinstance(error, Stopped) else "failed"
            self.events.tell("end", state=state, reason=without_secrets(str(error)))
            self.table.release(state)
            raise

    def _run_until_undisturbed(self, table: Table | None) -> EmbedSummary:
        try:
            with self.table.keep_claim(table):
                ledger = self.planner.scan_source()
        except Refused:
            table = self.table.claim(self.table.open())
        while True:
            try:
                return self._run_until_agreed(table, ledger)
            except Refused as refusal:
                self.tally.n_replans += 1
                self.events.tell("replan", reason=str(refusal))
                if self.tally.n_replans > MAX_REPLANS:
                    raise SyncError(
                        f"{refusal} That was the {MAX_REPLANS}th time: something else keeps "
                        "writing to this table. What was committed stays; run again when it is "
                        "quiet."
                    ) from refusal
                table = self.table.claim(self.table.open())

    def _run_until_agreed(self, table: Table | None, ledger: Ledger) -> EmbedSummary:
        ledger.open(self.config.uri, self.config.store)
        is_first = not ledger.is_planned
        with self.table.keep_claim(table):
            table_scan, plan = self.planner.compare(table, ledger, defer=True)
        if is_first and table is not None:
            self.planner.guard(plan, ledger)
        self.events.plan(len(plan.due) + plan.deferred)
        table, columns, schema, remarks = self.table.prepare(table, ledger.scan.schemas)
        if is_first:
            self.planner.warnings += remarks
        while True:
            ledger.record(plan)
            waves = Waves(
                table,
                table_scan.files,
                plan,
                ledger,
                self.planner.note,
                self.tally,
                self.events,
                apart=self.config.replace,
            )
            self.stage.run(self.planner.work(plan, table_scan, columns, schema), waves)
            if not plan.deferred:
                self.canary.keep(table, self.table.claimed_note)
                return self._finish(table, ledger)
            with self.table.keep_claim(table):
                table_scan, plan = self.planner.compare(table, ledger, defer=False)

    def _finish(self, table: Table, ledger: Ledger) -> EmbedSummary:
        ledger.close()
        counts, config = ledger.counts, self.config
        files_left_out = self.planner.source.left_out()
        end = {**vars(counts), "files_left_out": files_left_out}
        self.table.finish(table, end, self.stop)
        self.events.tell("end", state="done", version=table.version, **end)
        self.complaint = too_many_failures(ledger, config)
        if counts.failed and config.max_failures < 1 and not table.files():
            self.complaint = self.complaint or ALL_FAILED.format(table=config.uri)
        if ledger.n_new and not self.complaint and not self._makes_table:  # else all are new
            self.planner.warnings.append(
                f"of the rows that failed, {ledger.n_new:,} did not before"
            )
        return EmbedSummary.of(
            ledger,
            self.tally,
            config,
            table_version=table.version,
            model=self.planner.model.name,
            templates=list(self.planner.model.templates),
            run=self.planner.note["run"],
            files_left_out=files_left_out,
            warnings=self.planner.warnings + sorted(self.tally.remarks),
            seconds=time.monotonic() - self._began,
        )
