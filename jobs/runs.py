"""The runs that brought a table to where it is, newest first: when, what they did, how they ended.

    embatch runs tables/articles
    embatch runs tables/articles --limit 5 --json

They come from the table's own history, in which every run leaves a commit, also one with nothing to do.
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
    """Whose runs.

    Attributes:
        limit: show the newest so many
    """

    limit: int = 20

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"--limit is {self.limit}, expected 1 or more.")


def run(config: RunsConfig) -> list[dict[str, Any]]:
    """The newest runs of a table.

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
            told = {name: note[name] for name in names if name in note}
            runs.append({"version": commit["version"], **told})
            if len(runs) == limit:
                break
    return runs


def line_of(run: dict[str, Any]) -> str:
    """A run in one line; counts that are 0 are left out."""
    counts = ", ".join(
        f"{name.replace('_', ' ')} {run[name]:,}" for name in COUNTS if run.get(name)
    )
    put = f"; names in {' | '.join(run['templates'])}" if run.get("templates") else ""
    return f"version {run['version']:>4}  {run['time'][:19]}  {run['state']:<8}  {counts}{put}"


def _text(config: RunsConfig, runs: list[dict[str, Any]]) -> str:
    lines = [line_of(run) for run in runs]
    return "\n".join(lines) or f"{config.table} has no run yet."


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(RunsConfig, "runs", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
