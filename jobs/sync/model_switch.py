"""Change the model of a table: embed all rows into TABLE.next, then replace the table's rows in one commit.

TABLE.next is synced like any table, so that a crash costs one wave at most, while readers still see the old
vectors. When it is complete, its files are copied into TABLE and one commit replaces the old files by them.
`restore` can go back until `vacuum` has run.
"""

import dataclasses
import uuid
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from jobs.sync.config import EmbedConfig
from jobs.sync.errors import OtherSpace, SyncError
from jobs.sync.planning import PRUNE_SHARE
from jobs.sync.summary import DryRunSummary, EmbedSummary
from schemas.delta import claim
from schemas.delta.formats import is_of_kind
from schemas.delta.fragments import Fragment, new_name
from schemas.delta.store import Table
from schemas.delta.versions import drop
from schemas.tables.embeddings import Fingerprint
from schemas.tables.failures import FAILURES, FailureLog

NEXT = ".next"
Summary = EmbedSummary | DryRunSummary


def replace_all(config: EmbedConfig, sync: Callable[[EmbedConfig], Summary]) -> Summary:
    """Embed all rows again, and replace the vectors of the table.

    If the table holds vectors of another model, the new ones are made in TABLE.next first.

    Args:
        config: of a run with `--replace`.
        sync: performs a run.

    Returns:
        Summary of the table's rows; it includes rows that an earlier, unfinished run embedded.

    Raises:
        SyncError: the new vectors are of much fewer rows; the errors of `sync` too.
    """
    try:
        return sync(config)
    except OtherSpace:
        beside = dataclasses.replace(config, table=config.table + NEXT, replace=False)
    try:
        summary = sync(beside)
    except OtherSpace:  # of a model that was given up before it was complete
        clear(config.uri, config.store)
        summary = sync(beside)
    assert isinstance(summary, EmbedSummary)  # a dry run looks past other vectors
    n_new, n_gone, version = _switch(
        config.uri, config.store, force=config.force_prune, wait=config.wait
    )
    clear(config.uri, config.store)
    n_rows = summary.unchanged + summary.embedded + summary.replaced + summary.updated
    return dataclasses.replace(
        summary,
        table=config.table,
        table_version=version,
        embedded=n_new,
        replaced=n_rows - n_new,
        unchanged=0,
        updated=0,
        deleted=n_gone,
    )


def clear(uri: str, options: Mapping[str, str]) -> None:
    """Delete TABLE.next and its failures, if they are there."""
    for companion in (f"{NEXT}.failures", NEXT):
        drop(uri + companion, options, _is_ours)


def _is_ours(schema: pa.Schema) -> bool:
    return Fingerprint.of(schema) is not None or is_of_kind(schema, FAILURES)


def _switch(
    uri: str, options: Mapping[str, str], *, force: bool, wait: bool
) -> tuple[int, int, int]:
    """Replace the rows of TABLE by those of TABLE.next, in one commit.

    Returns:
        Number of ids that are new, number of ids that are gone and did not fail, and the new version.
    """
    following = Table.open(uri + NEXT, options)
    table = Table.open(uri, options)
    assert table is not None  # the caller read it
    assert following is not None  # the caller made it
    failed = FailureLog(following.uri, options).rows
    old_ids, new_ids = pc.unique(_ids(table)), pc.unique(_ids(following))
    n_old, n_new = len(old_ids), _n_lacking(new_ids, old_ids)
    n_gone = _n_lacking(old_ids, pa.concat_arrays([new_ids, *failed["id"].chunks]))
    if n_gone > PRUNE_SHARE * n_old and not force:
        raise SyncError(
            f"{following.uri} lacks {n_gone:,} of the {n_old:,} ids of {uri}, more than"
            f" {PRUNE_SHARE:.0%}, and does not take its place. If that is meant, add --prune"
            " --force-prune (prune and force_prune in a corpus.toml); else look at the source."
        )
    notes = (commit.get("note", {}) for commit in following.history())
    done = next(note for note in notes if note.get("state") == "done")
    identity = claim.identity(f"switch-{uuid.uuid4().hex[:6]}")
    with claim.hold(table, {**done, **identity}, wait=wait) as table:
        note = {**done, **identity, "state": "switched"}
        log = FailureLog(uri, options)
        failures = failed.drop_columns(["failed_at"]).to_pylist()
        log.add(failures, note)  # first, so that a row is always in one of the two tables
        with claim.renew_by_handle(table, note):
            copied = _copy_files(following, table, note["run"])
        table.overwrite(note, following.schema, copied)
        log.keep(log.seen, note)
        return n_new, n_gone, table.version


def _ids(table: Table) -> pa.ChunkedArray:
    """Ids of a table's rows; for passages, the ids of their documents."""
    return table.read(["parent_id" if "parent_id" in table.schema.names else "id"])[0]


def _n_lacking(ids: pa.Array, known: pa.Array) -> int:
    """Number of ids that are not among the known ones."""
    return len(ids) - int(pc.sum(pc.is_in(ids, value_set=known)).as_py() or 0)


def _copy_files(source: Table, target: Table, run: str) -> list[Fragment]:
    """Copy the files of a table into the folder of another one, under new names."""
    copied = []
    for file in source.files():
        name = new_name(run, "switch")
        pafs.copy_files(
            file.name,
            name,
            source_filesystem=source.filesystem,
            destination_filesystem=target.filesystem,
        )
        copied.append(dataclasses.replace(file, name=name))
    return copied
