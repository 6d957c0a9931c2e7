"""Delta tables: opened, committed, read and swept here, and nowhere else.

Workers write Parquet files with `write_rows`; only the driver commits. What makes a commit safe is
the fence: one handle from plan to end, never reopened, no retries, and the transaction's number.
Whoever else writes in between makes the next commit fail (`Refused`), and the run plans again.
"""

import contextlib
import json
import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from schemas.columns import without_views
from schemas.fragments import Fragment

LOG_RETENTION = "interval 3650 days"  # the history is the list of runs
_APPLICATION = "embatch"
_COMMITS = 16  # of the history, read at first
_FEATURES_READ = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


class StoreError(RuntimeError):
    """A table that cannot be opened, read or written; the message says what to do."""


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
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls, uri: str, options: Mapping[str, str] | None = None, version: int | None = None
    ) -> "Table | None":
        """The table, at its newest or the given version; None where there is none.

        Raises:
            StoreError: there is something else, the version is unknown, or it cannot be read.
        """
        storage = dict(options or {})
        _refuse_file(uri)
        try:
            handle = DeltaTable(uri, version=version, storage_options=storage or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise StoreError(f"Cannot open {uri}: {short(error)}") from error
        unknown = set(handle.protocol().reader_features or ()) - _FEATURES_READ
        if unknown:
            raise StoreError(
                f"Table {uri} uses {', '.join(sorted(unknown))}, which embatch cannot read. "
                "Rewrite it without (Spark: REORG TABLE … APPLY (PURGE))."
            )
        return cls(uri, handle, storage)

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
        storage = dict(options or {})
        refuse_other_content(uri)
        try:
            handle = DeltaTable.create(
                uri,
                schema,
                mode="error",
                configuration={"delta.logRetentionDuration": LOG_RETENTION},
                storage_options=storage or None,
                commit_properties=CommitProperties(
                    custom_metadata={_APPLICATION: json.dumps({**note, "time": now().isoformat()})}
                ),
            )
        except Exception as error:  # deltalake raises bare ones for types it refuses
            if cls.open(uri, options) is not None:
                raise Refused(f"Table {uri} was made by somebody else just now.") from error
            raise StoreError(f"Cannot make a table at {uri}: {short(error)}") from error
        return cls(uri, handle, storage)

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
        if known is not None:
            return known
        with self.filesystem.open_input_file(name) as source:
            return int(pq.read_metadata(source).num_rows)

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
        with self.filesystem.open_input_file(name) as source, pq.ParquetFile(source) as parquet:
            known = parquet.schema_arrow.names
            wanted = None if columns is None else [c for c in columns if c in known]
            rows = parquet.read(columns=wanted)
        return rows.cast(without_views(rows.schema))

    def file_schema(self, name: str) -> pa.Schema:
        """The Arrow schema in one file's footer."""
        with self.filesystem.open_input_file(name) as source:
            return without_views(pq.read_schema(source))

    def commit(
        self, note: Mapping[str, Any], add: Sequence[Fragment] = (), remove: Sequence[Fragment] = ()
    ) -> None:
        """One new version: `add` comes, `remove` goes, all or nothing.

        Raises:
            Refused: the table moved since this handle last saw it; nothing was committed.
            StoreError: a file to add is not there as it was reported, or the log cannot be written.
        """
        for fragment in add:
            self._check(fragment)
        now_ms = time.time_ns() // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            _add_action(fragment, now_ms) for fragment in add
        ]
        actions += [
            RemoveAction(fragment.name, True, now_ms, fragment.size_bytes) for fragment in remove
        ]
        with self._fence(note) as properties:
            self.handle.create_write_transaction(
                actions,
                mode="append",
                schema=self.handle.schema(),
                commit_properties=properties,
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )

    def overwrite(
        self, note: Mapping[str, Any], schema: pa.Schema, add: Sequence[Fragment]
    ) -> None:
        """One new version that holds `add` alone, under another schema. Raises as `commit` does."""
        for fragment in add:
            self._check(fragment)
        now_ms = time.time_ns() // 1_000_000
        with self._fence(note) as properties:
            self.handle.create_write_transaction(
                [_add_action(fragment, now_ms) for fragment in add],
                mode="overwrite",
                schema=schema,
                commit_properties=properties,
            )

    def add_columns(self, note: Mapping[str, Any], columns: Sequence[pa.Field]) -> None:
        """Columns that older rows have as nulls. Raises as `commit` does."""
        from deltalake import Schema

        fields = Schema.from_arrow(pa.schema(columns)).fields
        with self._fence(note) as properties:
            self.handle.alter.add_columns(fields, commit_properties=properties)

    def describe(self, note: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Replace the metadata of the field `embedding`. Raises as `commit` does."""
        with self._fence(note) as properties:
            self.handle.alter.set_column_metadata(
                "embedding", dict(metadata), commit_properties=properties
            )

    def history(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The commits, newest first, read as they are asked for: a table of years has thousands.

        `version`, `timestamp` (ms) and, where the commit is ours, `note`.
        """
        n_told, n_wanted = 0, limit or _COMMITS
        while True:
            commits = self.handle.history(n_wanted)
            for commit in commits[n_told:]:
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    commit["note"] = json.loads(commit[_APPLICATION])
                yield commit
            if limit or len(commits) < n_wanted:
                return
            n_told, n_wanted = n_wanted, 4 * n_wanted

    def checkpoint(self) -> None:
        """Write the log's state to one file, so that the table opens quickly."""
        self.handle.create_checkpoint()

    def _check(self, fragment: Fragment) -> None:
        info = self.filesystem.get_file_info(fragment.name)
        if info.type != pafs.FileType.File or info.size != fragment.size_bytes:
            raise StoreError(
                f"{self.uri}/{fragment.name} should have {fragment.size_bytes} bytes and has {info.size}: "
                "on several nodes TABLE must lie on a filesystem that all of them share."
            )
        with self.filesystem.open_input_file(fragment.name) as source:
            n_rows = pq.read_metadata(source).num_rows
        if n_rows != fragment.n_rows:
            raise StoreError(
                f"{self.uri}/{fragment.name} holds {n_rows} rows, not {fragment.n_rows}."
            )

    @contextlib.contextmanager
    def _fence(self, note: Mapping[str, Any]) -> Iterator[CommitProperties]:
        """Commit exactly the version after this handle's, or refuse."""
        mine = json.dumps({**note, "time": now().isoformat()})
        next_version = self.version + 1
        properties = CommitProperties(
            custom_metadata={_APPLICATION: mine},
            max_commit_retries=0,
            app_transactions=[Transaction(_APPLICATION, next_version)],
        )
        try:
            yield properties
        except Exception as error:  # deltalake raises its own, the system's, and bare ones
            newest = Table.open(self.uri, self.options)
            if newest is None or newest.version < next_version:
                raise StoreError(f"Cannot write to {self.uri}: {short(error)}") from error
            past = Table.open(self.uri, self.options, next_version)
            if (
                past is None or next(past.history(1)).get(_APPLICATION) != mine
            ):  # else our own answer got lost
                raise Refused(
                    f"Somebody else wrote version {next_version} of {self.uri}."
                ) from error
        self.handle.load_as_version(next_version)


def _add_action(fragment: Fragment, now_ms: int) -> AddAction:
    stats = json.dumps({"numRecords": fragment.n_rows})
    return AddAction(fragment.name, fragment.size_bytes, {}, now_ms, True, stats)


def filesystem(uri: str, options: Mapping[str, str] | None = None) -> pafs.FileSystem:
    """A table's folder as a pyarrow filesystem, with the same credentials as its log."""
    if "://" in uri and not uri.startswith("file://"):
        return pafs.PyFileSystem(DeltaStorageHandler(uri, dict(options or {})))
    path = urllib.parse.unquote(uri.removeprefix("file://"))
    return pafs.SubTreeFileSystem(path, pafs.LocalFileSystem())


def _refuse_file(uri: str) -> None:
    if os.path.isfile(uri):
        raise StoreError(f"{uri} is a file. TABLE is a folder (a new one, or a table of embatch).")


def refuse_other_content(uri: str) -> None:
    """Raise a StoreError where a new table would lie among other files."""
    _refuse_file(uri)
    names = os.listdir(uri) if os.path.isdir(uri) else []
    if names and "_delta_log" not in names:
        raise StoreError(
            f"{uri} is no table and not empty (it holds {min(names)}). Give a new folder as TABLE."
        )


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def short(error: BaseException) -> str:
    """An error's message in one line, short enough for a terminal."""
    return " ".join(str(error).split())[:300] or type(error).__name__
