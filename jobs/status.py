"""What a table holds: rows, model, failures by reason, versions, sizes and the last runs.

embatch status tables/articles
"""

import sys
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from jobs.options import TableOptions, run_command
from schemas.embeddings import Fingerprint
from schemas.failures import FailureLog

HISTORY = 1000
LAST_RUNS = 5
_DONE = (
    "rows_read",
    "unchanged",
    "embedded",
    "replaced",
    "updated",
    "duplicates",
    "failed",
    "deleted",
)


@dataclass(frozen=True)
class StatusConfig(TableOptions):
    """Which table."""


@dataclass(frozen=True)
class Status:
    """The state of a table; `runs` are the last, newest first."""

    table: str
    rows: int
    model: str
    dim: int
    space: str
    recipe: str
    columns: list[str]
    files: int
    size_bytes: int
    version: int
    failures: dict[str, int]
    runs: list[dict[str, Any]]


def run(config: StatusConfig) -> Status:
    """Look a table up.

    Raises:
        StoreError: there is no such table.
    """
    table = config.open()
    fingerprint = Fingerprint.of(table.schema)
    assert fingerprint is not None  # open() checked
    files = table.files()
    failures = FailureLog(table.uri, table.options).rows
    reasons = pc.value_counts(failures["reason"]).to_pylist()
    runs = []
    for commit in table.history(HISTORY):
        note = commit.get("note", {})
        if note.get("state") in ("done", "stopped", "failed", "deleted", "restored"):
            counts = {name: note[name] for name in _DONE if name in note}
            runs.append(
                {
                    "version": commit["version"],
                    "time": note["time"],
                    "run": note["run"],
                    "state": note["state"],
                    **counts,
                }
            )
    return Status(
        table=config.table,
        rows=sum(file.n_rows for file in files),
        model=fingerprint.model,
        dim=fingerprint.dim,
        space=fingerprint.space,
        recipe=fingerprint.recipe,
        columns=table.schema.names,
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        version=table.version,
        failures={
            entry["values"]: entry["counts"]
            for entry in sorted(reasons, key=lambda e: -e["counts"])
        },
        runs=runs[:LAST_RUNS],
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(StatusConfig, "status", __doc__, arguments, run, _text)


def _text(_: StatusConfig, status: Status) -> str:
    lines = [
        f"table     {status.table}",
        f"rows      {status.rows:,}",
        f"model     {status.model}, {status.dim} dimensions, space {status.space[:16]}, recipe {status.recipe[:16]}",
        f"columns   {', '.join(status.columns)}",
        f"files     {status.files:,}, {status.size_bytes / 1e6:,.1f} MB",
        f"version   {status.version}",
        f"failures  {sum(status.failures.values()):,}",
    ]
    lines += [f"          {n:>8,}  {reason}" for reason, n in status.failures.items()]
    lines.append("last runs")
    for entry in status.runs:
        counts = ", ".join(f"{name} {entry[name]:,}" for name in _DONE if entry.get(name))
        lines.append(
            f"          version {entry['version']:>4}  {entry['time'][:19]}  {entry['state']:<8}  {counts}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
