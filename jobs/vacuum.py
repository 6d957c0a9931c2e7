"""Delete files that no recent version of a table needs; older versions cannot be read afterwards.

embatch vacuum tables/articles --dry-run
embatch vacuum tables/articles --hours 168
"""

import sys
import uuid
from dataclasses import dataclass

from jobs.runtime.command import Flag, TableOptions, run_command
from schemas.delta import claim
from schemas.delta.store import Table
from schemas.delta.versions import vacuum
from schemas.errors import UsageError
from schemas.tables.failures import FailureLog


@dataclass(frozen=True)
class VacuumConfig(TableOptions):
    """The table, and the age of the versions to keep.

    Attributes:
        hours: keep the files of versions that are no older than so many hours (default: a week)
        dry_run: list the files and delete nothing
        wait: wait while another run writes to the table, instead of leaving
    """

    hours: float = 168.0
    dry_run: Flag = False
    wait: Flag = False

    def __post_init__(self) -> None:
        if self.hours < 0:
            raise UsageError(f"--hours is {self.hours}, expected 0 or more.")


@dataclass(frozen=True)
class VacuumSummary:
    """Names of the files that were deleted, or in a dry run would be."""

    files: list[str]
    dry_run: bool


def run(config: VacuumConfig) -> VacuumSummary:
    """Delete old files, under a claim, because a run at work may still read them.

    Raises:
        StoreError: there is no such table.
        TableBusy: another run writes to the table.
    """
    table = config.open(derived=True)
    if config.dry_run:
        return VacuumSummary(_vacuum(table, config.hours, dry_run=True), True)
    note = {**claim.identity(f"vacuum-{uuid.uuid4().hex[:6]}"), "command": "vacuum"}
    with claim.hold(table, note, wait=config.wait) as table:
        return VacuumSummary(_vacuum(table, config.hours, dry_run=False), False)


def _vacuum(table: Table, hours: float, *, dry_run: bool) -> list[str]:
    """Delete old files of the table and of its failures, because erased rows must leave both."""
    failures = FailureLog(table.uri, table.options).table
    tables = [table] if failures is None else [table, failures]
    return [file for each in tables for file in vacuum(each, hours, dry_run=dry_run)]


def _text(_: VacuumConfig, summary: VacuumSummary) -> str:
    verb = "would go" if summary.dry_run else "deleted"
    return "\n".join([*summary.files, f"{len(summary.files):,} files {verb}."])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(VacuumConfig, "vacuum", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
