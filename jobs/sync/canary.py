"""The canary of a run: vectors of fixed texts or images show whether the model still computes what it did."""

from collections.abc import Mapping
from typing import Any

from jobs.sync.errors import SyncError
from schemas.canary import MOST_DISTANCE, Canary
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint


class OtherVectors(SyncError):
    """The model gives other vectors than it gave before; the message says by how much, and what to do."""


class CanaryWatch:
    """Compares the canary of each worker with the one that the table keeps.

    Args:
        fingerprint: of the run.
        replaces: True if all rows are embedded anew, so that the table's canary does not count.
    """

    def __init__(self, fingerprint: Fingerprint, *, replaces: bool) -> None:
        self._fingerprint, self._replaces = fingerprint, replaces
        self._known: Canary | None = None
        self._is_kept = False

    def check(self, report: Mapping[str, Any], table: Table, note: Mapping[str, Any]) -> None:
        """Compare the canary of a worker's report before its rows are taken.

        The first canary of a table is stored at once. One that replaces another is stored only when all
        rows are in (`keep`), so that a run that is killed before leaves the old one to compare with.

        Raises:
            OtherVectors: the table's rows, or another worker's, have vectors of another model.
            Refused: somebody else wrote to the table.
        """
        if report["canary"] is None:
            return
        reported = Canary.of_text(report["canary"])
        if self._known is None and not self._replaces:
            self._known = Canary.of_table(table.schema, self._fingerprint.recipe)
            self._is_kept = self._known is not None and self._known.items == reported.items
        if self._known is None or self._known.items != reported.items:
            self._known = reported
            if not self._replaces:
                self.keep(table, note)
        elif (distance := self._known.distance(reported)) > MOST_DISTANCE:
            raise OtherVectors(self._message(table, reported, distance))

    def keep(self, table: Table, note: Mapping[str, Any]) -> None:
        """Store the canary in the table, if this run has one that the table lacks."""
        if self._known is not None and not self._is_kept:
            table.describe(note, self._known.metadata(self._fingerprint.recipe))
            self._is_kept = True

    def _message(self, table: Table, reported: Canary, distance: float) -> str:
        assert self._known is not None  # the caller compared with it
        then, now = self._known.made_with, reported.made_with
        versions = f"With {then} then as now." if then == now else f"Then: {then}; now: {now}."
        return (
            f"{self._fingerprint.model} gives other vectors than it gave for the rows of {table.uri},"
            f" though its weights and settings are the same: of a few fixed texts or images one vector"
            f" is off by {distance:.1%} of its length, and rounding explains {MOST_DISTANCE:.1%}."
            f" {versions} Bring back what computed them, give another TABLE, or --replace to embed all"
            " its rows anew."
        )
