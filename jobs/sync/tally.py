"""The tally of a run: sums of the workers' reports, from which the summary is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Sums of the workers' reports so far, and counts of the driver's work.

    Attributes:
        n_actors: number of processes that host the model.
        embed_seconds: duration of the embedding stage.
        start_seconds: part of it until the first worker was ready.
        n_waves: number of commits of rows.
        n_replans: number of new plans because somebody else wrote to the table.
    """

    n_due: int = 0
    n_tokens: int = 0
    n_truncated: int = 0
    n_unknown: int = 0
    n_rows: int = 0
    n_computed: int = 0
    busy_seconds: float = 0.0
    token_budget: int = 0
    precisions: set[str] = field(default_factory=set)
    remarks: set[str] = field(default_factory=set)
    n_actors: int = 1
    embed_seconds: float = 0.0
    start_seconds: float = 0.0
    n_waves: int = 0
    n_replans: int = 0

    def add(self, report: Mapping[str, Any]) -> None:
        """Add a worker's report."""
        names = ("n_due", "n_tokens", "n_truncated", "n_unknown", "n_rows", "n_computed")
        for name in (*names, "busy_seconds"):
            setattr(self, name, getattr(self, name) + report[name])
        self.remarks.update(report["remarks"])
        if report["precision"] is not None:
            self.token_budget = report["token_budget"]
            self.precisions.add(report["precision"])

    @property
    def precision(self) -> str | None:
        """Number format of the computation, several joined by `+`; None if no vector was computed."""
        return "+".join(sorted(self.precisions)) or None

    def starved_share(self, seconds: float) -> float:
        """Share of a duration in which the actors' models waited, in [0, 1]; 0 if no token was computed."""
        if not self.n_tokens:
            return 0.0
        return max(0.0, 1 - self.busy_seconds / max(seconds, 1e-9) / self.n_actors)

    @property
    def padding_waste(self) -> float:
        """Share of the computed tokens that are padding, in [0, 1]."""
        return 1 - self.n_tokens / self.n_computed if self.n_computed else 0.0
