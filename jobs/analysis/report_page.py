"""The parts of the page of `embatch report`, each as values that JSON can hold."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import accuracy_score, confusion_matrix

from jobs.analysis.metrics import separation
from jobs.analysis.plots import thumbnail
from jobs.analysis.projections import fit_axes, points_on_axes
from jobs.analysis.vectors import Vectors, labels_of, read_vectors, rows_of_ids
from schemas.delta.derived import note_of
from schemas.delta.formats import upgrade_rows
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint
from schemas.tables.failures import FailureLog
from schemas.tables.neighbours import NEIGHBOURS, neighbours_of
from schemas.tables.projections import kind_of, points_of

SHOWN_CHARACTERS = 100
MOST_THUMBNAILS = 5000
MAX_LABELS = 30  # more colours say nothing
HISTORY = 1000
RUN_COUNTS = ("unchanged", "embedded", "replaced", "updated", "failed", "deleted")


def points(plan: Table | None, rows: Vectors) -> tuple[dict[str, Any], str]:
    """Coordinates of each row, None for a row that is not on the map, and a phrase about their origin."""
    if plan is None:
        if len(rows.ids) < 2:
            points = np.zeros((len(rows.ids), 2), np.float32)
        else:
            points = points_on_axes(fit_axes(rows.vectors, 2), rows.vectors)
        how = "on two principal components"
    else:
        map_rows = upgrade_rows(plan.read(), kind_of(plan.schema))
        at = pc.index_in(rows.ids, value_set=map_rows["id"].combine_chunks())
        mapped = points_of(map_rows)
        points = np.full((len(rows.ids), mapped.shape[1]), np.nan, np.float32)
        known = at.is_valid().to_numpy(zero_copy_only=False)
        points[known] = mapped[at.drop_null().to_numpy()]
        how = f"mapped by {note_of(plan)['method']}"
    return _axes(points), how


def _axes(points: np.ndarray) -> dict[str, list[float | None]]:
    """Lists of x, y and perhaps z of (n, 2) or (n, 3) float points; None in place of NaN."""
    columns = [[None if np.isnan(v) else round(float(v), 4) for v in axis] for axis in points.T]
    return dict(zip("xyz", columns, strict=False))


def details(table: Table, ids: pa.Array, label_column: str, folder: str) -> dict[str, Any]:
    """Columns about each row: its id, the beginning of its text, its label, the thumbnail of its image."""
    coded = labels_of(table, label_column, ids).dictionary_encode()
    wanted = [column for column in ("text", "image") if column in table.schema.names]
    rows = rows_of_ids(table.read(["id", *wanted]), ids)
    texts: list[Any] = [None] * len(ids)
    if "text" in wanted:
        texts = pc.utf8_slice_codeunits(rows["text"], 0, SHOWN_CHARACTERS).to_pylist()
    labels, codes = [], np.full(len(ids), -1)
    if len(coded.dictionary) <= MAX_LABELS:
        labels = coded.dictionary.to_pylist()
        codes = pc.fill_null(coded.indices, -1).to_numpy()
    details = {"id": ids.to_pylist(), "text": texts, "labels": labels, "label": codes.tolist()}
    if "image" in wanted and len(ids) <= MOST_THUMBNAILS:
        details["image"] = [_thumbnail(image, folder) for image in rows["image"].to_pylist()]
    return details


def _thumbnail(image: Mapping[str, Any], folder: str) -> str | None:
    """Thumbnail of an image from the table's bytes, else from its file if that lies inside the folder."""
    data: bytes | None = image["bytes"]
    if data is None and folder and image["path"]:
        root = Path(folder).resolve()
        file = Path(root, image["path"]).resolve()
        if file.is_relative_to(root) and file.is_file():
            data = file.read_bytes()
    return thumbnail(data) if data else None


def crosses(plan: Table) -> dict[str, Any]:
    """Name, ids and coordinates of another table's rows on this map; the page shows them as crosses."""
    rows = upgrade_rows(plan.read(), kind_of(plan.schema))
    name = os.path.basename(note_of(plan)["table"])
    return {"name": name, "id": rows["id"].to_pylist(), **_axes(points_of(rows))}


def neighbours(table: Table | None, ids: pa.Array) -> dict[str, Any] | None:
    """Indices and similarities of each row's neighbours, best first; None without a table of neighbours."""
    if table is None:
        return None
    rows = upgrade_rows(table.read(), NEIGHBOURS)
    k = int(pc.max(rows["rank"]).as_py() or 0)
    indices, similarities = neighbours_of(rows, ids, ids, k)
    known = indices >= 0
    pairs = list(zip(indices, similarities.astype(float).round(4), known, strict=True))
    return {
        "index": [line[there].tolist() for line, _, there in pairs],
        "similarity": [values[there].tolist() for _, values, there in pairs],
    }


def before(
    past: Table | None, rows: Vectors, table: Table, label_column: str
) -> dict[str, Any] | None:
    """The same rows by another model: coordinates on its two principal components, and separation of labels.

    Raises:
        StoreError: fewer than three of the rows are in both tables.
    """
    if past is None:
        return None
    fingerprint = Fingerprint.of(past.schema)
    assert fingerprint is not None  # whoever opened it checked
    other = read_vectors(past, fingerprint.dim)
    at = pc.index_in(rows.ids, value_set=other.ids)
    shared = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    if len(shared) < 3:
        raise StoreError(
            f"{past.uri} and {table.uri} share {len(shared)} ids, expected three or more."
        )
    theirs = other.vectors[at.drop_null().to_numpy()]
    points = np.full((len(rows.ids), 2), np.nan, np.float32)
    points[shared] = points_on_axes(fit_axes(theirs, 2), theirs)
    labels = np.array(labels_of(table, label_column, rows.ids).to_pylist(), object)[shared]
    known = np.array([label is not None for label in labels], bool)
    separations = []
    if known.sum() > 1:
        separations = [
            (fingerprint.model, separation(theirs[known], labels[known].astype(str))),
            ("now", separation(rows.vectors[shared][known], labels[known].astype(str))),
        ]
    return {"model": fingerprint.model, "separation": separations, **_axes(points)}


def confusion(table: Table | None) -> dict[str, Any] | None:
    """Confusion matrix and accuracy of predictions; None if no row has a label."""
    if table is None:
        return None
    rows = table.read(["label", "predicted"])
    rows = rows.filter(rows["label"].is_valid())
    if not len(rows):
        return None
    label, predicted = (rows[name].to_pylist() for name in rows.column_names)
    classes = sorted({*label, *predicted})
    counts = confusion_matrix(label, predicted, labels=classes).tolist()
    return {"classes": classes, "counts": counts, "accuracy": accuracy_score(label, predicted)}


def lengths(table: Table) -> dict[str, Any] | None:
    """Histogram of the texts' lengths in characters; None if the table holds no texts."""
    if "text" not in table.schema.names:
        return None
    lengths = pc.utf8_length(table.read(["text"])["text"]).drop_null().to_numpy()
    if not len(lengths):
        return None
    counts, edges = np.histogram(lengths, bins=40)
    middle = (edges[1:] + edges[:-1]) / 2
    return {
        "middle": middle.tolist(),
        "count": counts.tolist(),
        "width": float(edges[1] - edges[0]),
    }


def failures(table: Table) -> list[tuple[str, int]]:
    """Reasons of failures with the number of rows that failed for each, the most frequent first."""
    reasons = pc.value_counts(FailureLog(table.uri, table.options).rows["reason"]).to_pylist()
    return sorted(((row["values"], row["counts"]) for row in reasons), key=lambda row: -row[1])


def provenance(
    table: Table, fingerprint: Fingerprint, made: Sequence[Table]
) -> list[tuple[str, Any]]:
    """Facts about the table, and settings of the tables that were made of it, as pairs of title and text."""
    files = table.files()
    facts: list[tuple[str, Any]] = [
        ("Table", table.uri),
        ("Version", table.version),
        ("Model", fingerprint.model),
        ("Dimensions", fingerprint.dim),
        ("Space", fingerprint.space[:16]),
        *[("Source", source) for source in [_source(table)] if source],
        ("Size", f"{sum(file.size_bytes for file in files) / 1e6:,.1f} MB in {len(files)} files"),
    ]
    for derived in made:
        note = note_of(derived)
        figures = [
            f"{name.replace('_', ' ')} {note[name]}"
            for name in ("method", "k", "recall", "trustworthiness", "kept_neighbours")
            if name in note
        ]
        about = ", ".join([note.get("time", "")[:19].replace("T", " "), *figures])
        facts.append((f"{note.get('command', 'table').capitalize()}: {derived.uri}", about))
    return facts


def _source(table: Table) -> str | None:
    """SOURCE of the last run that wrote the table; None if its history names none."""
    notes = (commit.get("note", {}) for commit in table.history(HISTORY))
    return next((note["source"] for note in notes if "source" in note), None)


def runs(table: Table) -> list[tuple[str, str]]:
    """Time and counts of the table's last five runs of `embed`, newest first."""
    notes = [commit.get("note", {}) for commit in table.history(HISTORY)]
    return [
        (
            note["time"][:19].replace("T", " "),
            ", ".join(f"{name} {note[name]:,}" for name in RUN_COUNTS if note.get(name))
            or "nothing to do",
        )
        for note in notes
        if note.get("state") == "done" and note.get("command") == "embed"
    ][:5]
