"""Both sides of a plan, read: the source's pieces and the table's files, as KEYS.

Small sources are read here, in the driver; large ones by Ray Data's tasks, which call the same
`scan_piece`. The pieces are read once more for the rows that are due (`jobs.sync.due`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import common_schema
from schemas.delta.fragments import Fragment, is_made_by
from schemas.delta.store import Table
from schemas.keys import KEYS, from_binary, from_hex, id_hashes
from schemas.tables.embeddings import Fingerprint
from sources.rows import FAILURE_SCHEMA, PREPARED_FIELDS, Piece, Source

SCAN_THREADS = 8


@dataclass(frozen=True)
class SourceScan:
    """What one pass over a source found.

    Attributes:
        keys: (n,) KEYS in order of file and position.
        schemas: the other columns of each piece, in the same order.
        failures: rows that could not be read, `sources.rows.FAILURE_SCHEMA`.
        left_out: rows that the source does not take, by reason.
        complete: whether every file could be listed and read to its end.
        files: the names of those that were, where not all could.
        others: the names of the other files, None where not all could be listed.
    """

    keys: np.ndarray
    schemas: list[pa.Schema]
    failures: pa.Table
    left_out: Counter[str]
    complete: bool
    files: set[str]
    others: set[str] | None

    @property
    def unreadable_ids(self) -> np.ndarray:
        """(u, 2) uint64: hashed ids of rows that could not be read, where they have one."""
        return id_hashes(self.failures["id"].drop_null())


@dataclass(frozen=True)
class TableScan:
    """What a table holds: (n,) KEYS, its files, and which of them this recipe wrote, (f,) bool."""

    keys: np.ndarray
    files: list[Fragment]
    current_file: np.ndarray


def scan_piece(source: Source, index: int, piece: Piece) -> dict[str, Any]:
    """Read one piece for its keys.

    Returns:
        `piece` (its index), `keys` (bytes of KEYS), `columns` (a serialised schema of the other
        columns), `failures` (a serialised table) and `left_out` (JSON, rows by reason): what fits in
        one row of a Ray dataset.
    """
    keys, failures, schemas = [], [], []
    left_out: Counter[str] = Counter()
    for table, failed, skipped in source.read(piece):
        part = np.zeros(len(table), KEYS)
        part["id"] = id_hashes(table["id"])
        part["content"] = from_binary(table["content_hash"])
        part["row"] = table["row_hash"].to_numpy()
        part["where"] = piece.file_number + table["piece_file"].to_numpy().astype(np.int32)
        part["position"] = table["position"].to_numpy()
        keys.append(part)
        failures.append(failed)
        schemas.append(others_of(table).schema)
        left_out.update(skipped)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, FAILURE_SCHEMA) as stream:
        for failed in failures:
            stream.write_table(failed)
    return {
        "piece": index,
        "keys": np.concatenate(keys).tobytes() if keys else b"",
        "columns": common_schema(schemas).serialize().to_pybytes(),
        "failures": sink.getvalue().to_pybytes(),
        "left_out": json.dumps(left_out),
    }


def n_rows_of(scan: Mapping[str, Any]) -> int:
    """Rows that a piece's scan found."""
    return len(scan["keys"]) // KEYS.itemsize


def gather(
    scans: Sequence[Mapping[str, Any]],
    pieces: Sequence[Piece],
    *,
    all_listed: bool,
    limit: int | None = None,
) -> SourceScan:
    """The pieces' scans as one, in the pieces' order, of the first `limit` rows."""
    keys, failures = [], [FAILURE_SCHEMA.empty_table()]
    left_out: Counter[str] = Counter()
    n_left, cut = limit, set[str]()
    ordered = sorted(scans, key=lambda scan: int(scan["piece"]))
    for scan in ordered:
        piece = pieces[scan["piece"]]
        found = np.frombuffer(scan["keys"], KEYS)
        failed = pa.ipc.open_stream(scan["failures"]).read_all()
        left_out.update(json.loads(scan["left_out"]))
        if n_left is not None and len(found) >= n_left:
            found = found[:n_left]
            failed = _before(failed, piece, found)
            cut = set(piece.files)
        n_left = None if n_left is None else n_left - len(found)
        keys.append(found)
        failures.append(failed)
    rows = pa.concat_tables(failures)
    unread = set(rows.filter(pc.field("stage") == "file")["source_file"].to_pylist())
    complete = all_listed and limit is None and not unread
    read = () if complete else (name for s in ordered for name in pieces[s["piece"]].files)
    listed = () if complete else (name for piece in pieces for name in piece.files)
    files = set(read) - unread - cut
    return SourceScan(
        keys=np.concatenate([np.zeros(0, KEYS), *keys]),
        schemas=[pa.ipc.read_schema(pa.py_buffer(scan["columns"])) for scan in ordered],
        failures=rows,
        left_out=left_out,
        complete=complete,
        files=files,
        others=set(listed) - files if all_listed else None,
    )


def _before(failed: pa.Table, piece: Piece, found: np.ndarray) -> pa.Table:
    """The failures of a piece that stand before the last of the rows found in it, (n,) KEYS."""
    last = (int(found["where"][-1]) - piece.file_number, int(found["position"][-1]))
    number = {name: number for number, name in enumerate(piece.files)}
    names, positions = failed["source_file"].to_pylist(), failed["position"].to_pylist()
    kept = [(number[n], at) < last for n, at in zip(names, positions, strict=True)]
    return failed.filter(pa.array(kept, pa.bool_()))


def scan_table(
    table: Table | None, recipe: str, *, passages: bool, only_run: str | None = None
) -> TableScan:
    """Read the keys of every row of a table; None is a table of no rows.

    Args:
        table: at the version that is planned for.
        recipe: a file is current if its rows were made by this recipe.
        passages: rows belong to documents, which are what is compared.
        only_run: a file is current only if this run embedded its rows.
    """
    if table is None:
        return TableScan(np.zeros(0, KEYS), [], np.zeros(0, bool))
    files = table.files()

    def scan(index: int) -> tuple[np.ndarray, bool]:
        name = files[index].name
        keys, current = _scan_file(table, name, recipe, passages)
        keys["where"] = index
        return keys, current and (only_run is None or is_made_by(name, only_run))

    with ThreadPoolExecutor(max_workers=SCAN_THREADS) as pool:
        parts = list(pool.map(scan, range(len(files))))
    return TableScan(
        keys=np.concatenate([np.zeros(0, KEYS), *(keys for keys, _ in parts)]),
        files=files,
        current_file=np.array([current for _, current in parts], bool),
    )


def _scan_file(table: Table, name: str, recipe: str, passages: bool) -> tuple[np.ndarray, bool]:
    id_column = "parent_id" if passages else "id"
    held = table.read_file(name, [id_column, "content_hash", "row_hash"])
    keys = np.zeros(len(held), KEYS)
    keys["id"] = id_hashes(held[id_column])
    keys["position"] = np.arange(len(held))
    if "content_hash" not in held.column_names or "row_hash" not in held.column_names:
        return keys, False  # a foreign tool wrote it
    keys["content"] = from_hex(held["content_hash"], 2)
    keys["row"] = from_hex(held["row_hash"], 1)[:, 0]
    fingerprint = Fingerprint.of(table.file_schema(name))
    return keys, fingerprint is not None and fingerprint.recipe == recipe


def others_of(table: pa.Table) -> pa.Table:
    """The source's other columns among the rows of a reader."""
    return table.select(range(len(PREPARED_FIELDS), table.num_columns))
