"""The failures table, TABLE.failures: which rows of a source have no vector, and why.

A row of this table names the source row (`id` where there is one, `source_file` and `position` always), its
content (`content_hash`), the `recipe` that was tried, and where (`stage`) and why (`reason`) the row failed.
Stages: `file` (the file, or the rest of it, could not be read), `read` (the row could not be read), `id`
(the row's id belongs to another row), `decode` and `embed` (the model or its preprocessing refused the
row), `changed` (another row, or none, stood at the address when it was read again; the failure has no id,
and the table keeps the row that it has).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from schemas.delta.formats import missing_fields, upgrade_rows
from schemas.delta.fragments import Fragment, new_name, write_rows
from schemas.delta.store import Table, now
from schemas.keys import KEYS, from_hex, id_hashes
from schemas.plan import KNOWN_CONFLICT, KNOWN_EMBED

MANY_FILES = 16
FAILURES = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("content_hash", pa.string()),
        pa.field("recipe", pa.string()),
        pa.field("source", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("run", pa.string()),
        pa.field("failed_at", pa.timestamp("us", tz="UTC")),
    ]
)
CHANGED = "changed"
OF_RECIPE = ("decode", "embed")  # stages at which the model or its preprocessing refused a row
_IDENTITY = ("id", "content_hash", "recipe", "source", "source_file", "position", "stage", "reason")


def identities(failures: pa.Table) -> np.ndarray:
    """64-bit hashes of failures, each over all that identifies one: its row's address, content and reason.

    Returns:
        (n,) uint64.
    """
    rows = zip(*(failures[name].to_pylist() for name in _IDENTITY), strict=True)
    hashes = (xxhash.xxh3_64_intdigest(repr(row).encode()) for row in rows)
    return np.fromiter(hashes, np.uint64, len(failures))


def failure_key(failure: Mapping[str, Any]) -> tuple[object, ...]:
    """Key by which a failure is recognised in a later run, even if its row has moved.

    Rows without content, such as lines that are not JSON, are known by their file alone.
    """
    content = failure["content_hash"]
    place = (failure["source"], failure["source_file"]) if content is None else (failure["id"],)
    return failure["stage"], failure["recipe"], content, *place


class FailureLog:
    """The failures of one table, in memory; each addition or removal is committed at once.

    Attributes:
        rows: all failures, with the columns FAILURES.
    """

    def __init__(
        self, table_uri: str, options: Mapping[str, str] | None = None, seen: set[int] | None = None
    ) -> None:
        """Read the failures table.

        Args:
            table_uri: the table that the failures belong to.
            options: for the object store.
            seen: identities of failures that this run has met so far; `add` extends this set.
        """
        self.uri = f"{table_uri.rstrip('/')}.failures"
        self.options = dict(options or {})
        self.table = Table.open(self.uri, self.options)
        rows = self.table.read() if self.table else FAILURES.empty_table()
        self.rows = upgrade_rows(rows, FAILURES)
        self._seen = set() if seen is None else seen
        self._identities = identities(self.rows)

    @property
    def seen(self) -> np.ndarray:
        """Mask of the failures that this run has met, (len(rows),) bool."""
        return np.isin(self._identities, np.array(sorted(self._seen), np.uint64))

    @property
    def repeated(self) -> np.ndarray:
        """Mask of the failures that an earlier row holds already, (len(rows),) bool."""
        _, first = np.unique(self._identities, return_index=True)
        repeated = np.ones(len(self._identities), bool)
        repeated[first] = False
        return repeated

    def keys(self, recipe: str, *, only_seen: bool = False) -> np.ndarray:
        """Keys of the failures that a plan considers, (k,) KEYS; `position` is the index into `rows`.

        Args:
            recipe: of the rows that a model refused, only failures under this recipe are considered.
            only_seen: consider only failures that this run has met, so that all other rows are tried again.
        """
        stages = np.array(self.rows["stage"].to_pylist(), object)
        recipes = np.array(self.rows["recipe"].to_pylist(), object)
        chosen = (stages == "id") | (np.isin(stages, OF_RECIPE) & (recipes == recipe))
        if only_seen:
            chosen &= self.seen
        picked = self.rows.filter(pa.array(chosen, pa.bool_()))
        keys = np.zeros(len(picked), KEYS)
        keys["id"] = id_hashes(picked["id"])
        keys["content"] = from_hex(picked["content_hash"], 2)
        keys["row"] = np.where(stages[chosen] == "id", KNOWN_CONFLICT, KNOWN_EMBED)
        keys["position"] = np.flatnonzero(chosen)
        return keys

    def add(self, failures: Sequence[Mapping[str, Any]], note: Mapping[str, Any]) -> int:
        """Record failures; a failure that is recorded already is only marked as met in this run.

        Args:
            failures: rows of FAILURES, with or without `failed_at`.
            note: metadata of the commit.

        Returns:
            Number of new failures.
        """
        rows = pa.Table.from_pylist([{"failed_at": now(), **row} for row in failures], FAILURES)
        mine = identities(rows)
        self._seen.update(mine.tolist())
        _, first = np.unique(mine, return_index=True)
        first = np.sort(first[~np.isin(mine[first], self._identities)])
        if len(first):
            rows = rows.take(pa.array(first))
            if self.table is None:
                self.table = Table.create(self.uri, FAILURES, note, self.options)
            self.table.commit(note, add=[self._write(rows, note)])
            self.rows = pa.concat_tables([self.rows, rows])
            self._identities = np.concatenate([self._identities, mine[first]])
        return len(first)

    def keep(self, kept: np.ndarray, note: Mapping[str, Any]) -> None:
        """Remove the failures for which `kept`, (len(rows),) bool, is False."""
        if self.table is None or (kept.all() and len(self.table.files()) <= MANY_FILES):
            return
        self.rows, self._identities = self.rows.filter(pa.array(kept)), self._identities[kept]
        add = [self._write(self.rows, note)] if len(self.rows) else []
        self.table.commit(note, add=add, remove=self.table.files())

    def _write(self, rows: pa.Table, note: Mapping[str, Any]) -> Fragment:
        assert self.table is not None  # the callers made it
        if new := missing_fields(self.table.schema, FAILURES):
            self.table.add_columns(note, new)
        return write_rows(self.table.filesystem, new_name(note["run"], "failures"), rows)
