"""Do the steps of a refresh: decide whether each is due, run it, and record its result as a row."""

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
from jobs.runtime.command import USER_ERRORS, error_message, table_uri
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
        rows: result of each step that was tried, for the table of refreshes.
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
        """Prepare a refresh; no step is done yet.

        Args:
            refresh: id of the refresh.
            started: time at which it began.
            steps: all steps, in order.
            past: rows of steps in earlier refreshes, oldest first.
            options: for the object store.
            stop: a signal ends a follow-up at once, and a step of `embed` between two commits.
            flags: options of the refresh that are handed to each command that has them.
        """
        self.refresh, self.started, self.options, self.flags = refresh, started, options, flags
        self.stop = stop
        self.makers = {step.output: step for step in steps if step.output}
        done = (row for row in past if row.options is not None)
        self.last = {(row.command, row.name): row for row in done}  # the last success of each
        self.rows: list[StepRow] = []

    def do(self, step: Step) -> None:
        """Do a step if it is due, and add a row with its result.

        Raises:
            Stopped: SIGINT or SIGTERM came; the step's row is added all the same.
        """
        self.stop.check()
        began = time.monotonic()
        result: dict[str, Any] = {}
        try:
            if failed := self._failed_maker(step):
                result = {"state": "skipped", "message": f"{failed} did not succeed."}
            elif self._is_current(step):
                result = {"state": "current", **self._state(step)}
            else:
                sys.stderr.write(f"{step}\n")
                result = self._embed(step) if step.command == "embed" else self._follow(step)
        except USER_ERRORS as error:
            result = {"state": "failed", "message": error_message(error)}
        except Stopped as stopped:
            result = {"state": "stopped", "message": f"{stopped}."}
            raise
        except Exception as error:  # our own mistake in one step must not cost the night
            traceback.print_exc()
            result = {"state": "failed", "message": named_error_line(error)}
        finally:
            self._add(step, {**result, "seconds": round(time.monotonic() - began, 3)})

    def preview(self, step: Step) -> None:
        """Add a row that says what a step would do; write nothing to any table."""
        if step.command != "embed":
            makers = [self.makers[uri] for uri in step.inputs if uri in self.makers]
            due = {(row.command, row.name) for row in self.rows if row.state != "current"}
            is_due = any((maker.command, maker.name) in due for maker in makers)
            is_due = is_due or not self._is_current(step)
            self._add(step, {"state": "due" if is_due else "current"})
            return
        try:
            summary = embed.run(dataclasses.replace(self._config(step), dry_run=True))
        except OtherSpace as other:
            self._add(step, {"state": "due", "message": f"{other} Here: all rows anew."})
        except USER_ERRORS as error:
            self._add(step, {"state": "failed", "message": error_message(error)})
        else:
            assert isinstance(summary, DryRunSummary)  # it was asked for
            changed = summary.replaced + summary.updated
            counts = {"new": summary.embedded, "changed": changed, "vanished": summary.deleted}
            counts |= {"failed": summary.failed, "rows": summary.rows_read}
            is_due = summary.embedded + changed + summary.deleted > 0
            times = {
                "seconds": summary.seconds_expected,
                "rows_per_second": summary.rows_per_second,
            }
            self._add(step, {"state": "due" if is_due else "current", **counts, **times})

    def _add(self, step: Step, result: Mapping[str, Any]) -> None:
        self.rows.append(StepRow(self.refresh, self.started, step.command, step.name, **result))

    def _config(self, step: Step) -> Any:  # noqa: ANN401 one of the commands' options
        """A step's options, and the refresh's flags that are set and that the command has."""
        known = {option.name for option in dataclasses.fields(step.config)}
        flags = {name: flag for name, flag in self.flags.items() if name in known}
        return dataclasses.replace(step.config, **{n: f for n, f in flags.items() if f})

    # Doing

    def _embed(self, step: Step) -> dict[str, Any]:
        config = self._config(step)
        before, state = self._version_before(step), "done"
        try:
            summary = embed.run(config, stop=self.stop)
            clear(table_uri(step.output), self.options)
            remark = []
        except OtherSpace:
            anew = dataclasses.replace(config, replace=True)
            summary, before = embed.run(anew, stop=self.stop), None
            assert isinstance(summary, EmbedSummary)
            remark = [f"All vectors are new, of {summary.model}."]
        except TooManyFailures as failed:
            summary, remark, state = failed.summary, [str(failed)], "failed"
        assert not isinstance(summary, DryRunSummary)  # the file cannot ask for one
        table = self._open_output(step)
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
            **self._state(step),
        }

    def _follow(self, step: Step) -> dict[str, Any]:
        # The state of before: what changes while the step works makes it due once more.
        before, state = self._version_before(step), self._state(step)
        with self.stop.at_once():
            result = step.kind.run(self._config(step))
        summary = result if isinstance(result, dict) else dataclasses.asdict(result)
        table = self._open_output(step)
        changed = None
        if table is not None and before is not None and step.command == "neighbours":
            changed = neighbours_changed(table, before)
        names = ("n_rows", "n", "rows")
        counts = (summary[name] for name in names if summary.get(name) is not None)
        figures = {name: value for name, value in summary.items() if isinstance(value, float)}
        return {
            "state": "done",
            "rows": next(counts, None),
            "neighbours_changed": changed,
            "figures": figures,
            **state,
            "version": table.version if table else None,
        }

    # What is due

    def _failed_maker(self, step: Step) -> Step | None:
        """A step that makes a table which this step reads, but did not succeed; None if all did."""
        failed = {(row.command, row.name) for row in self.rows if row.options is None}
        makers = (self.makers[uri] for uri in step.inputs if uri in self.makers)
        return next((maker for maker in makers if (maker.command, maker.name) in failed), None)

    def _is_current(self, step: Step) -> bool:
        """True if the result of a follow-up would be the same if it were made again."""
        last = self.last.get((step.command, step.name))
        if step.command == "embed" or last is None or last.options != step.options():
            return False
        if step.kind.makes_table:
            table = self._open_output(step)
            if table is None or last.version is None or not same_rows(table, last.version):
                return False
        elif step.output and not Path(step.output).exists():
            return False
        now, then = self._inputs(step), last.inputs or {}
        return {table.uri for table in now} == then.keys() and all(
            same_rows(table, then[table.uri]) for table in now
        )

    def _version_before(self, step: Step) -> int | None:
        """Version from which drift is measured: the last refresh's, else the current one; None without a table."""
        last, table = self.last.get((step.command, step.name)), self._open_output(step)
        if table is None:
            return None
        return table.version if last is None or last.version is None else last.version

    def _open_output(self, step: Step) -> Table | None:
        return Table.open(table_uri(step.output), self.options) if step.kind.makes_table else None

    def _inputs(self, step: Step) -> list[Table]:
        """Tables that a step reads; a report also reads their tables of failures."""
        uris = [table_uri(place) for place in step.inputs]
        uris += [f"{uri}.failures" for uri in uris if step.command == "report"]
        tables = [Table.open(uri, self.options) for uri in uris]
        return [table for table in tables if table is not None]

    def _state(self, step: Step) -> dict[str, Any]:
        """State of a step, by which the next refresh decides whether it is due: options, inputs, version."""
        table = self._open_output(step)
        inputs = {table.uri: table.version for table in self._inputs(step)}
        version = table.version if table else None
        return {"options": step.options(), "inputs": inputs, "version": version}
