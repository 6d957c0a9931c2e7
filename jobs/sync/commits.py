"""Commit the files that workers have written to the table, a wave at a time; only the driver does this.

A wave is a commit. It adds the files of new rows that have come in. For each group of table files whose due
rows are all in, it also replaces those files by rewritten ones. Failures are committed before the rows that
they replace are removed, so that a row is always in one of the two tables. A row whose source changed while
the run went on stays as it is: the next run takes it.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.runtime.progress import Progress
from jobs.runtime.signals import StopSignal
from jobs.sync.events import Events
from jobs.sync.ledger import Ledger
from jobs.sync.tally import Tally
from schemas.delta.claim import RENEW_SECONDS
from schemas.delta.fragments import Fragment
from schemas.delta.rewriting import batches, discard, rewrite
from schemas.delta.store import Table
from schemas.plan import Plan
from schemas.tables.failures import CHANGED

PORTION_BYTES = 2 << 30  # of files that are rewritten for one commit


@dataclass
class Waves:
    """Collects the workers' reports, and commits the files that they name, in waves.

    Attributes:
        table: the table, at the version that the plan was made for.
        files: the table's files at that version; the plan's arrays hold indices into this list.
        plan: the due rows.
        ledger: takes the rows that failed.
        note: metadata of every commit (run, host, pid, model).
        tally: sums the workers' reports.
        events: gets an event of each wave.
        apart: True if new rows stay in files of their own, whose names say which run made them.
    """

    table: Table
    files: list[Fragment]
    plan: Plan
    ledger: Ledger
    note: Mapping[str, Any]
    tally: Tally
    events: Events
    apart: bool = False

    def __post_init__(self) -> None:
        self._waiting = self.plan.n_due_by_group()
        self._fragments: dict[int, list[Fragment]] = defaultdict(list)
        self._failed: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._open_groups = {g for g in range(1, self.plan.n_groups + 1)}
        self._last_wave = self._last_commit = time.monotonic()
        in_group, n_groups = self.plan.group_of_file, self.plan.n_groups + 1
        sizes = [file.size_bytes for file in self.files]
        self._n_files = np.bincount(in_group, in_group > 0, n_groups)
        self._bytes = np.bincount(in_group, np.where(in_group > 0, sizes, 0), n_groups)

    def take(self, report: Mapping[str, Any]) -> None:
        """Take a worker's report of one group: its file, its counts and its failures."""
        group = report["group"]
        self.tally.add(report)
        self._waiting[group] -= report["n_due"]
        if report["name"] is not None:
            self._fragments[group].append(
                Fragment(report["name"], report["size_bytes"], report["n_rows"])
            )
        self._failed[group] += report["failures"]

    def seconds_since_wave(self) -> float:
        """Seconds since the last `commit`, or since the beginning."""
        return time.monotonic() - self._last_wave

    def commit(self, stop: StopSignal | None = None, *, quiet: bool = True) -> None:
        """Commit all groups whose rows are in; renew the claim if the last commit was long ago.

        Large rewrites are split into several commits, and a signal ends the work between two of them.

        Args:
            stop: raises Stopped if a signal has come; None where no signal counts.
            quiet: True if no progress is shown.

        Raises:
            Refused: somebody else wrote to the table; the refused commit has changed nothing.
            Stopped: a signal came, and there is more to commit.
        """
        ready = [0] if self._fragments[0] or self._failed[0] else []
        ready += [group for group in sorted(self._open_groups) if self._waiting[group] == 0]
        portions = batches(ready, self._bytes.__getitem__, PORTION_BYTES)
        quiet |= len(portions) < 2
        n_files = int(self._n_files[ready].sum())
        with Progress("rewrite", n_files, "files", quiet=quiet) as progress:
            for groups in portions:
                self._commit(groups)
                progress.add(int(self._n_files[groups].sum()))
                if stop is not None and groups is not portions[-1]:
                    stop.check()
        self._last_wave = time.monotonic()
        if self._last_wave - self._last_commit > RENEW_SECONDS:
            self.table.commit({**self.note, "state": "claim"})
            self._last_commit = time.monotonic()

    def _commit(self, groups: list[int]) -> None:
        """Commit groups whose due rows are all in; group 0 has the rows that replace no row of the table."""
        failures = [failure for group in groups for failure in self._failed[group]]
        replaced = self._replaced_rows(groups, failures)
        started = time.monotonic()
        self.ledger.fail(failures)
        added, obsolete, n_added = list[Fragment](), list[Fragment](), 0
        for group in groups:
            indices = (index for index in replaced if self.plan.group_of_file[index] == group)
            to_rewrite = {self.files[index]: replaced[index] for index in indices}
            new = self._fragments[group]
            to_merge = [] if self.apart else new
            written, merged = rewrite(self.table, self.note["run"], to_rewrite, to_merge)
            added += written if to_merge else [*new, *written]
            obsolete += merged
            n_added += sum(fragment.n_rows for fragment in new)
        if added or replaced:
            remove = [self.files[index] for index in replaced]
            version = self.table.version
            try:
                self.table.commit(self._wave_note(n_added), add=added, remove=remove)
            finally:
                if self.table.version > version:  # the rows are in the table, whatever was raised
                    self._close(groups)
            self._last_commit = time.monotonic()
            self.tally.n_waves += 1
            discard(self.table, obsolete)
            self.events.wave(time.monotonic() - started, n_added, self.table.version)
        self._close(groups)

    def _close(self, groups: list[int]) -> None:
        for group in groups:
            self._fragments.pop(group, None)
            self._failed.pop(group, None)
        self._open_groups -= set(groups)

    def _wave_note(self, n_added: int) -> dict[str, Any]:
        note = {**self.note, "state": "wave", "n_added": n_added}
        return note | {"precision": self.tally.precision}

    def _replaced_rows(
        self, groups: list[int], failures: list[dict[str, Any]]
    ) -> dict[int, np.ndarray]:
        """Positions, (r,) each, of the table's rows that some groups replace, by the index of their file."""
        kept_ids = [row["planned_id"] for row in failures if row["stage"] == CHANGED]
        drops = self.plan.drops
        drops = drops[np.isin(self.plan.group_of_file[drops["where"]], groups)]
        drops = drops[~np.isin(drops["id"][:, 0], np.array(kept_ids, np.uint64))]
        return {
            int(index): drops["position"][drops["where"] == index]
            for index in np.unique(drops["where"])
        }
