"""What workers report, summed over a run: the one shape between their reports and the summary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """What the workers have reported so far, summed, and what the driver has done with it.

    Attributes:
        n_actors: processes that host the model.
        embed_seconds: that the stage of embedding has taken, of which
        start_seconds: passed until the first worker was ready.
        n_waves: commits of rows.
        n_replans: times that somebody else wrote in between.
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
        """Add what a worker has done."""
        names = ("n_due", "n_tokens", "n_truncated", "n_unknown", "n_rows", "n_computed")
        for name in (*names, "busy_seconds"):
            setattr(self, name, getattr(self, name) + report[name])
        self.remarks.update(report["remarks"])
        if report["precision"] is not None:
            self.token_budget = report["token_budget"]
            self.precisions.add(report["precision"])

    @property
    def precision(self) -> str | None:
        """What the vectors were computed in; None where none was."""
        return "+".join(sorted(self.precisions)) or None

    def starved_share(self, seconds: float) -> float:
        """Share of so many seconds in which the actors' models waited; 0 where there was no work."""
        if not self.n_tokens:
            return 0.0
        return max(0.0, 1 - self.busy_seconds / max(seconds, 1e-9) / self.n_actors)

    @property
    def padding_waste(self) -> float:
        """Share of the tokens computed that are padding."""
        return 1 - self.n_tokens / self.n_computed if self.n_computed else 0.0
