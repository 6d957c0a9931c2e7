"""Go back to an older version of a table, as a new version; nothing is lost.

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
    """Which version of which table.

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
    """What the table holds now."""

    restored: int
    rows: int
    table_version: int


def run(config: RestoreConfig) -> RestoreSummary:
    """Make the newest version hold what an older one held.

    Raises:
        StoreError: there is no such table or version, or vacuum took its files.
        TableBusy: another run writes to it.
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
    """The command line; returns the exit code."""
    return run_command(RestoreConfig, "restore", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
