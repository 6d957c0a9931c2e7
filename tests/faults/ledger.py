"""What a table must hold, and must have held in every version since the last look."""

import functools
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from deltalake import DeltaTable

from schemas.tables.failures import CHANGED
from tests.faults.moving_corpus import Truth
from tests.faults.runs import embed, version_of
from tests.support.hash_model import vector_of

RUNS_TO_REST, MOST_RUNS = 1, 4  # undisturbed runs that may find something to do, and are made
SUM = ("unchanged", "embedded", "replaced", "updated", "duplicates", "failed")
vector = functools.lru_cache(20_000)(vector_of)


def written(uri, version):
    """When a version of a local table was written."""
    return Path(uri, "_delta_log", f"{version:020}.json").stat().st_mtime_ns


class Ledger:
    """Follows one table and its source.

    Attributes:
        source: folder of the source.
        table: where the table is, or will be.
        options: for the table's object store.
        written: (uri, version) to a number that grows with time.
        truth: what the source held when it was last noted.
    """

    def __init__(self, source, table, *, options=None, written=written):
        self.source, self.table, self.failures = source, str(table), f"{table}.failures"
        self.options, self.written = options, written
        self.begin_anew()

    def begin_anew(self):
        """Follow a table that is not there yet."""
        self.seen = {self.table: -1, self.failures: -1}  # versions that were looked at
        self.ids, self.failed, self.known = set(), set(), set()
        self.stay, self.n_unnamed = set(), 0

    def expect(self, *, first):
        """Note what the source holds now: `first` before a run, then again if it changed."""
        self.truth = Truth.of(self.source)
        here = {name for name in self.truth.rows if self.truth.is_sure(name)}
        self.stay = ((self.ids | self.failed) if first else self.stay) & here
        self.known |= self.truth.known

    def check(self, summary):
        """What is wrong, in words, after a last run that had nothing to do, if there was one."""
        yield from self.history()
        yield from self.end()
        yield from self.counts(summary) if summary else ()
        held = self.rows(self.table, self.seen[self.table])
        self.known = {(row["id"], row["text"], row["label"]) for row in held}

    def history(self):
        """Each version of the table and its failures, in the order in which they were written.

        A row that changed under a run may have lost its failure of old: the new one has no id.
        """
        wrong, told = [], set()
        events = sorted(
            (self.written(uri, version), version, uri)
            for uri, last in self.seen.items()
            for version in range(last + 1, version_of(uri, self.options) + 1)
        )
        for _, together in itertools.groupby(events, key=lambda event: event[0]):
            for _, version, uri in together:
                name = f"version {version} of {uri.rpartition('/')[2]}"
                try:
                    rows = self.rows(uri, version)
                except Exception as error:  # whatever it is, a reader would have met it
                    wrong.append(f"{name} cannot be read: {type(error).__name__}: {error}")
                    continue
                self.seen[uri] = version
                if uri == self.failures:
                    self.failed = {row["id"] for row in rows if row["stage"] != "id"}
                    self.n_unnamed = sum(row["stage"] == CHANGED for row in rows)
                else:
                    self.ids = {row["id"] for row in rows}
                    flaws = [what for what in self.flaws(rows) if what not in told]
                    wrong += [f"{name}: {what}" for what in flaws]
                    told.update(flaws)
            lost = sorted(self.stay - self.ids - self.failed - told)
            if len(lost) > self.n_unnamed:
                wrong.append(f"{name}: {len(lost)} rows are in neither table, as {lost[:3]}")
                told.update(lost)
        return wrong

    def flaws(self, rows):
        """Of rows alone: ids twice, strange rows, wrong vectors."""
        states = {(row["id"], row["text"], row["label"]) for row in rows}
        if twice := [name for name, n in Counter(row["id"] for row in rows).items() if n > 1]:
            yield f"{len(twice)} ids twice, as {sorted(twice)[:3]}"
        if strange := sorted(states - self.known):
            yield f"{len(strange)} rows that the source never had, as {strange[0]}"
        false = [
            row["id"] for row in rows if not np.array_equal(row["embedding"], vector(row["text"]))
        ]
        if false:
            yield f"{len(false)} vectors that are not their text's, as {sorted(false)[:3]}"

    def end(self):
        """The newest version against the source."""
        truth = self.truth
        rows = self.rows(self.table, self.seen[self.table])
        failures = self.rows(self.failures, self.seen[self.failures])
        held = {row["id"]: (row["text"], row["label"]) for row in rows}
        good = {name: row for name, row in truth.rows.items() if name not in truth.poisoned}
        sure = {name: row for name, row in good.items() if truth.is_sure(name)}
        # An empty text and a good one may have the same id: then the good one is in the table.
        of_others = {row["id"] for row in failures if row["stage"] == "read"} & good.keys()
        sets = {
            "rows of the source are not in the table": sure.keys() - held.keys(),
            "rows are not as in the source": {
                name for name in sure.keys() & held.keys() if sure[name] != held[name]
            },
            "rows are in the table and its failures": held.keys() & (self.failed - of_others),
        }
        by_stage = Counter(row["stage"] for row in failures)
        of_ids = {
            stage: {row["id"] for row in failures if row["stage"] == stage}
            for stage in ("embed", "id")
        }
        if not truth.broken:  # else nothing is pruned, from either table
            sets["rows have gone from the source and are in the table"] = held.keys() - good.keys()
            sets["failures of the model are not as they should be"] = (
                truth.poisoned ^ of_ids["embed"]
            )
            sets["conflicts are not as they should be"] = truth.conflicts ^ of_ids["id"]
            if by_stage["read"] != truth.n_unreadable or by_stage["file"]:
                yield f"{truth.n_unreadable} lines cannot be read, failures: {dict(by_stage)}"
        elif lost := {n for n in truth.poisoned if truth.is_sure(n)} - of_ids["embed"]:
            yield f"failures of the model are lost, as {sorted(lost)[:3]}"
        elif by_stage["file"] != len(truth.broken):
            yield f"{sorted(truth.broken)} cannot be read to the end, failures: {dict(by_stage)}"
        yield from (f"{len(ids)} {what}, as {sorted(ids)[:3]}" for what, ids in sets.items() if ids)

    def counts(self, summary):
        """The last summary's counts, and their sum."""
        truth = self.truth
        yield from disagreement(summary)
        if truth.broken:
            return
        want = {
            "rows_read": truth.n_rows,
            "unchanged": len(truth.rows) - len(truth.poisoned),
            "duplicates": truth.duplicates,
            "failed": len(self.rows(self.failures, self.seen[self.failures])),
            "deleted": 0,
        }
        got = {name: summary[name] for name in want}
        if got != want:
            yield f"the last run's counts are {got}, expected {want}"

    def rows(self, uri, version):
        """The rows of one version as dicts; no version, no rows."""
        if version < 0:
            return []
        names = ["id", "stage"] if uri == self.failures else ["id", "text", "label", "embedding"]
        rows = DeltaTable(uri, version, self.options).to_pyarrow_table(columns=names).to_pylist()
        for row in rows:
            row["embedding"] = np.array(row.get("embedding"), np.float32)
        return rows

    def to_rest(self, **options):
        """Run undisturbed until nothing is due; the last summary, and what is wrong in words."""
        for run in range(MOST_RUNS):
            config = {"json": True, "force_prune": True, "max_failures": 1.0, **options}
            summary = vars(embed(self.source, self.table, wave_seconds=0.0, **config))
            done = sum(summary[part] for part in ("unchanged", "duplicates", "failed"))
            if done == summary["rows_read"] and not summary["deleted"]:
                late = f"{run} undisturbed runs still had work to do"
                return summary, [late] if run > RUNS_TO_REST else []
        return summary, ["undisturbed runs never come to rest"]


def disagreement(summary):
    """Whether a summary's counts add up."""
    parts = sum(summary[name] for name in SUM)
    if parts != summary["rows_read"]:
        yield f"{summary['rows_read']} rows read, {parts} accounted for"
