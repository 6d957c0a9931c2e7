"""Files of a table written anew by the driver: without some of their rows, or many small ones as one."""

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
    """Write files of a table without some of their rows, and with those that take their place.

    So new rows lie where the old ones lay: the next refresh finds the rows of one piece of the source
    together, and no small files are left to join. Files of other recipes or columns take none.

    Args:
        table: the one that holds the files.
        run: its name goes into theirs.
        gone: positions of the rows that go, by file, in the table's order.
        made: files of new rows, in the table's folder and not yet in the table.

    Returns:
        The files to commit, and those of `made` whose rows are in them: all, or none.

    Raises:
        StoreError: a file of `made` is not there as it was reported.
    """
    takes: dict[Fragment, pa.Table] = {}
    if gone and made and sum(file.size_bytes for file in made) <= MERGED_BYTES:
        table.check(made)
        wanted = table.file_schema(made[0].name)
        schemas = zip(gone, _ahead(table.file_schema, _names(gone)), strict=True)
        alike = [file for file, has in schemas if has.equals(wanted, check_metadata=True)]
        if alike:
            new = pa.concat_tables(_ahead(table.read_file, sorted(_names(made))))
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
    written = list(_ahead(write, left, REWRITE_THREADS))
    return (written, [*made]) if takes else ([*made, *written], [])


def _shares(new: pa.Table, weights: Sequence[int]) -> list[pa.Table]:
    """Cut rows into parts of about these weights, in order, and no document's passages in two."""
    ends = np.round(np.cumsum(weights) / sum(weights) * len(new)).astype(int)
    if "parent_id" in new.column_names and len(new):
        parents = new["parent_id"].combine_chunks()
        begins = np.flatnonzero(pc.not_equal(parents[1:], parents[:-1]).to_numpy(False)) + 1
        borders = np.concatenate([[0], begins, [len(new)]])
        ends = borders[np.searchsorted(borders, ends)]
    starts = [0, *ends[:-1]]
    return [new.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]


def discard(table: Table, files: Sequence[Fragment]) -> None:
    """Delete files that no version holds; what cannot be deleted is left to `vacuum`."""

    def delete(file: Fragment) -> None:
        with contextlib.suppress(OSError):
            table.filesystem.delete_file(file.name)

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        list(pool.map(delete, files))


def fixed_size(rows: pa.Table) -> pa.Table:
    """Rows with vectors of fixed size, also where a foreign tool wrote lists."""
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
    """Join small files, when there are many, in the table's order.

    Files of different recipes stay apart, since the recipe stands in the file. Where it takes long,
    what was joined so far is committed now and then, which also renews the claim.

    Args:
        table: Whose files are joined.
        note: What the commits say of this run.
        check: Called between two files; may raise to end it, after what was joined is committed.
        progress: Told how many files are joined, and how many there are to join.

    Returns:
        How many files were joined.

    Raises:
        Refused: somebody else wrote to the table; what was committed stays.
    """
    small = [file for file in table.files() if file.size_bytes < SMALL_BYTES]
    if len(small) <= MANY_SMALL_FILES:
        return 0
    alike: dict[bytes, list[Fragment]] = defaultdict(list)
    schemas = _ahead(table.file_schema, _names(small))
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
        rows = _ahead(table.read_file, _names(batch))
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


def _ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int = CHECK_THREADS
) -> Iterator[_Result]:
    """The results for all items, in order, those of a few items before they are asked for."""
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
    """Cut a sequence so that the items of a batch have no more than a limit together, or are one."""
    cut: list[list[_Item]] = []
    size = 0.0
    for item in items:
        size += size_of(item)
        if not cut or size > limit:
            cut.append([])
            size = size_of(item)
        cut[-1].append(item)
    return cut
