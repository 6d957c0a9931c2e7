"""Read both sides of a plan: the keys of the source's pieces and of the table's files, as KEYS.

The driver reads small sources itself; Ray Data's tasks read large ones with the same `scan_piece`. Due
rows are read once more later (`jobs.sync.due`).
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
    """Keys and failures of a source after one pass over it.

    Attributes:
        keys: (n,) KEYS in order of file and position.
        schemas: of the other columns of each piece, in the same order.
        failures: rows that could not be read, `sources.rows.FAILURE_SCHEMA`.
        left_out: number of rows that the source skips on purpose, by reason.
        complete: True if every file was listed and read to its end.
        files: names of the files that were read to their end; empty if the scan is complete.
        others: names of the other files; None if not all files could be listed.
        broken: names of the files that could not be read to their end.
    """

    keys: np.ndarray
    schemas: list[pa.Schema]
    failures: pa.Table
    left_out: Counter[str]
    complete: bool
    files: set[str]
    others: set[str] | None
    broken: set[str]

    @property
    def unreadable_ids(self) -> np.ndarray:
        """Hashed ids of the rows that could not be read but have an id, (u, 2) uint64."""
        return id_hashes(self.failures["id"].drop_null())


@dataclass(frozen=True)
class TableScan:
    """Keys and files of a table.

    Attributes:
        keys: (n,) KEYS.
        files: f files; `keys["where"]` is an index into them.
        current_file: (f,) bool, True for a file that the run's recipe wrote.
    """

    keys: np.ndarray
    files: list[Fragment]
    current_file: np.ndarray


def scan_piece(source: Source, index: int, piece: Piece) -> dict[str, Any]:
    """Read the keys of one piece.

    Returns:
        `piece` (its index), `keys` (bytes of KEYS), `columns` (a serialised schema of the other
        columns), `failures` (a serialised table) and `left_out` (JSON, number of rows by reason): values
        that fit into one row of a Ray dataset.
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
    """Number of rows in the scan of a piece."""
    return len(scan["keys"]) // KEYS.itemsize


def gather(
    scans: Sequence[Mapping[str, Any]],
    pieces: Sequence[Piece],
    *,
    all_listed: bool,
    limit: int | None = None,
) -> SourceScan:
    """Join the scans of all pieces, in the order of the pieces.

    Args:
        scans: results of `scan_piece`, in any order.
        pieces: of the source, numbered.
        all_listed: True if all files of the source could be listed.
        limit: number of rows to keep, from the first; None keeps all.
    """
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
        broken=unread - cut,
    )


def _before(failed: pa.Table, piece: Piece, found: np.ndarray) -> pa.Table:
    """Failures of a piece that stand before the last of its rows, (n,) KEYS."""
    last = (int(found["where"][-1]) - piece.file_number, int(found["position"][-1]))
    number = {name: number for number, name in enumerate(piece.files)}
    names, positions = failed["source_file"].to_pylist(), failed["position"].to_pylist()
    kept = [(number[n], at) < last for n, at in zip(names, positions, strict=True)]
    return failed.filter(pa.array(kept, pa.bool_()))


def scan_table(
    table: Table | None, recipe: str, *, passages: bool, only_run: str | None = None
) -> TableScan:
    """Read the keys of all rows of a table.

    Args:
        table: at the version to plan for; None is a table without rows.
        recipe: a file is current if this recipe made its rows.
        passages: True if rows are passages, whose documents' ids are compared.
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
    rows = table.read_file(name, [id_column, "content_hash", "row_hash"])
    keys = np.zeros(len(rows), KEYS)
    keys["id"] = id_hashes(rows[id_column])
    keys["position"] = np.arange(len(rows))
    if "content_hash" not in rows.column_names or "row_hash" not in rows.column_names:
        return keys, False  # a foreign tool wrote it
    keys["content"] = from_hex(rows["content_hash"], 2)
    keys["row"] = from_hex(rows["row_hash"], 1)[:, 0]
    fingerprint = Fingerprint.of(table.file_schema(name))
    return keys, fingerprint is not None and fingerprint.recipe == recipe


def others_of(table: pa.Table) -> pa.Table:
    """Columns of a reader's rows that are neither keys nor the text or image."""
    return table.select(range(len(PREPARED_FIELDS), table.num_columns))
