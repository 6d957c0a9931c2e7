"""Older versions of a table: restore one, or delete the files that only old versions hold."""

import contextlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.delta.fragments import exclude
from schemas.delta.places import call_store, filesystem
from schemas.delta.store import StoreError, Table

LOG = "_delta_log"
OURS = re.compile(r"[^/]+-[0-9a-f]{32}\.parquet")
ORPHAN_HOURS = 24  # a file that was never committed may belong to a run that is at work


def restore(table: Table, note: Mapping[str, Any], version: int) -> None:
    """Commit a new version with the files and the columns of an older version.

    Raises:
        StoreError: there is no such version, or `vacuum` deleted files of it.
    """
    past = Table.open(table.uri, table.options, version)
    assert past is not None  # the table is open
    held, wanted = table.files(), past.files()
    gone = [
        f.name for f in wanted if table.filesystem.get_file_info(f.name).type != pafs.FileType.File
    ]
    if gone:
        raise StoreError(
            f"Version {version} of {table.uri} cannot come back: vacuum took {gone[0]}."
        )
    if past.schema.equals(table.schema, check_metadata=True):
        table.commit(note, exclude(wanted, held), exclude(held, wanted))
    else:
        table.overwrite(note, past.schema, wanted)


def vacuum(table: Table, hours: float, *, dry_run: bool) -> list[str]:
    """Delete files that no version of the last `hours` holds.

    A file that was never committed may belong to a run that is at work: it is deleted only when it is
    older than a day.

    Returns:
        Names of the files, sorted. With `dry_run` the files stay.
    """
    there = {
        found.path
        for found in table.filesystem.get_file_info(pafs.FileSelector("", recursive=True))
        if found.type == pafs.FileType.File
    }
    gone: set[str] = set()
    for retention, everything in ((hours, False), (max(hours, ORPHAN_HOURS), True)):
        call = partial(
            table.handle.vacuum,
            retention_hours=math.ceil(retention),
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=everything,
        )
        gone |= set(call_store(f"vacuum {table.uri}", call))
    return sorted(match_names(there, gone))


def match_names(names: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The names of a table's files that stand among some paths.

    Args:
        names: paths of files within the table's folder.
        paths: paths within the folder or URIs, as deltalake gives them, also of files deleted long ago.
    """
    by_last_part: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_last_part[path.rpartition("/")[2]].append(path)
    return [
        name
        for name in names
        if any(path.endswith(name) for path in by_last_part[name.rpartition("/")[2]])
    ]


def drop(uri: str, options: Mapping[str, str], is_ours: Callable[[pa.Schema], bool]) -> None:
    """Delete a table of embatch: first its log, newest commit first, then its files.

    In this order a reader sees a whole table or none at each moment. Files of other tools stay.

    Args:
        uri: Where the table is.
        options: For the object store.
        is_ours: True for the columns of a table that may go.

    Raises:
        StoreError: the table is not one that may go.
    """
    table = Table.open(uri, options)
    if table is not None and not is_ours(table.schema):
        raise StoreError(f"{uri} is a table, but not one of embatch. Move it out of the way.")
    fs = filesystem(uri, options)
    everything = fs.get_file_info(pafs.FileSelector("", recursive=True, allow_not_found=True))
    files = [found.path for found in everything if found.type == pafs.FileType.File]
    log = sorted(path for path in files if path.startswith(f"{LOG}/"))
    for path in [*reversed(log), *filter(OURS.fullmatch, files)]:
        fs.delete_file(path)
    if os.path.isdir(uri):
        for folder in (os.path.join(uri, LOG), uri):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)
