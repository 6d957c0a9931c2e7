"""Both sides of a plan, read: the source's pieces and the table's files, as KEYS.

Small sources are read here, in the driver; large ones by Ray Data's tasks, which call the same
`scan_piece`. The pieces are read once more for the rows that are due (`read_due`).
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.exchange import DUE_FIELDS, ITEM_FIELDS, PIXELS
from actors.pixels import Preprocess, decode
from schemas.cells import cast_column
from schemas.columns import common_schema
from schemas.embeddings import IMAGE_TYPE, Fingerprint
from schemas.failures import CHANGED
from schemas.fragments import Fragment, is_made_by
from schemas.keys import KEYS, from_binary, from_hex, id_hashes
from schemas.plan import COPY, DUE, EMBED, REFUSE
from schemas.store import Table
from sources.rows import FAILURE_SCHEMA, PREPARED_FIELDS, Piece, Source, with_types

SCAN_THREADS = 8
PIXEL_BYTES = 8 << 20  # of images that are decoded at a time
CONFLICT_REASON = "another row of the source has this id and other content"
CHANGED_REASON = "the source changed while the run went on; the next run takes it"


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
    """

    keys: np.ndarray
    schemas: list[pa.Schema]
    failures: pa.Table
    left_out: Counter[str]
    complete: bool
    files: set[str]

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
        schemas.append(_others(table).schema)
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
    return SourceScan(
        keys=np.concatenate([np.zeros(0, KEYS), *keys]),
        schemas=[pa.ipc.read_schema(pa.py_buffer(scan["columns"])) for scan in ordered],
        failures=rows,
        left_out=left_out,
        complete=complete,
        files=set(read) - unread - cut,
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


@dataclass(frozen=True)
class Images:
    """How images become what a worker takes.

    Attributes:
        preprocess: of the model.
        threads: that decode at once.
        keep: leave the files' bytes in the table.
    """

    preprocess: Preprocess
    threads: int = 1
    keep: bool = False


def read_due(
    source: Source,
    piece: Piece,
    due: np.ndarray,
    files: Sequence[str],
    columns: Mapping[str, pa.Field],
    images: Images | None = None,
) -> Iterator[pa.Table]:
    """Read a piece once more and yield its due rows, ready for a worker.

    Args:
        source: where the piece is read.
        piece: one of the source's pieces.
        due: (k,) DUE rows of this piece, sorted by file and position.
        files: names of the table's files, which `due["from_file"]` points into.
        columns: the source's other columns with the table's fields for them.
        images: None where the source holds texts.

    Yields:
        `actors.exchange.DUE_FIELDS`, `ITEM_FIELDS` and the table's columns. Each due row comes
        exactly once; one that is not there any more, or holds something else by now, or an image
        that cannot be decoded, comes with its reason.
    """
    n_found = np.zeros(len(due), bool)
    items = ITEM_FIELDS["text" if images is None else "image"]
    fields = [*DUE_FIELDS, *items, *columns.values()]
    why_lost = CHANGED_REASON
    wanted_at = _addresses(due["file"] - piece.file_number, due["position"])
    typed = with_types(source, {name: field.type for name, field in columns.items()})
    for table, failed, _ in typed.read(piece):
        for failure in failed.filter(pc.field("stage") == "file").to_pylist():
            why_lost = f"{failure['source_file']} could not be read again: {failure['reason']}"
        found_at = _addresses(table["piece_file"].to_numpy(), table["position"].to_numpy())
        at = np.searchsorted(wanted_at, found_at)
        inside = np.flatnonzero(at < len(due))
        inside = inside[wanted_at[at[inside]] == found_at[inside]]
        if not len(inside):
            continue
        n_found[at[inside]] = True
        step = len(inside)
        if images is not None:
            step = max(1, PIXEL_BYTES // math.prod(images.preprocess.shape))
        for start in range(0, len(inside), step):
            part = inside[start : start + step]
            mine, rows = due[at[part]], table.take(pa.array(part))
            changed = id_hashes(rows["id"])[:, 0] != mine["id"]
            changed |= (from_binary(rows["content_hash"]) != mine["content"]).any(axis=1)
            changed |= rows["row_hash"].to_numpy() != mine["row"]
            refused = mine["action"] == REFUSE
            reasons = np.where(changed, CHANGED_REASON, np.where(refused, CONFLICT_REASON, ""))
            stages = np.where(changed, CHANGED, np.where(refused, "id", ""))
            if images is not None:
                wanted = (mine["action"] == EMBED) & (reasons == "")
                known, unreadable = _images(rows["image"], wanted, images)
                reasons, stages = reasons.astype(object), stages.astype(object)
                for row, why in unreadable.items():
                    reasons[row], stages[row] = why, "decode"
            else:
                known = {"text": rows["text"]}
            names = [name for name in _others(rows).column_names if name in columns]
            others = {columns[name].name: rows[name] for name in names}
            ours = {n: pc.if_else(pa.array(changed), None, rows[n]) for n in ("id", "content_hash")}
            known |= others | ours
            yield _due_table(mine, files, piece, fields, known, reasons, stages)
    lost = due[~n_found]
    if len(lost):
        reasons, stages = np.full(len(lost), why_lost), np.full(len(lost), CHANGED)
        yield _due_table(lost, files, piece, fields, {}, reasons, stages)


def _images(
    column: pa.ChunkedArray, wanted: np.ndarray, images: Images
) -> tuple[dict[str, Any], dict[int, str]]:
    """Columns `image` and PIXELS of rows, and why the pixels of some that are wanted are lacking.

    Args:
        column: n images with their bytes, `sources.rows.IMAGE`.
        wanted: (n,) bool, of which the model will be asked.
        images: what to do to them.
    """
    data, paths = column.combine_chunks().flatten()
    files = [file if want else None for file, want in zip(data.to_pylist(), wanted, strict=True)]
    pixels, reasons = decode(files, images.preprocess, threads=images.threads)
    decoded = wanted.copy()
    decoded[list(reasons)] = False
    ends = np.arange(len(pixels) + 1, dtype=np.int64) * math.prod(images.preprocess.shape)
    is_there = pa.array(decoded).buffers()[1]  # the bits of booleans are a validity bitmap
    buffers = [is_there, pa.py_buffer(ends), pa.py_buffer(pixels)]
    held = pa.Array.from_buffers(pa.large_binary(), len(pixels), buffers)
    kept = data.cast(pa.binary()) if images.keep else pa.nulls(len(data), pa.binary())
    image = pa.StructArray.from_arrays([kept, paths], fields=list(IMAGE_TYPE))
    return {"image": image, PIXELS: held}, reasons


def _due_table(
    due: np.ndarray,
    files: Sequence[str],
    piece: Piece,
    fields: Sequence[pa.Field],
    values: Mapping[str, pa.ChunkedArray],
    reasons: np.ndarray,
    stages: np.ndarray,
) -> pa.Table:
    n = len(due)
    copies = due["action"] == COPY
    from_files = [
        files[index] if copy else None for index, copy in zip(due["from_file"], copies, strict=True)
    ]
    source_files = pa.array(piece.files, pa.string()).take(
        pa.array(due["file"] - piece.file_number)
    )
    known: dict[str, Any] = {
        "row_hash": pa.array(due["row"]),
        "due:at": pa.array(due["at"]),
        "due:source_file": source_files,
        "due:position": pa.array(due["position"].astype(np.int64)),
        "due:action": pa.array(due["action"]),
        "due:group": pa.array(due["group"]),
        "due:id": pa.array(due["id"]),
        "due:from_file": pa.array(from_files, pa.string()),
        "due:from_position": pa.array(due["from_position"]),
        "due:from_count": pa.array(due["from_count"]),
        "due:stage": pa.array([stage or None for stage in stages.tolist()], pa.string()),
        "due:reason": pa.array([reason or None for reason in reasons.tolist()], pa.string()),
        **values,
    }
    arrays = [
        cast_column(known[field.name], field.type)
        if field.name in known
        else pa.nulls(n, field.type)
        for field in fields
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def due_by_piece(due: np.ndarray, pieces: Sequence[Piece]) -> list[tuple[int, np.ndarray]]:
    """Cut due rows, (k,) DUE in the order of work, where the group or the piece changes.

    Returns:
        The index of the piece with its due rows, one for each stretch.
    """
    if len(due) == 0:
        return []
    starts = np.array([(piece.file_number, piece.first_row) for piece in pieces], np.uint64)
    addresses = _addresses(due["file"], due["position"])
    piece_of = np.searchsorted(_addresses(*starts.T), addresses, side="right") - 1
    edge = (due["group"][1:] != due["group"][:-1]) | (piece_of[1:] != piece_of[:-1])
    cuts = np.flatnonzero(edge) + 1
    firsts = piece_of[np.concatenate([[0], cuts])]
    return list(zip(firsts.tolist(), np.split(due, cuts), strict=True))


def _addresses(files: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number for a file's number and a position in it, in their order; (n,) uint64."""
    return (files.astype(np.uint64) << np.uint64(32)) | positions.astype(np.uint64)


def due_from_bytes(data: bytes) -> np.ndarray:
    """The inverse of `due.tobytes()`: (k,) DUE."""
    return np.frombuffer(data, DUE)


def _others(table: pa.Table) -> pa.Table:
    return table.select(range(len(PREPARED_FIELDS), table.num_columns))
