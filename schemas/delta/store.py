"""A Delta table at one version: open, read and commit it.

All other modules open, read and commit tables through `Table`. Workers write Parquet files with
`write_rows`; only the driver commits. The fence makes a commit safe: one handle from plan to end, never
reopened, no retries, and the transaction's number. If another writer commits in between, the next commit
fails (`Refused`), and the run plans again. In an object store the fence needs conditional puts: a store
that lacks them is noticed after a commit.
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

from schemas.columns import plain_schema
from schemas.delta.formats import refuse_newer, stamp_format
from schemas.delta.fragments import Fragment
from schemas.delta.places import (
    TRIES,
    call_store,
    filesystem,
    in_store,
    is_transient,
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
    """Error: another writer committed first, so that this run's plan may no longer be true."""


@dataclass
class Table:
    """A Delta table at one version.

    Attributes:
        uri: a folder or an object-store prefix.
        handle: the one DeltaTable of this run; its version moves only by this run's own commits.
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
        """Open a table at its newest or the given version; None where there is no table.

        Raises:
            StoreError: a file is there, the version is unknown, or the table cannot be read.
        """
        refuse_place(uri)
        storage = settings(uri, options)
        try:
            handle = call_store(f"open {uri}", lambda: DeltaTable(uri, version, storage))
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
        """Create an empty table, whose first commit carries the note.

        Raises:
            Refused: another writer created the table first.
            StoreError: the place is not empty or cannot be written.
        """
        refuse_other_content(uri, options)
        mine = json.dumps({**note, "time": now().isoformat()})
        try:
            handle = DeltaTable.create(
                uri,
                stamp_format(schema),
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
        """Number of the version at which the handle stands."""
        return int(self.handle.version())

    @property
    def schema(self) -> pa.Schema:
        """The table's columns; vectors are lists of free size here, since Delta knows no fixed size."""
        return pa.schema(self.handle.schema().to_arrow())

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem of the table's folder."""
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
        """Number of rows of a file, from the file's footer if the log does not tell it."""
        return int(self._footer(name).num_rows) if known is None else known

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of this version, in the order of the files; a column that a file lacks is null."""
        wanted = self.schema.names if columns is None else columns
        nothing = pa.schema([self.schema.field(name) for name in wanted]).empty_table()
        parts = [self.read_file(file.name, wanted) for file in self.files()]
        rows = pa.concat_tables(parts, promote_options="permissive") if parts else nothing
        for column in nothing.schema:
            if column.name not in rows.column_names:
                rows = rows.append_column(column, pa.nulls(len(rows), column.type))
        return rows.select(wanted)

    def read_file(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one file, in the file's order; a column that the file lacks is left out."""

        def rows_of() -> pa.Table:
            with (
                self.filesystem.open_input_file(name) as source,
                pq.ParquetFile(source, pre_buffer=in_store(self.uri)) as parquet,
            ):
                known = parquet.schema_arrow.names
                wanted = None if columns is None else [c for c in columns if c in known]
                return parquet.read(columns=wanted)

        rows = call_store(f"read {name} of {self.uri}", rows_of)
        return rows.cast(plain_schema(rows.schema))

    def file_schema(self, name: str) -> pa.Schema:
        """The Arrow schema in one file's footer."""
        return plain_schema(self._footer(name).schema.to_arrow_schema())

    def _footer(self, name: str) -> pq.FileMetaData:
        def footer() -> pq.FileMetaData:
            with self.filesystem.open_input_file(name) as source:
                return pq.read_metadata(source)

        return call_store(f"read {name} of {self.uri}", footer)

    def commit(
        self, note: Mapping[str, Any], add: Sequence[Fragment] = (), remove: Sequence[Fragment] = ()
    ) -> None:
        """Commit one new version: `add` comes, `remove` goes, all or nothing.

        Raises:
            Refused: another writer committed since the handle's version; nothing was committed.
            StoreError: a file to add is missing or not as reported, or the log cannot be written.
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
        self._commit_next(note, write)

    def overwrite(
        self, note: Mapping[str, Any], schema: pa.Schema, add: Sequence[Fragment]
    ) -> None:
        """Commit one new version that holds `add` alone, under another schema. Raises as `commit` does."""
        self.check(add)
        now_ms = time.time_ns() // 1_000_000
        actions = [_add_action(fragment, now_ms) for fragment in add]
        write = self.handle.create_write_transaction
        self._commit_next(
            note, partial(write, actions, mode="overwrite", schema=stamp_format(schema))
        )

    def add_columns(self, note: Mapping[str, Any], columns: Sequence[pa.Field]) -> None:
        """Commit new columns, which are null in older rows. Raises as `commit` does."""
        fields = Schema.from_arrow(pa.schema(columns)).fields
        self._commit_next(note, partial(self.handle.alter.add_columns, fields))

    def describe(self, note: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Commit metadata of the field `embedding`; its other keys stay. Raises as `commit` does."""
        write = self.handle.alter.set_column_metadata
        self._commit_next(note, partial(write, "embedding", dict(metadata)))

    def history(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The commits, newest first, read from the log in parts, since an old table has thousands.

        A commit has `version`, `timestamp` (ms) and, if embatch made it, `note`.
        """
        n_told, n_wanted = 0, limit or 16
        while True:
            read = partial(self.handle.history, n_wanted)
            commits: list[dict[str, Any]] = call_store(f"read the log of {self.uri}", read)
            for commit in commits[n_told:]:
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    commit["note"] = json.loads(commit[_APPLICATION])
                yield commit
            if limit or len(commits) < n_wanted:
                return
            n_told, n_wanted = n_wanted, 4 * n_wanted

    def checkpoint(self) -> None:
        """Write the log's state to one file, so that the table opens quickly."""
        call_store(f"write a checkpoint of {self.uri}", self.handle.create_checkpoint)

    def check(self, add: Sequence[Fragment]) -> None:
        """Raise a StoreError if a file is missing, or its size or number of rows is not as reported."""
        with ThreadPoolExecutor(CHECK_THREADS) as pool:
            list(pool.map(self._check_file, add))

    def _check_file(self, fragment: Fragment) -> None:
        place = f"{self.uri}/{fragment.name}"
        info = call_store(f"find {place}", lambda: self.filesystem.get_file_info(fragment.name))
        if info.type != pafs.FileType.File or info.size != fragment.size_bytes:
            raise StoreError(
                f"{place} should have {fragment.size_bytes} bytes and has {info.size}: "
                "on several nodes TABLE must lie on a filesystem that all of them share."
            )
        n_rows = self._footer(fragment.name).num_rows
        if n_rows != fragment.n_rows:
            raise StoreError(f"{place} holds {n_rows} rows, not {fragment.n_rows}.")

    def _commit_next(self, note: Mapping[str, Any], write: Callable[..., object]) -> None:
        """Commit the version that follows the handle's, or raise Refused if another writer did."""
        self._check_last_commit()
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
                if not (n_left and is_transient(error)):
                    raise StoreError(f"Cannot write to {self.uri}: {reason(error)}") from error
        call_store(f"read the log of {self.uri}", lambda: self.handle.load_as_version(next_version))
        self._mine = mine
        self._check_last_commit()

    def _check_last_commit(self) -> None:
        """Raise a StoreError if another writer replaced this run's last commit in an object store."""
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
    """The current time, UTC."""
    return datetime.now(UTC)
