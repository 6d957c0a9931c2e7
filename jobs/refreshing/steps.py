"""One step of a refresh: whether it is due, and what it did, as a row of the table of refreshes."""

import dataclasses
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import embed
from jobs.refreshing.corpus_file import Step
from jobs.refreshing.drift import centroid_shift, neighbours_changed, same_rows
from jobs.runtime.command import USER_ERRORS, explained, table_uri
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.errors import OtherSpace
from jobs.sync.model_switch import clear
from jobs.sync.summary import DryRunSummary, EmbedSummary, TooManyFailures, left_out_line
from schemas.delta.store import Table
from schemas.errors import named_error_line
from schemas.tables.failures import FailureLog
from schemas.tables.refreshes import StepRow


class Steps:
    """Does the steps of one refresh.

    Attributes:
        rows: what became of those that were tried.
    """

    def __init__(
        self,
        refresh: str,
        started: datetime,
        steps: Sequence[Step],
        past: Sequence[StepRow],
        options: Mapping[str, str],
        stop: StopSignal,
        **flags: bool,
    ) -> None:
        """Prepare; nothing is done yet.

        Args:
            refresh: its name.
            started: when.
            steps: all of them, in order.
            past: what became of steps in earlier refreshes, oldest first.
            options: for the object store.
            stop: a signal ends a follow-up at once, and an embedding with its wave.
            flags: options that each command takes from the refresh, where it knows them.
        """
        self.refresh, self.started, self.options, self.flags = refresh, started, options, flags
        self.stop = stop
        self.makers = {step.output: step for step in steps if step.output}
        done = (row for row in past if row.options is not None)
        self.last = {(row.command, row.name): row for row in done}  # the last success of each
        self.rows: list[StepRow] = []

    def do(self, step: Step) -> None:
        """Do a step, if it is due; its row says what came of it.

        Raises:
            Stopped: SIGINT or SIGTERM; its row is there.
        """
        self.stop.check()
        began = time.monotonic()
        told: dict[str, Any] = {}
        try:
            if blocked := self._blocked(step):
                told = {"state": "skipped", "message": f"{blocked} did not succeed."}
            elif self._is_current(step):
                told = {"state": "current", **self._made_of(step)}
            else:
                sys.stderr.write(f"{step}\n")
                told = self._embed(step) if step.command == "embed" else self._follow(step)
        except USER_ERRORS as error:
            told = {"state": "failed", "message": explained(error)}
        except Stopped as stopped:
            told = {"state": "stopped", "message": f"{stopped}."}
            raise
        except Exception as error:  # our own mistake in one step must not cost the night
            traceback.print_exc()
            told = {"state": "failed", "message": named_error_line(error)}
        finally:
            self._add(step, {**told, "seconds": round(time.monotonic() - began, 3)})

    def foresee(self, step: Step) -> None:
        """What a step would do; writes nothing."""
        if step.command != "embed":
            made = [self.makers[uri] for uri in step.inputs if uri in self.makers]
            due = {(row.command, row.name) for row in self.rows if row.state != "current"}
            moved = any((one.command, one.name) in due for one in made)
            self._add(step, {"state": "due" if moved or not self._is_current(step) else "current"})
            return
        try:
            told = embed.run(dataclasses.replace(self._asked(step), dry_run=True))
        except OtherSpace as other:
            self._add(step, {"state": "due", "message": f"{other} Here: all rows anew."})
        except USER_ERRORS as error:
            self._add(step, {"state": "failed", "message": explained(error)})
        else:
            assert isinstance(told, DryRunSummary)  # it was asked for
            changed = told.replaced + told.updated
            counts = {"new": told.embedded, "changed": changed, "vanished": told.deleted}
            counts |= {"failed": told.failed, "rows": told.rows_read}
            is_due = told.embedded + changed + told.deleted > 0
            expected = {"seconds": told.seconds_expected, "rows_per_second": told.rows_per_second}
            self._add(step, {"state": "due" if is_due else "current", **counts, **expected})

    def _add(self, step: Step, told: Mapping[str, Any]) -> None:
        self.rows.append(StepRow(self.refresh, self.started, step.command, step.name, **told))

    def _asked(self, step: Step) -> Any:  # noqa: ANN401 one of the commands' options
        """A step's options with the refresh's flags; waiting is asked for here or there."""
        known = {option.name for option in dataclasses.fields(step.config)}
        flags = {name: flag for name, flag in self.flags.items() if name in known}
        return dataclasses.replace(step.config, **{n: f for n, f in flags.items() if f})

    # Doing

    def _embed(self, step: Step) -> dict[str, Any]:
        asked = self._asked(step)
        before, state = self._version_before(step), "done"
        try:
            summary = embed.run(asked, stop=self.stop)
            clear(table_uri(step.output), self.options)
            remark = []
        except OtherSpace:
            anew = dataclasses.replace(asked, replace=True)
            summary, before = embed.run(anew, stop=self.stop), None
            assert isinstance(summary, EmbedSummary)
            remark = [f"All vectors are new, of {summary.model}."]
        except TooManyFailures as failed:
            summary, remark, state = failed.summary, [str(failed)], "failed"
        assert not isinstance(summary, DryRunSummary)  # the file cannot ask for one
        table = self._made(step)
        assert table is not None  # it was just written
        left_out = [line.strip() + "." for line in left_out_line(summary.files_left_out)]
        runs = FailureLog(table.uri, self.options).rows["run"].to_pylist()
        n_changed, n_failures = summary.replaced + summary.updated, runs.count(summary.run)
        is_busy = summary.embedded + n_changed + summary.deleted + n_failures > 0
        shift = centroid_shift(table, before) if is_busy and before is not None else None
        return {
            "state": state if is_busy else "current",
            "rows": summary.rows_read,
            "new": summary.embedded,
            "changed": n_changed,
            "vanished": summary.deleted,
            "failed": summary.failed,
            "new_failures": n_failures,
            "rows_per_second": summary.rows_per_second or None,
            "centroid_shift": shift,
            "message": " ".join([*remark, *left_out, *summary.warnings]) or None,
            **self._made_of(step),
        }

    def _follow(self, step: Step) -> dict[str, Any]:
        before, made_of = self._version_before(step), self._made_of(step)  # of before, to be safe
        with self.stop.at_once():
            result = step.kind.run(self._asked(step))
        found = result if isinstance(result, dict) else dataclasses.asdict(result)
        table = self._made(step)
        changed = None
        if table is not None and before is not None and step.command == "neighbours":
            changed = neighbours_changed(table, before)
        counts = (found[name] for name in ("n_rows", "n", "rows") if found.get(name) is not None)
        return {
            "state": "done",
            "rows": next(counts, None),
            "neighbours_changed": changed,
            "figures": {name: value for name, value in found.items() if isinstance(value, float)},
            **made_of,
            "version": table.version if table else None,
        }

    # What is due

    def _blocked(self, step: Step) -> Step | None:
        """A step that should have made what this one reads, and did not."""
        bad = {(row.command, row.name) for row in self.rows if row.options is None}
        makers = (self.makers[uri] for uri in step.inputs if uri in self.makers)
        return next((one for one in makers if (one.command, one.name) in bad), None)

    def _is_current(self, step: Step) -> bool:
        """Whether a follow-up holds what it would hold if it were made again."""
        last = self.last.get((step.command, step.name))
        if step.command == "embed" or last is None or last.options != step.options():
            return False
        if step.kind.makes_table:
            made = self._made(step)
            if made is None or last.version is None or not same_rows(made, last.version):
                return False
        elif step.output and not Path(step.output).exists():
            return False
        now, then = self._inputs(step), last.inputs or {}
        return {table.uri for table in now} == then.keys() and all(
            same_rows(table, then[table.uri]) for table in now
        )

    def _version_before(self, step: Step) -> int | None:
        """The version that drift is measured from: that of the last refresh, if it saw one."""
        last, table = self.last.get((step.command, step.name)), self._made(step)
        if table is None:
            return None
        return table.version if last is None or last.version is None else last.version

    def _made(self, step: Step) -> Table | None:
        return Table.open(table_uri(step.output), self.options) if step.kind.makes_table else None

    def _inputs(self, step: Step) -> list[Table]:
        """The tables that a step reads; a page shows failures, too."""
        uris = [table_uri(place) for place in step.inputs]
        uris += [f"{uri}.failures" for uri in uris if step.command == "report"]
        tables = [Table.open(uri, self.options) for uri in uris]
        return [table for table in tables if table is not None]

    def _made_of(self, step: Step) -> dict[str, Any]:
        """What tells the next refresh whether the step is due again."""
        made = self._made(step)
        inputs = {table.uri: table.version for table in self._inputs(step)}
        version = made.version if made else None
        return {"options": step.options(), "inputs": inputs, "version": version}
