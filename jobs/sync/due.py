"""Read the due rows once more from the source's pieces, as tables that a worker takes.

The source may have changed since the plan was made, so each row is compared with the plan.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.images.pixels import Preprocess, decode
from actors.worker.exchange import DUE_FIELDS, ITEM_FIELDS, PIXELS
from jobs.sync.scan import others_of
from schemas.cells import cast_column
from schemas.keys import from_binary, id_hashes
from schemas.plan import COPY, DUE, EMBED, REFUSE
from schemas.tables.embeddings import IMAGE_TYPE
from schemas.tables.failures import CHANGED
from sources.rows import Piece, Source, with_types

PIXEL_BYTES = 8 << 20  # of images that are decoded at a time
CONFLICT_REASON = "another row of the source has this id and other content"
CHANGED_REASON = "the source changed while the run went on; the next run takes it"


@dataclass(frozen=True)
class Images:
    """Settings for decoding images into a worker's pixels.

    Attributes:
        preprocess: of the model.
        threads: number of threads that decode.
        keep: True if the table keeps the bytes of the image files.
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
        Tables with `actors.worker.exchange.DUE_FIELDS`, `ITEM_FIELDS` and the table's columns. Each due
        row comes exactly once. A row that is gone, has changed, or is an image that cannot be decoded
        comes with the reason.
    """
    is_found = np.zeros(len(due), bool)
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
        is_found[at[inside]] = True
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
            names = [name for name in others_of(rows).column_names if name in columns]
            others = {columns[name].name: rows[name] for name in names}
            ours = {n: pc.if_else(pa.array(changed), None, rows[n]) for n in ("id", "content_hash")}
            known |= others | ours
            yield _due_table(mine, files, piece, fields, known, reasons, stages)
    lost = due[~is_found]
    if len(lost):
        reasons, stages = np.full(len(lost), why_lost), np.full(len(lost), CHANGED)
        yield _due_table(lost, files, piece, fields, {}, reasons, stages)


def _images(
    column: pa.ChunkedArray, wanted: np.ndarray, images: Images
) -> tuple[dict[str, Any], dict[int, str]]:
    """Decode images.

    Args:
        column: n images with their bytes, `sources.rows.IMAGE`.
        wanted: (n,) bool, images that the model will embed.
        images: settings of the decoding.

    Returns:
        Columns `image` and PIXELS of all n rows, and the reason for each wanted row that could not be
        decoded, by its index.
    """
    data, paths = column.combine_chunks().flatten()
    files = [file if want else None for file, want in zip(data.to_pylist(), wanted, strict=True)]
    pixels, reasons = decode(files, images.preprocess, threads=images.threads)
    decoded = wanted.copy()
    decoded[list(reasons)] = False
    ends = np.arange(len(pixels) + 1, dtype=np.int64) * math.prod(images.preprocess.shape)
    is_there = pa.array(decoded).buffers()[1]  # the bits of booleans are a validity bitmap
    buffers = [is_there, pa.py_buffer(ends), pa.py_buffer(pixels)]
    pixels_column = pa.Array.from_buffers(pa.large_binary(), len(pixels), buffers)
    file_bytes = data.cast(pa.binary()) if images.keep else pa.nulls(len(data), pa.binary())
    image = pa.StructArray.from_arrays([file_bytes, paths], fields=list(IMAGE_TYPE))
    return {"image": image, PIXELS: pixels_column}, reasons


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
        For each stretch of rows, the index of its piece and its rows, (r,) DUE.
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
    """Addresses of rows, (n,) uint64: the file's number in the upper 32 bits, the position in the lower."""
    return (files.astype(np.uint64) << np.uint64(32)) | positions.astype(np.uint64)


def due_from_bytes(data: bytes) -> np.ndarray:
    """Due rows, (k,) DUE, from the bytes that `due.tobytes()` gave."""
    return np.frombuffer(data, DUE)
