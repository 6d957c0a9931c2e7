"""Delta tables: opened, committed, read and swept here, and nowhere else.

Workers write Parquet files with `write_rows`; only the driver commits. What makes a commit safe is
the fence: one handle from plan to end, never reopened, no retries, and the transaction's number.
Whoever else writes in between makes the next commit fail (`Refused`), and the run plans again. In
an object store that rests on conditional puts: a store that lacks them is found out after the fact.
"""

import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from schemas.columns import without_views
from schemas.delta.formats import refuse_newer, stamped
from schemas.delta.fragments import Fragment
from schemas.delta.places import (
    TRIES,
    ask,
    filesystem,
    in_store,
    passes,
    reason,
    refuse_other_content,
    refuse_place,
    settings,
)
from schemas.delta.places import StoreError as StoreError

LOG_RETENTION = "interval 3650 days"  # the history is the list of runs
CHECK_THREADS = 8  # these wait for the network, not for a core
_APPLICATION = "embatch"
_FEATURES_READ = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


class Refused(StoreError):
    """Somebody else committed first: what this run planned may no longer be true."""


@dataclass
class Table:
    """A Delta table at one version.

    Attributes:
        uri: a folder or an object-store prefix.
        handle: the one DeltaTable of this run; its version moves only by our own commits.
        options: credentials and settings for the object store.
    """

    uri: str
    handle: DeltaTable
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # some are secrets
    _mine: str | None = field(default=None, init=False, repr=False)  # what our last commit said

    @classmethod
    def open(
        cls, uri: str, options: Mapping[str, str] | None = None, version: int | None = None
    ) -> "Table | None":
        """The table, at its newest or the given version; None where there is none.

        Raises:
            StoreError: there is something else, the version is unknown, or it cannot be read.
        """
        refuse_place(uri)
        storage = settings(uri, options)
        try:
            handle = ask(f"open {uri}", lambda: DeltaTable(uri, version, storage))
        except TableNotFoundError:
            return None
        unknown = set(handle.protocol().reader_features or ()) - _FEATURES_READ
        if handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
            unknown.add("columnMapping")  # then the files have other names for the columns
        if unknown:
            raise StoreError(
                f"Table {uri} uses {', '.join(sorted(unknown))}, which embatch cannot read. "
                "Rewrite it without (Spark: REORG TABLE … APPLY (PURGE))."
            )
        refuse_newer(uri, pa.schema(handle.schema().to_arrow()))
        return cls(uri, handle, dict(options or {}))

    @classmethod
    def create(
        cls,
        uri: str,
        schema: pa.Schema,
        note: Mapping[str, Any],
        options: Mapping[str, str] | None = None,
    ) -> "Table":
        """Make an empty table; its first commit carries the note.

        Raises:
            Refused: somebody made it first.
            StoreError: the place is not empty or cannot be written.
        """
        refuse_other_content(uri, options)
        mine = json.dumps({**note, "time": now().isoformat()})
        try:
            handle = DeltaTable.create(
                uri,
                stamped(schema),
                mode="error",
                configuration={"delta.logRetentionDuration": LOG_RETENTION},
                storage_options=settings(uri, options),
                commit_properties=CommitProperties(custom_metadata={_APPLICATION: mine}),
            )
        except Exception as error:  # deltalake raises bare ones for types it refuses
            if cls.open(uri, options) is not None:
                raise Refused(f"Table {uri} was made by somebody else just now.") from error
            raise StoreError(f"Cannot make a table at {uri}: {reason(error)}") from error
        table = cls(uri, handle, dict(options or {}))
        table._mine = mine
        return table

    @property
    def version(self) -> int:
        """The version this handle stands at."""
        return int(self.handle.version())

    @property
    def schema(self) -> pa.Schema:
        """The table's columns; Delta knows no fixed size, so vectors are plain lists here."""
        return pa.schema(self.handle.schema().to_arrow())

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The table's folder as a filesystem."""
        return filesystem(self.uri, self.options)

    def files(self) -> list[Fragment]:
        """The files of this version, sorted by name."""
        actions = pa.table(self.handle.get_add_actions(flatten=True))
        names = ("path", "size_bytes", "num_records")
        rows = zip(*(actions[name].to_pylist() for name in names), strict=True)
        fragments = (
            Fragment(name := urllib.parse.unquote(path), size, self._count(name, n))
            for path, size, n in rows
        )
        return sorted(fragments, key=lambda fragment: fragment.name)

    def _count(self, name: str, known: int | None) -> int:
        """Rows of a file; who wrote it may not have told the log."""
        return int(self._footer(name).num_rows) if known is None else known

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of this version in the files' order; a file that lacks a column has nulls."""
        wanted = self.schema.names if columns is None else columns
        nothing = pa.schema([self.schema.field(name) for name in wanted]).empty_table()
        parts = [self.read_file(file.name, wanted) for file in self.files()]
        rows = pa.concat_tables(parts, promote_options="permissive") if parts else nothing
        for column in nothing.schema:
            if column.name not in rows.column_names:
                rows = rows.append_column(column, pa.nulls(len(rows), column.type))
        return rows.select(wanted)

    def read_file(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one file, in its order; columns that it lacks are left out."""

        def rows_of() -> pa.Table:
            with (
                self.filesystem.open_input_file(name) as source,
                pq.ParquetFile(source, pre_buffer=in_store(self.uri)) as parquet,
            ):
                known = parquet.schema_arrow.names
                wanted = None if columns is None else [c for c in columns if c in known]
                return parquet.read(columns=wanted)

        rows = ask(f"read {name} of {self.uri}", rows_of)
        return rows.cast(without_views(rows.schema))

    def file_schema(self, name: str) -> pa.Schema:
        """The Arrow schema in one file's footer."""
        return without_views(self._footer(name).schema.to_arrow_schema())

    def _footer(self, name: str) -> pq.FileMetaData:
        def footer() -> pq.FileMetaData:
            with self.filesystem.open_input_file(name) as source:
                return pq.read_metadata(source)

        return ask(f"read {name} of {self.uri}", footer)

    def commit(
        self, note: Mapping[str, Any], add: Sequence[Fragment] = (), remove: Sequence[Fragment] = ()
    ) -> None:
        """One new version: `add` comes, `remove` goes, all or nothing.

        Raises:
            Refused: the table moved since this handle last saw it; nothing was committed.
            StoreError: a file to add is not there as it was reported, or the log cannot be written.
        """
        self.check(add)
        now_ms = time.time_ns() // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            _add_action(fragment, now_ms) for fragment in add
        ]
        actions += [
            RemoveAction(fragment.name, True, now_ms, fragment.size_bytes) for fragment in remove
        ]
        write = partial(
            self.handle.create_write_transaction,
            actions,
            mode="append",
            schema=self.handle.schema(),
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
        )
        self._fenced(note, write)

    def overwrite(
        self, note: Mapping[str, Any], schema: pa.Schema, add: Sequence[Fragment]
    ) -> None:
        """One new version that holds `add` alone, under another schema. Raises as `commit` does."""
        self.check(add)
        now_ms = time.time_ns() // 1_000_000
        actions = [_add_action(fragment, now_ms) for fragment in add]
        write = self.handle.create_write_transaction
        self._fenced(note, partial(write, actions, mode="overwrite", schema=stamped(schema)))

    def add_columns(self, note: Mapping[str, Any], columns: Sequence[pa.Field]) -> None:
        """Columns that older rows have as nulls. Raises as `commit` does."""
        fields = Schema.from_arrow(pa.schema(columns)).fields
        self._fenced(note, partial(self.handle.alter.add_columns, fields))

    def describe(self, note: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Set metadata of the field `embedding`; other keys of it stay. Raises as `commit` does."""
        write = self.handle.alter.set_column_metadata
        self._fenced(note, partial(write, "embedding", dict(metadata)))

    def history(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The commits, newest first, read as they are asked for: a table of years has thousands.

        `version`, `timestamp` (ms) and, where the commit is ours, `note`.
        """
        n_told, n_wanted = 0, limit or 16
        while True:
            read = partial(self.handle.history, n_wanted)
            commits: list[dict[str, Any]] = ask(f"read the log of {self.uri}", read)
            for commit in commits[n_told:]:
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    commit["note"] = json.loads(commit[_APPLICATION])
                yield commit
            if limit or len(commits) < n_wanted:
                return
            n_told, n_wanted = n_wanted, 4 * n_wanted

    def checkpoint(self) -> None:
        """Write the log's state to one file, so that the table opens quickly."""
        ask(f"write a checkpoint of {self.uri}", self.handle.create_checkpoint)

    def check(self, add: Sequence[Fragment]) -> None:
        """Raise StoreError if a file is not there as it was reported."""
        with ThreadPoolExecutor(CHECK_THREADS) as pool:
            list(pool.map(self._check_file, add))

    def _check_file(self, fragment: Fragment) -> None:
        place = f"{self.uri}/{fragment.name}"
        info = ask(f"find {place}", lambda: self.filesystem.get_file_info(fragment.name))
        if info.type != pafs.FileType.File or info.size != fragment.size_bytes:
            raise StoreError(
                f"{place} should have {fragment.size_bytes} bytes and has {info.size}: "
                "on several nodes TABLE must lie on a filesystem that all of them share."
            )
        n_rows = self._footer(fragment.name).num_rows
        if n_rows != fragment.n_rows:
            raise StoreError(f"{place} holds {n_rows} rows, not {fragment.n_rows}.")

    def _fenced(self, note: Mapping[str, Any], write: Callable[..., object]) -> None:
        """Commit exactly the version after this handle's, or refuse."""
        self._guard()
        mine = json.dumps({**note, "time": now().isoformat()})
        next_version = self.version + 1
        properties = CommitProperties(
            custom_metadata={_APPLICATION: mine},
            max_commit_retries=0,
            app_transactions=[Transaction(_APPLICATION, next_version)],
        )
        for n_left in reversed(range(TRIES)):
            try:
                write(commit_properties=properties)
                break
            except Exception as error:  # deltalake raises its own, the system's, and bare ones
                newest = Table.open(self.uri, self.options)
                if newest is not None and newest.version >= next_version:
                    past = Table.open(self.uri, self.options, next_version)
                    if past is not None and next(past.history(1)).get(_APPLICATION) == mine:
                        break  # our own answer got lost
                    raise Refused(
                        f"Somebody else wrote version {next_version} of {self.uri}."
                    ) from error
                if not (n_left and passes(error)):
                    raise StoreError(f"Cannot write to {self.uri}: {reason(error)}") from error
        ask(f"read the log of {self.uri}", lambda: self.handle.load_as_version(next_version))
        self._mine = mine
        self._guard()

    def _guard(self) -> None:
        """Stop if somebody wrote over our last commit, as a store without conditional puts lets them."""
        if self._mine is None or not in_store(self.uri):
            return
        if next(self.history(1)).get(_APPLICATION) != self._mine:
            raise StoreError(
                f"Version {self.version} of {self.uri} was written over by somebody else: this "
                "object store ignores conditional puts (If-None-Match), without which two writers "
                "lose each other's rows. Let one run at a time write to the table, and run again."
            )


def _add_action(fragment: Fragment, now_ms: int) -> AddAction:
    stats = json.dumps({"numRecords": fragment.n_rows})
    return AddAction(fragment.name, fragment.size_bytes, {}, now_ms, True, stats)


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
