"""Restore an older version of a table as its new version; no version is lost.

embatch status tables/articles
embatch restore tables/articles --version 12
"""

import sys
import uuid
from dataclasses import dataclass

from jobs.runtime.command import Flag, TableOptions, run_command
from schemas.delta import claim
from schemas.delta.versions import restore
from schemas.errors import UsageError


@dataclass(frozen=True)
class RestoreConfig(TableOptions):
    """The table, and the version to restore.

    Attributes:
        version: the version whose rows come back; `embatch status` lists them
        wait: wait while another run writes to the table, instead of leaving
    """

    version: int = -1
    wait: Flag = False

    def __post_init__(self) -> None:
        if self.version < 0:
            raise UsageError(
                "--version is missing: `embatch status TABLE` lists the versions of the last runs."
            )


@dataclass(frozen=True)
class RestoreSummary:
    """Version that was restored, number of the table's rows, and the new version."""

    restored: int
    rows: int
    table_version: int


def run(config: RestoreConfig) -> RestoreSummary:
    """Commit a new version with the rows of an older one.

    Raises:
        StoreError: there is no such table or version, or vacuum deleted the version's files.
        TableBusy: another run writes to the table.
    """
    note = {**claim.identity(f"restore-{uuid.uuid4().hex[:6]}"), "command": "restore"}
    with claim.hold(config.open(), note, wait=config.wait) as table:
        restore(table, {**note, "state": "restored", "restored": config.version}, config.version)
        return RestoreSummary(
            config.version, sum(file.n_rows for file in table.files()), table.version
        )


def _text(_: RestoreConfig, summary: RestoreSummary) -> str:
    rows, past = f"{summary.rows:,} rows", f"version {summary.restored}"
    return f"Version {summary.table_version} holds the {rows} of {past}."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(RestoreConfig, "restore", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
