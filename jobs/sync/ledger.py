"""The ledger of a run: the fate of each row of the source.

A row's address is its file and its position in it. Each row that was read has one fate. The counts in the
summary, the failures table, the log of events, the history and the exit code are all derived from the ledger.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from jobs.sync.scan import SourceScan
from schemas.errors import without_secrets
from schemas.keys import id_hashes
from schemas.plan import (
    CONFLICT,
    DUPLICATE,
    EMBEDDED,
    KNOWN,
    REPLACED,
    UNCHANGED,
    UPDATED,
    Plan,
)
from schemas.tables.failures import CHANGED, OF_RECIPE, FailureLog, failure_key
from sources.rows import Piece, file_name

FAILED = 7  # a fate beside those of a plan: a worker could not embed the row
LEAST_TRIED = 100  # a share of fewer rows than these says little: it is taken of so many
_COUNTED_AS = {
    UNCHANGED: "unchanged",
    EMBEDDED: "embedded",
    REPLACED: "replaced",
    UPDATED: "updated",
    DUPLICATE: "duplicates",
    CONFLICT: "failed",
    KNOWN: "failed",
    FAILED: "failed",
}
_MEANINGS = {
    "unchanged": "unchanged",
    "embedded": "embedded",
    "replaced": "replaced: new content or recipe",
    "updated": "updated: other columns changed, vector kept",
    "duplicates": "duplicates of another row of the source",
    "failed": "failed",
    "left_out": "left out",
}


@dataclass(frozen=True)
class Counts:
    """Number of rows by fate; all counts but `deleted` and `withdrawn` add up to `rows_read`.

    Attributes:
        left_out: rows that the source skips on purpose, such as items that are too short.
        deleted: rows removed from the table because the source has them no longer.
        withdrawn: rows removed from the table because their new content in the source failed.
    """

    rows_read: int
    unchanged: int
    embedded: int
    replaced: int
    updated: int
    duplicates: int
    failed: int
    left_out: int
    deleted: int
    withdrawn: int

    def __post_init__(self) -> None:
        parts = sum(getattr(self, name) for name in _MEANINGS)
        if parts != self.rows_read:
            raise AssertionError(f"{self.rows_read} rows read, {parts} accounted for: {self!r}")

    def lines(self) -> list[str]:
        """Lines of text that show the counts as a sum."""
        shown = [name for name in _MEANINGS if name != "left_out" or self.left_out]
        signs = "=" + "+" * (len(shown) - 1)
        lines = [f"{self.rows_read:>12,}  rows read"]
        lines += [
            f"{sign} {getattr(self, name):>10,}  {_MEANINGS[name]}"
            for sign, name in zip(signs, shown, strict=True)
        ]
        lines.append(f"{self.deleted:>12,}  deleted from the table")
        if self.withdrawn:
            lines.append(
                f"{self.withdrawn:>12,}  taken out of the table: what the source holds now failed"
            )
        return lines


class Ledger:
    """Counts and records the fate of each row in one run.

    Attributes:
        log: the failures table; `open` reads it again when the run plans again.
    """

    def __init__(
        self,
        scan: SourceScan,
        pieces: Sequence[Piece],
        *,
        source: str,
        also_known_as: str,
        recipe: str,
        note: Mapping[str, Any],
    ) -> None:
        """Begin with the rows that were read.

        Args:
            scan: of the source.
            pieces: of the source, numbered.
            source: the source's address, under which the failures table has its failures.
            also_known_as: SOURCE as the user spelled it, under which it may have older failures.
            recipe: of the run.
            note: of the run's commits.
        """
        self.scan, self.pieces, self.note, self.recipe = scan, pieces, note, recipe
        self.source, self.names = source, {source, without_secrets(also_known_as)}
        self.unreadable = [self.row_of(row) for row in scan.failures.to_pylist()]
        self.fate = np.full(len(scan.keys), UNCHANGED, np.uint8)
        self.n_deleted = self.n_withdrawn = self.n_due = 0
        self.is_planned = False
        self._refused: dict[int, Mapping[str, Any]] = {}  # by index into the keys
        self._seen: set[int] = set()  # identities of failures that this run has met
        self._before: Counter[tuple[object, ...]] | None = None

    def open(self, table: str, options: Mapping[str, str]) -> FailureLog:
        """Read the failures table; again each time that the run plans again."""
        self.log = FailureLog(table, options, self._seen)
        if self._before is None:
            rows = self.log.rows.to_pylist()
            ours = (row | {"source": self.source} for row in rows if row["source"] in self.names)
            others = (row for row in rows if row["source"] not in self.names)
            self._before = Counter(map(failure_key, chain(ours, others)))
        return self.log

    def plan(self, plan: Plan) -> None:
        """Take each row's fate from the first plan; from a later one, the rows that became due since."""
        if not self.is_planned:
            self.is_planned, self.fate = True, plan.fate.copy()
            self.n_due = len(plan.due) + plan.deferred
            self.n_deleted, self.n_withdrawn = plan.deleted, plan.withdrawn
        else:
            late = (self.fate == UNCHANGED) & (plan.fate != UNCHANGED)
            self.fate[late] = plan.fate[late]

    def record(self, plan: Plan) -> None:
        """Record in the failures table unreadable rows, and the new addresses of rows that failed before."""
        known = self.log.rows.take(plan.known[:, 1]).to_pylist() if len(plan.known) else []
        moved = []
        for at, failure in zip(plan.known[:, 0].tolist(), known, strict=True):
            key = self.scan.keys[at]
            name = without_secrets(file_name(self.pieces, int(key["where"])))
            place = {"source": self.source, "source_file": name, "position": int(key["position"])}
            moved.append({**failure, **place})
        self.log.add([*self.unreadable, *moved], self.note)

    def fail(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Record rows that a worker refused: not embeddable, changed meanwhile, or in conflict with another."""
        failures = list(failures)
        if not failures:
            return
        self.log.add([self.row_of(failure) for failure in failures], self.note)
        for failure in failures:
            at = failure["at"]
            if self.fate[at] == REPLACED and failure["stage"] != CHANGED:
                self.n_withdrawn += 1
            if self.fate[at] != CONFLICT:
                self.fate[at] = FAILED
            self._refused[at] = self.row_of(failure)

    def close(self) -> None:
        """Remove from the failures table the failures of this source that are over.

        If a part of the source could not be read, only these count as over: failures in files that were
        read, in files that are gone, and of rows whose ids were found elsewhere. Of a file that is still
        broken, what this run says of it replaces what older runs said of its parts.
        """
        rows = self.log.rows
        mine = np.array([name in self.names for name in rows["source"].to_pylist()], bool)
        over = ~self.log.seen & mine
        if not self.scan.complete:
            others = self.scan.others
            names = self.scan.files if others is None else others
            named = {without_secrets(name) for name in names}
            is_named = np.array([name in named for name in rows["source_file"].to_pylist()], bool)
            is_known = is_named if others is None else ~is_named
            broken = {without_secrets(name) for name in self.scan.broken}
            places = zip(rows["source_file"].to_pylist(), rows["stage"].to_pylist(), strict=True)
            is_known |= np.array([s == "file" and f in broken for f, s in places], bool)
            over &= is_known | np.isin(id_hashes(rows["id"])[:, 0], self.scan.keys["id"][:, 0])
        self.log.keep(~over & ~self.log.repeated, self.note)

    def row_of(self, failure: Mapping[str, Any]) -> dict[str, Any]:
        """Row of the failures table for a failure that a source or a worker reports."""
        content = failure["content_hash"]
        return {
            "id": failure["id"],
            "content_hash": content.hex() if isinstance(content, bytes) else content,
            "recipe": self.recipe if failure["stage"] in OF_RECIPE else None,
            "source": self.source,
            "source_file": without_secrets(failure["source_file"]),
            "position": failure["position"],
            "stage": failure["stage"],
            "reason": without_secrets(failure["reason"]),
            "run": self.note["run"],
        }

    @property
    def counts(self) -> Counts:
        """Number of rows by fate; rows that are due count as if they were done."""
        numbers = np.bincount(self.fate, minlength=len(_COUNTED_AS))
        totals: Counter[str] = Counter()
        for fate, name in _COUNTED_AS.items():
            totals[name] += int(numbers[fate])
        totals["failed"] += len(self.unreadable)
        totals["left_out"] = self.scan.left_out.total()
        return Counts(
            rows_read=len(self.fate) + len(self.unreadable) + totals["left_out"],
            **{name: totals[name] for name in _MEANINGS},
            deleted=self.n_deleted,
            withdrawn=self.n_withdrawn,
        )

    @property
    def n_refused(self) -> int:
        """Number of rows that workers refused."""
        return len(self._refused)

    @property
    def n_new(self) -> int:
        """Number of failures of this run that the failures table did not hold before it."""
        return self._n_new([*self.unreadable, *self._refused.values()])

    @property
    def new_share(self) -> float:
        """Share of the rows tried that are new failures; fewer than LEAST_TRIED rows count as so many."""
        n_tried = self.n_due + self._n_new(self.unreadable)
        return self.n_new / max(n_tried, LEAST_TRIED)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of rows without a vector, by reason."""
        rows = self.log.rows.filter(self.log.seen)
        return dict(Counter(rows["reason"].to_pylist()))

    def _n_new(self, failures: Iterable[Mapping[str, Any]]) -> int:
        assert self._before is not None, "the failures table is open"
        return (Counter(map(failure_key, failures)) - self._before).total()
