"""List the rows of a source that have no vector in the table, and why.

embatch failures tables/articles
"""

import sys
from dataclasses import dataclass
from typing import Any

from jobs.runtime.command import TableOptions, run_command
from schemas.tables.failures import FailureLog


@dataclass(frozen=True)
class FailuresConfig(TableOptions):
    """The table, and the number of failures to show.

    Attributes:
        limit: show at most so many failures
    """

    limit: int = 100


def run(config: FailuresConfig) -> list[dict[str, Any]]:
    """List the failures, newest first; the list is empty if every row has its vector.

    Raises:
        StoreError: there is no such table.
    """
    table = config.open()
    rows = FailureLog(table.uri, table.options).rows.sort_by(
        [("failed_at", "descending"), ("position", "ascending")]
    )
    return list(rows.slice(0, config.limit).to_pylist())


def _text(_: FailuresConfig, failures: list[dict[str, Any]]) -> str:
    if not failures:
        return "No failures: every row that was read has its vector."
    return "\n".join(
        f"{row['failed_at']:%Y-%m-%d %H:%M}  {row['stage']:<5}  {row['id'] or '-'}  "
        f"{row['source_file']} row {row['position']}  {row['reason']}"
        for row in failures
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(FailuresConfig, "failures", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
