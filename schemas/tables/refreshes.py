"""The table of refreshes: the outcome of each refresh of a corpus, one row a step.

The last row of a step also names what its result was made of, so that the next refresh knows whether the
step is due.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from schemas.delta.formats import missing_fields, upgrade_rows
from schemas.delta.fragments import new_name, write_rows
from schemas.delta.rewriting import compact
from schemas.delta.store import Refused, StoreError, Table

COMMIT_TRIES = 10

SCHEMA = pa.schema(
    [
        pa.field("refresh", pa.string()),
        pa.field("started", pa.timestamp("us", tz="UTC")),
        pa.field("command", pa.string()),
        pa.field("name", pa.string()),
        pa.field("state", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("rows", pa.int64()),
        pa.field("new", pa.int64()),
        pa.field("changed", pa.int64()),
        pa.field("vanished", pa.int64()),
        pa.field("failed", pa.int64()),
        pa.field("new_failures", pa.int64()),
        pa.field("rows_per_second", pa.float64()),
        pa.field("centroid_shift", pa.float64()),
        pa.field("neighbours_changed", pa.float64()),
        pa.field("figures", pa.map_(pa.string(), pa.float64())),
        pa.field("message", pa.string()),
        pa.field("options", pa.string()),
        pa.field("inputs", pa.map_(pa.string(), pa.int64())),
        pa.field("version", pa.int64()),
    ]
)


@dataclass(frozen=True)
class StepRow:
    """The outcome of one step of a refresh.

    Attributes:
        refresh: name of the refresh, which begins with the time.
        started: time at which the refresh began.
        command: the command of embatch that the step runs.
        name: name of what the step makes.
        state: `done`, `current` (nothing to do), `failed`, `skipped` (an input failed), `stopped`.
        seconds: time that the step took.
        rows: number of rows in the source, or in the result.
        new: number of rows that the table did not have.
        changed: number of rows with a new vector or other columns.
        vanished: number of rows that were removed.
        failed: number of rows of the source without a vector.
        new_failures: number of failures that no earlier run recorded.
        rows_per_second: pace while embedding.
        centroid_shift: distance that the mean vector moved; 0 to 2 where rows are unit vectors.
        neighbours_changed: share of the rows, of those there before and after, with other neighbours.
        figures: measures by name.
        message: why the step failed, or a remark.
        options: hash of all settings that decide the result.
        inputs: versions of the tables that the step read, by URI.
        version: version of the table that the step made.
    """

    refresh: str
    started: datetime
    command: str
    name: str
    state: str
    seconds: float = 0.0
    rows: int | None = None
    new: int | None = None
    changed: int | None = None
    vanished: int | None = None
    failed: int | None = None
    new_failures: int | None = None
    rows_per_second: float | None = None
    centroid_shift: float | None = None
    neighbours_changed: float | None = None
    figures: dict[str, float] | None = None
    message: str | None = None
    options: str | None = None
    inputs: dict[str, int] | None = None
    version: int | None = None

    @property
    def title(self) -> str:
        """Title of the step: its command and its name."""
        return f"{self.command} {self.name}"

    def row(self) -> dict[str, object]:
        """The step as a row of the table of refreshes."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("figures", "inputs"):
            row[name] = None if row[name] is None else list(row[name].items())
        return row

    @classmethod
    def of(cls, row: dict[str, object]) -> "StepRow":
        """The step that a row of the table of refreshes describes."""
        maps = {n: None if row[n] is None else dict(row[n]) for n in ("figures", "inputs")}  # type: ignore[call-overload]
        return cls(**{**row, **maps})  # type: ignore[arg-type]


def create(uri: str, options: Mapping[str, str], note: Mapping[str, Any]) -> Table:
    """Create the table of refreshes without rows, or open it if another run has just created it."""
    try:
        return Table.create(uri, SCHEMA, {**note, "state": "begun"}, options)
    except Refused:
        table = Table.open(uri, options)
        assert table is not None  # somebody made it just now
        return table


def rows_of(table: Table | None) -> list[StepRow]:
    """The steps in the table of refreshes, oldest first; empty where there is no table."""
    if table is None:
        return []
    rows = [StepRow.of(row) for row in upgrade_rows(table.read(), SCHEMA).to_pylist()]
    return sorted(rows, key=lambda row: row.started)


def record(
    uri: str, options: Mapping[str, str], note: Mapping[str, Any], steps: Sequence[StepRow]
) -> None:
    """Add steps to the table of refreshes, again and again while other writers commit first.

    Raises:
        StoreError: other writers committed first each time, for COMMIT_TRIES tries.
    """
    for _ in range(COMMIT_TRIES):
        table = Table.open(uri, options)
        assert table is not None  # the caller holds it
        rows = pa.Table.from_pylist([step.row() for step in steps], SCHEMA)
        name = new_name(str(note["run"]), "steps")
        try:
            if new := missing_fields(table.schema, SCHEMA):
                table.add_columns(note, new)
            table.commit(note, add=[write_rows(table.filesystem, name, rows)])
        except Refused:
            continue
        with contextlib.suppress(Refused):  # the next refresh will do it
            compact(table, note)
        return
    raise StoreError(f"{uri} is written to by others all the time; this refresh is not in it.")
