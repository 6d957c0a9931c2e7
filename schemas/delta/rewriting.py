"""Files of a table written anew, on the driver: without some of their rows, or small files joined into one."""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.delta.claim import RENEW_SECONDS
from schemas.delta.fragments import KEPT, Fragment, is_made_by, new_name, write_tables
from schemas.delta.store import CHECK_THREADS, Table
from schemas.vectors import vector_column, vectors_of

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
SMALL_BYTES = 16 << 20
MANY_SMALL_FILES = 32
COMPACTED_BYTES = 128 << 20
MERGED_BYTES = 2 * COMPACTED_BYTES  # of new rows, which are in memory then
REWRITE_THREADS = 4  # each holds the rows of a file


def rewrite(
    table: Table, run: str, gone: Mapping[Fragment, np.ndarray], made: Sequence[Fragment]
) -> tuple[list[Fragment], list[Fragment]]:
    """Write files of a table anew without the rows that go, and with the new rows in their place.

    Thus new rows lie where the old rows lay: the next run finds the rows of one piece of the source
    together, and no small files are left to join. Files of another recipe, or with other columns, take no
    new rows.

    Args:
        table: the table that holds the files.
        run: name of the run, for the names of the files.
        gone: positions of the rows that go, (k,) integers by file, files in the table's order.
        made: files of new rows, in the table's folder and not yet in the table.

    Returns:
        The files to commit, and the files of `made` whose rows these hold: all of `made`, or none.

    Raises:
        StoreError: a file of `made` is missing, or its size or number of rows is not as reported.
    """
    takes: dict[Fragment, pa.Table] = {}
    if gone and made and sum(file.size_bytes for file in made) <= MERGED_BYTES:
        table.check(made)
        wanted = table.file_schema(made[0].name)
        schemas = zip(gone, _prefetch(table.file_schema, _names(gone)), strict=True)
        alike = [file for file, has in schemas if has.equals(wanted, check_metadata=True)]
        if alike:
            new = pa.concat_tables(_prefetch(table.read_file, sorted(_names(made))))
            weights = [len(gone[file]) for file in alike]
            takes = dict(zip(alike, _shares(new, weights), strict=True))

    def write(file: Fragment) -> Fragment:
        parts = [takes[file]] if file in takes else []
        if len(gone[file]) < file.n_rows:
            rows = table.read_file(file.name)
            stays = np.ones(len(rows), bool)
            stays[gone[file]] = False
            parts.insert(0, fixed_size(rows.filter(pa.array(stays))))
        name = new_name(run, KEPT, file.name)
        return write_tables(table.filesystem, name, parts[0].schema, parts)

    left = (file for file in gone if len(gone[file]) < file.n_rows or len(takes.get(file, ())))
    written = list(_prefetch(write, left, REWRITE_THREADS))
    return (written, [*made]) if takes else ([*made, *written], [])


def _shares(new: pa.Table, weights: Sequence[int]) -> list[pa.Table]:
    """Cut rows, in order, into parts proportional to weights; a document's passages stay in one part."""
    ends = np.round(np.cumsum(weights) / sum(weights) * len(new)).astype(int)
    if "parent_id" in new.column_names and len(new):
        parents = new["parent_id"].combine_chunks()
        begins = np.flatnonzero(pc.not_equal(parents[1:], parents[:-1]).to_numpy(False)) + 1
        borders = np.concatenate([[0], begins, [len(new)]])
        ends = borders[np.searchsorted(borders, ends)]
    starts = [0, *ends[:-1]]
    return [new.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]


def discard(table: Table, files: Sequence[Fragment]) -> None:
    """Delete files that no version of the table holds; a file that cannot be deleted is left to `vacuum`."""

    def delete(file: Fragment) -> None:
        with contextlib.suppress(OSError):
            table.filesystem.delete_file(file.name)

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        list(pool.map(delete, files))


def fixed_size(rows: pa.Table) -> pa.Table:
    """The rows with vectors as lists of fixed size, also where another tool wrote lists of free size."""
    at = rows.schema.get_field_index("embedding")
    if at < 0 or pa.types.is_fixed_size_list(rows.schema.field(at).type):
        return rows
    vectors = vector_column(vectors_of(rows["embedding"]))
    return rows.set_column(at, rows.schema.field(at).with_type(vectors.type), vectors)


def compact(
    table: Table,
    note: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Join small files of a table, in its order, if there are many.

    Files of different recipes stay apart, since each file names its recipe. Where the work takes long,
    the files joined so far are committed now and then, which also renews the claim.

    Args:
        table: The table whose files are joined.
        note: Metadata of the commits.
        check: Called between two files; may raise to end the work, and the files joined are committed first.
        progress: Called with the number of files joined, and the number of files to join.

    Returns:
        Number of files joined.

    Raises:
        Refused: another writer committed to the table; what this run committed stays.
    """
    small = [file for file in table.files() if file.size_bytes < SMALL_BYTES]
    if len(small) <= MANY_SMALL_FILES:
        return 0
    alike: dict[bytes, list[Fragment]] = defaultdict(list)
    schemas = _prefetch(table.file_schema, _names(small))
    for file, schema in zip(small, schemas, strict=True):
        alike[schema.serialize().to_pybytes()].append(file)
    cuts = (batches(files, lambda f: f.size_bytes, COMPACTED_BYTES) for files in alike.values())
    many = [batch for cut in cuts for batch in cut if len(batch) > 1]
    if not many:
        return 0
    n_joined, n_files, last_commit = 0, sum(map(len, many)), time.monotonic()
    joined: list[Fragment] = []
    added: list[Fragment] = []

    def commit() -> None:
        nonlocal joined, added, last_commit
        if joined:
            told = {**note, "state": "compacted", "n_files": len(joined)}
            table.commit(told, add=added, remove=joined)
        joined, added, last_commit = [], [], time.monotonic()

    for batch in many:
        is_mine = all(is_made_by(file.name, note["run"]) for file in batch)
        name = new_name(note["run"], "joined" if is_mine else KEPT, batch[0].name)
        schema = table.file_schema(batch[0].name)
        rows = _prefetch(table.read_file, _names(batch))
        added.append(write_tables(table.filesystem, name, schema, rows))
        joined += batch
        n_joined += len(batch)
        progress(n_joined, n_files)
        if time.monotonic() - last_commit > RENEW_SECONDS:
            commit()
        try:
            check()
        except BaseException:
            commit()
            raise
    commit()
    return n_joined


def _prefetch(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int = CHECK_THREADS
) -> Iterator[_Result]:
    """The results of `work` for all items, in order, computed in threads a few items ahead."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[_Result]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        for future in coming:
            yield future.result()


def _names(files: Iterable[Fragment]) -> Iterator[str]:
    return (file.name for file in files)


def batches(
    items: Iterable[_Item], size_of: Callable[[_Item], float], limit: float
) -> list[list[_Item]]:
    """Cut a sequence into batches whose sizes sum to at most a limit; a larger item is a batch alone."""
    cut: list[list[_Item]] = []
    size = 0.0
    for item in items:
        size += size_of(item)
        if not cut or size > limit:
            cut.append([])
            size = size_of(item)
        cut[-1].append(item)
    return cut
