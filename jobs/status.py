"""Show the state of a table: rows, model, failures by reason, version, size and the last runs.

embatch status tables/articles
"""

import sys
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from jobs.runs import line_of, runs_of
from jobs.runtime.command import TableOptions, run_command
from schemas.delta.derived import note_of
from schemas.tables.embeddings import Fingerprint
from schemas.tables.failures import FailureLog

LAST_RUNS = 5
_NOT_SHOWN = ("run", "state", "axes", "version", "versions", "inputs")


@dataclass(frozen=True)
class StatusConfig(TableOptions):
    """The table to show."""


@dataclass(frozen=True)
class Status:
    """State of a table.

    Attributes:
        table: address, as the user wrote it.
        rows: number of rows.
        model, dim, space, recipe: of the vectors; None if a follow-up job made the table.
        templates: sentences that class names were put into.
        made_by: settings of the follow-up job that made the table; None if it holds embeddings.
        failures: number of rows without a vector, by reason.
        runs: the last runs, newest first.
    """

    table: str
    rows: int
    model: str | None
    dim: int | None
    space: str | None
    recipe: str | None
    templates: list[str]
    made_by: dict[str, Any] | None
    columns: list[str]
    files: int
    size_bytes: int
    version: int
    failures: dict[str, int]
    runs: list[dict[str, Any]]


def run(config: StatusConfig) -> Status:
    """Read the state of a table.

    Raises:
        StoreError: there is no such table.
    """
    table = config.open(derived=True)
    fingerprint = Fingerprint.of(table.schema)
    files = table.files()
    failures = FailureLog(table.uri, table.options).rows
    reasons = pc.value_counts(failures["reason"]).to_pylist()
    return Status(
        table=config.table,
        rows=sum(file.n_rows for file in files),
        model=fingerprint.model if fingerprint else None,
        dim=fingerprint.dim if fingerprint else None,
        space=fingerprint.space if fingerprint else None,
        recipe=fingerprint.recipe if fingerprint else None,
        templates=fingerprint.ingredients.get("templates", []) if fingerprint else [],
        made_by=None if fingerprint else note_of(table),
        columns=table.schema.names,
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        version=table.version,
        failures={
            entry["values"]: entry["counts"]
            for entry in sorted(reasons, key=lambda e: -e["counts"])
        },
        runs=runs_of(table, LAST_RUNS),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(StatusConfig, "status", __doc__, arguments, run, _text)


def _text(_: StatusConfig, status: Status) -> str:
    lines = [f"table     {status.table}", f"rows      {status.rows:,}"]
    if status.made_by is not None:
        shown = {name: value for name, value in status.made_by.items() if name not in _NOT_SHOWN}
        lines += [f"{name:<9} {value}" for name, value in shown.items() if value is not None]
    elif status.space is not None and status.recipe is not None:
        lines.append(
            f"model     {status.model}, {status.dim} dimensions, space {status.space[:16]},"
            f" recipe {status.recipe[:16]}"
        )
    lines += [f"names in  {' | '.join(status.templates)}"] if status.templates else []
    lines += [
        f"columns   {', '.join(status.columns)}",
        f"files     {status.files:,}, {status.size_bytes / 1e6:,.1f} MB",
        f"version   {status.version}",
        f"failures  {sum(status.failures.values()):,}",
    ]
    lines += [f"          {n:>8,}  {reason}" for reason, n in status.failures.items()]
    lines.append("last runs")
    lines += [f"          {line_of(entry)}" for entry in status.runs]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
