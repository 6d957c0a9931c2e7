"""List the runs that wrote a table, newest first: time, counts of rows, and how each ended.

    embatch runs tables/articles
    embatch runs tables/articles --limit 5 --json

The list is read from the table's own history: every run leaves a commit, also a run with nothing to do.
"""

import sys
from dataclasses import dataclass
from typing import Any

from jobs.runtime.command import TableOptions, run_command
from schemas.delta.store import Table
from schemas.errors import UsageError

COUNTS = (
    "rows_read",
    "unchanged",
    "embedded",
    "replaced",
    "updated",
    "duplicates",
    "failed",
    "left_out",
    "deleted",
    "withdrawn",
)
ENDS = ("done", "stopped", "failed", "deleted", "restored", "switched")


@dataclass(frozen=True)
class RunsConfig(TableOptions):
    """The table, and the number of runs to show.

    Attributes:
        limit: show at most so many runs
    """

    limit: int = 20

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"--limit is {self.limit}, expected 1 or more.")


def run(config: RunsConfig) -> list[dict[str, Any]]:
    """List the newest runs of a table.

    Raises:
        StoreError: there is no such table.
    """
    return runs_of(config.open(derived=True), config.limit)


def runs_of(table: Table, limit: int) -> list[dict[str, Any]]:
    """The newest runs: `version`, `time`, `run`, `command`, `state`, `host`, `source`, `templates` and counts."""
    runs = []
    for commit in table.history():
        note = commit.get("note", {})
        if note.get("state") in ENDS:
            names = ("time", "run", "command", "state", "host", "source", "templates", *COUNTS)
            values = {name: note[name] for name in names if name in note}
            runs.append({"version": commit["version"], **values})
            if len(runs) == limit:
                break
    return runs


def line_of(run: dict[str, Any]) -> str:
    """Line of text about a run; counts that are 0 are left out."""
    counts = ", ".join(
        f"{name.replace('_', ' ')} {run[name]:,}" for name in COUNTS if run.get(name)
    )
    put = f"; names in {' | '.join(run['templates'])}" if run.get("templates") else ""
    return f"version {run['version']:>4}  {run['time'][:19]}  {run['state']:<8}  {counts}{put}"


def _text(config: RunsConfig, runs: list[dict[str, Any]]) -> str:
    lines = [line_of(run) for run in runs]
    return "\n".join(lines) or f"{config.table} has no run yet."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(RunsConfig, "runs", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
