"""List the rows of a source that have no vector in the table, and why.

embatch failures tables/articles
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

from jobs.options import TableOptions, parse, user_errors
from schemas.failures import FailureLog


@dataclass(frozen=True)
class FailuresConfig(TableOptions):
    """Which table, and how many of its failures.

    Attributes:
        limit: show at most so many
    """

    limit: int = 100


def run(config: FailuresConfig) -> list[dict[str, Any]]:
    """The failures, newest first; empty where every row has its vector.

    Raises:
        StoreError: there is no such table.
    """
    table = config.open()
    rows = FailureLog(table.uri, table.options).rows.sort_by(
        [("failed_at", "descending"), ("position", "ascending")]
    )
    return list(rows.slice(0, config.limit).to_pylist())


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; returns the exit code."""
    config = parse(FailuresConfig, "failures", __doc__, arguments)
    with user_errors() as outcome:
        failures = run(config)
        if config.json:
            print(json.dumps(failures, default=str))
            return 0
        for row in failures:
            place = f"{row['source_file']} row {row['position']}"
            print(
                f"{row['failed_at']:%Y-%m-%d %H:%M}  {row['stage']:<5}  {row['id'] or '-'}  {place}  {row['reason']}"
            )
        if not failures:
            print("No failures: every row that was read has its vector.")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
