"""Where each row of a source went: the one account of a run.

A row's address is its file and its position in it. Each row that was read has one fate; what the
summary, the failures table, the log of events, the history and the exit code say is derived from here.
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
    """Where the rows of the source went; all but `deleted` and `withdrawn` add up to `rows_read`.

    Attributes:
        left_out: rows that the source does not take, such as items too short to be one.
        deleted: rows of the table that went because the source has them no longer.
        withdrawn: rows of the table that went because what the source has in their place failed.
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
        """The sum, as one would write it by hand."""
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
    """The account of one run.

    Attributes:
        log: the failures table; set anew by `open` when the run plans again.
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
        """Begin with what was read.

        Args:
            scan: of the source.
            pieces: of the source, numbered.
            source: the source's address, by which its failures are known.
            also_known_as: how it was spelled, by which older failures are known.
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
        """Take over what a plan says of each row; of a later plan, what it finds due after all."""
        if not self.is_planned:
            self.is_planned, self.fate = True, plan.fate.copy()
            self.n_due = len(plan.due) + plan.deferred
            self.n_deleted, self.n_withdrawn = plan.deleted, plan.withdrawn
        else:
            late = (self.fate == UNCHANGED) & (plan.fate != UNCHANGED)
            self.fate[late] = plan.fate[late]

    def record(self, plan: Plan) -> None:
        """Write down the rows that could not be read, and where those stand that failed before."""
        held = self.log.rows.take(plan.known[:, 1]).to_pylist() if len(plan.known) else []
        moved = []
        for at, failure in zip(plan.known[:, 0].tolist(), held, strict=True):
            key = self.scan.keys[at]
            name = without_secrets(file_name(self.pieces, int(key["where"])))
            place = {"source": self.source, "source_file": name, "position": int(key["position"])}
            moved.append({**failure, **place})
        self.log.add([*self.unreadable, *moved], self.note)

    def fail(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Write down rows that workers could not embed, or found changed, or in conflict."""
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
        """Drop the failures of this source that are over.

        Where a part of it could not be read, these are the ones of files that were, of files that are
        gone, and of rows that were found elsewhere.
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
            over &= is_known | np.isin(id_hashes(rows["id"])[:, 0], self.scan.keys["id"][:, 0])
        self.log.keep(~over & ~self.log.repeated, self.note)

    def row_of(self, failure: Mapping[str, Any]) -> dict[str, Any]:
        """A failure of a source or a worker as the failures table has it."""
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
        """Where the rows went so far, what is due taken for done."""
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
        """Rows that workers could not embed."""
        return len(self._refused)

    @property
    def n_new(self) -> int:
        """Failures of this run that the failures table did not hold before it."""
        return self._n_new([*self.unreadable, *self._refused.values()])

    @property
    def new_share(self) -> float:
        """New failures over the rows tried, which are taken for LEAST_TRIED at least."""
        n_tried = self.n_due + self._n_new(self.unreadable)
        return self.n_new / max(n_tried, LEAST_TRIED)

    @property
    def reasons(self) -> dict[str, int]:
        """Rows without a vector, by reason."""
        rows = self.log.rows.filter(self.log.seen)
        return dict(Counter(rows["reason"].to_pylist()))

    def _n_new(self, failures: Iterable[Mapping[str, Any]]) -> int:
        assert self._before is not None, "the failures table is open"
        return (Counter(map(failure_key, failures)) - self._before).total()
