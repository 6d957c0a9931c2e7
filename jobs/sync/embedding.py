"""The embedding stage of a run: workers embed the due rows, and their files are committed as they come."""

import contextlib
import time

from jobs.runtime.progress import Progress
from jobs.runtime.ray_cluster import Cluster, allocate, this_machine
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.canary import CanaryWatch
from jobs.sync.commits import Waves
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from jobs.sync.summary import too_many_failures
from jobs.sync.workers import Work, local_reports, reports
from schemas.delta.store import Refused, StoreError

FEW_ROWS = 512  # so many are embedded in this process, if no Ray is up
HOPELESS_FAILURES = 1000  # so many, and above --max-failures: stop early


class EmbedStage:
    """Lets the workers of one run embed, and commits their files.

    Args:
        config: options of the run.
        cluster: the Ray in which workers run; few rows are embedded without it.
        canary: checks the first report of each worker.
        stop: ends the stage between two reports.
        wave_seconds: time between two commits.
    """

    def __init__(
        self,
        config: EmbedConfig,
        cluster: Cluster,
        canary: CanaryWatch,
        stop: StopSignal,
        wave_seconds: float,
    ) -> None:
        self.config, self.cluster, self.canary, self.stop = config, cluster, canary, stop
        self.wave_seconds = wave_seconds

    def check_device(self) -> None:
        """Raise a UsageError if the run asks for a GPU and this machine, where it will run, has none."""
        if self.config.device == "cuda" and not self.cluster.is_up():
            allocate([this_machine()], device="cuda", actors=None, n_due=0)

    def run(self, work: Work, waves: Waves) -> None:
        """Let the workers embed the due rows, and commit the files that they write.

        Raises:
            Refused: somebody else wrote to the table.
            SyncError: too many rows fail; rows that were committed stay.
            Stopped: a signal came; rows that were complete and quick to write are committed.
        """
        started = time.monotonic()
        try:
            try:
                if len(work.due):
                    self._watch(work, waves)
            except Refused:
                raise
            except BaseException:  # the error that got us here is the news
                with contextlib.suppress(StoreError, OSError, Stopped):
                    waves.commit(self.stop)
                raise
            waves.commit(self.stop, quiet=self.config.quiet)
        finally:
            waves.tally.embed_seconds += time.monotonic() - started

    def _watch(self, work: Work, waves: Waves) -> None:
        config, tally = self.config, waves.tally
        here = len(work.due) <= FEW_ROWS and config.actors <= 1 and not self.cluster.is_up()
        started, is_first = time.monotonic(), True
        use = allocate(
            [this_machine()] if here else self._nodes(),
            device=config.device,
            actors=config.actors or None,
            n_due=len(work.due),
            model_bytes=work.model.size_bytes,
            grows=self.cluster.grows,
        )
        tally.n_actors = use.n_actors
        make = local_reports if here else reports
        with (
            Progress("embed", len(work.due), "rows", quiet=config.quiet) as progress,
            contextlib.closing(make(work, use)) as arriving,
        ):
            for report in arriving:
                if report is not None:
                    if is_first:
                        tally.start_seconds += time.monotonic() - started - report["seconds"]
                        is_first = False
                    self.canary.check(report, waves.table, {**waves.note, "state": "claim"})
                    waves.take(report)
                    progress.add(report["n_due"])
                    waves.events.report(report, progress.total - progress.done)
                    elapsed = time.monotonic() - started - tally.start_seconds
                    waves.events.starved_share(tally.starved_share(elapsed))
                progress.add()
                if waves.seconds_since_wave() > self.wave_seconds:
                    waves.commit(self.stop)
                    self._check_hopeless(waves)
                self.stop.check()

    def _nodes(self) -> list[dict[str, float]]:
        """Resources of each node; raises a SyncError for a table that only one of several nodes would see."""
        nodes = self.cluster.nodes()
        table = self.config.uri
        if len(nodes) > 1 and "://" not in table and not self.config.shared_filesystem:
            raise SyncError(
                f"TABLE {table} is a local path, and this Ray cluster has {len(nodes)} "
                "nodes. Give a URI such as s3://bucket/table, or --shared-filesystem if all nodes "
                "see that path."
            )
        return nodes

    def _check_hopeless(self, waves: Waves) -> None:
        complaint = too_many_failures(waves.ledger, self.config)
        if waves.ledger.n_refused >= HOPELESS_FAILURES and complaint:
            raise SyncError(complaint)
