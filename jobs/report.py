"""One page to look at a table: a map to hover over, click and search, and what was found out.

    embatch report tables/articles tables/map tables/near --out report.html
    embatch report tables/photos tables/map tables/classes-on-map tables/predicted --out report.html

TABLEs are recognised by what they hold: the table of vectors, its map and neighbours and predictions,
and maps of other tables that were put onto this one, shown as crosses. The page holds all that it shows
and opens from disk without a network.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro
from sklearn.metrics import accuracy_score, confusion_matrix

from jobs.derived import note_of
from jobs.maps import along, fit_axes
from jobs.options import Flag, run_command, storage_options, table_uri
from jobs.pictures import thumbnail
from jobs.vectors import Vectors, in_order, labels_of, read_vectors
from schemas.embeddings import Fingerprint
from schemas.failures import FailureLog
from schemas.neighbours import NEIGHBOURS, neighbours_of
from schemas.predictions import PREDICTIONS
from schemas.projections import points_of, projection_schema
from schemas.store import StoreError, Table

TEMPLATE = Path(__file__).with_suffix(".html")
SHOWN_CHARACTERS = 100
MOST_THUMBNAILS = 5000
MAX_LABELS = 30  # more colours say nothing
HISTORY = 1000
RUN_COUNTS = ("unchanged", "embedded", "replaced", "updated", "failed", "deleted")


@dataclass(frozen=True)
class ReportConfig:
    """What to show, and where the page goes.

    Attributes:
        tables: table of vectors, and what was made of it
        out: the page
        label_column: colours the map (default: label, where there is one)
        storage_option: KEY=VALUE for the object store, once for each
        json: print one line of JSON, the last on stdout
    """

    tables: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TABLE ...")]
    out: Annotated[str, tyro.conf.arg(metavar="FILE.html")] = "report.html"
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        if not self.tables:
            raise ValueError("Name a table of vectors, and what was made of it.")
        if not self.out.lower().endswith((".html", ".htm")):
            raise ValueError(f"--out {self.out}: expected a file that ends in .html.")
        storage_options(self.storage_option)


@dataclass(frozen=True)
class ReportSummary:
    """What was written."""

    file: str
    rows: int
    size_bytes: int


@dataclass
class _Given:
    """The tables by what they are; None where none was named."""

    vectors: Table | None = None
    map: Table | None = None
    neighbours: Table | None = None
    predictions: Table | None = None
    crosses: tuple[Table, ...] = ()


def run(config: ReportConfig) -> ReportSummary:
    """Write the page.

    Raises:
        StoreError: a table is missing or is nothing that a page shows, or plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise StoreError("A page is drawn by plotly: pip install -e '.[plot]'") from error
    given = _recognised(config)
    table = given.vectors
    assert table is not None  # _recognised saw to it
    fingerprint = Fingerprint.of(table.schema)
    assert fingerprint is not None  # it is how it was recognised
    rows = read_vectors(table, fingerprint.dim)
    if not len(rows.ids):
        raise StoreError(f"{table.uri} holds no rows.")
    points, how = _points(given.map, rows)
    data = {
        "title": os.path.basename(table.uri),
        "subtitle": f"{len(rows.ids):,} rows, {fingerprint.model}, {how}",
        "points": points | _details(table, rows.ids, config.label_column),
        "crosses": [_crosses(one) for one in given.crosses],
        "neighbours": _neighbours(given.neighbours, rows.ids),
        "confusion": _confusion(given.predictions),
        "lengths": _lengths(table),
        "failures": _failures(table),
        "tables": [
            ("Where it comes from", _provenance(table, fingerprint, given)),
            ("Last runs", _runs(table)),
        ],
    }
    # "<" would let a text end the script that it lies in.
    written = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    parts = {"DATA": written, "PLOTLY": get_plotlyjs().replace("</script", "<\\/script")}
    template = TEMPLATE.read_text(encoding="utf-8")
    page = re.sub("@(DATA|PLOTLY)@", lambda match: parts[match[1]], template)
    Path(config.out).write_text(page, encoding="utf-8")
    return ReportSummary(config.out, len(rows.ids), os.path.getsize(config.out))


def _recognised(config: ReportConfig) -> _Given:
    options = storage_options(config.storage_option)
    given, maps = _Given(), []
    for place in config.tables:
        table = Table.open(table_uri(place), options)
        if table is None:
            raise StoreError(f"There is no table at {place}.")
        names = table.schema.names
        if "embedding" in names and Fingerprint.of(table.schema):
            kind = "vectors"
        elif names == NEIGHBOURS.names:
            kind = "neighbours"
        elif names == PREDICTIONS.names:
            kind = "predictions"
        elif names in (projection_schema(2).names, projection_schema(3).names):
            maps.append(table)
            continue
        else:
            raise StoreError(f"{place} is no table that a page shows: it has {', '.join(names)}.")
        if getattr(given, kind) is not None:
            raise StoreError(f"{place} is the second table of {kind}. Name one of each kind.")
        setattr(given, kind, table)
    if given.vectors is None:
        raise StoreError(
            "None of the tables holds vectors. Name the one that the others were made of."
        )
    mine = [one for one in maps if note_of(one).get("table") == given.vectors.uri]
    if len(mine) > 1:
        raise StoreError(f"{mine[1].uri} is the second map of {given.vectors.uri}. Name one.")
    given.map = next(iter(mine), None)
    given.crosses = tuple(one for one in maps if one is not given.map)
    for one in given.crosses:
        onto = note_of(one).get("onto")
        if given.map is None or onto != given.map.uri:
            raise StoreError(
                f"{one.uri} is no map of {given.vectors.uri}, and was not put onto one that is named"
                " here (`embatch project … --onto MAP`)."
            )
    return given


def _points(plan: Table | None, rows: Vectors) -> tuple[dict[str, Any], str]:
    """Where each row lies, and how that came about; a row that is not on the map is not shown."""
    if plan is None:
        if len(rows.ids) < 2:
            points = np.zeros((len(rows.ids), 2), np.float32)
        else:
            points = along(fit_axes(rows.vectors, 2), rows.vectors)
        how = "on two principal components"
    else:
        held = plan.read()
        at = pc.index_in(rows.ids, value_set=held["id"].combine_chunks())
        points = np.full((len(rows.ids), 2), np.nan, np.float32)
        there = at.is_valid().to_numpy(zero_copy_only=False)
        points[there] = points_of(held)[at.drop_null().to_numpy(), :2]
        how = f"mapped by {note_of(plan)['method']}"
    x, y = ([None if np.isnan(v) else round(float(v), 4) for v in axis] for axis in points.T)
    return {"x": x, "y": y}, how


def _details(table: Table, ids: pa.Array, label_column: str) -> dict[str, Any]:
    """What is told of each row: the beginning of its text, its label, its image made small."""
    coded = labels_of(table, label_column, ids).dictionary_encode()
    wanted = [column for column in ("text", "image") if column in table.schema.names]
    rows = in_order(table.read(["id", *wanted]), ids)
    texts: list[Any] = [None] * len(ids)
    if "text" in wanted:
        texts = pc.utf8_slice_codeunits(rows["text"], 0, SHOWN_CHARACTERS).to_pylist()
    labels, codes = [], np.full(len(ids), -1)
    if len(coded.dictionary) <= MAX_LABELS:
        labels = coded.dictionary.to_pylist()
        codes = pc.fill_null(coded.indices, -1).to_numpy()
    details = {"id": ids.to_pylist(), "text": texts, "labels": labels, "label": codes.tolist()}
    if "image" in wanted and len(ids) <= MOST_THUMBNAILS:
        images = pc.struct_field(rows["image"].combine_chunks(), "bytes").to_pylist()
        details["image"] = [image and thumbnail(image) for image in images]
    return details


def _crosses(plan: Table) -> dict[str, Any]:
    rows = plan.read()
    points = points_of(rows)[:, :2].round(4).tolist()
    x, y = zip(*points, strict=True) if points else ((), ())
    name = os.path.basename(note_of(plan)["table"])
    return {"name": name, "id": rows["id"].to_pylist(), "x": x, "y": y}


def _neighbours(table: Table | None, ids: pa.Array) -> dict[str, Any] | None:
    if table is None:
        return None
    rows = table.read()
    k = int(pc.max(rows["rank"]).as_py() or 0)
    indices, similarities = neighbours_of(rows, ids, ids, k)
    known = indices >= 0
    pairs = list(zip(indices, similarities.astype(float).round(4), known, strict=True))
    return {
        "index": [line[there].tolist() for line, _, there in pairs],
        "similarity": [values[there].tolist() for _, values, there in pairs],
    }


def _confusion(table: Table | None) -> dict[str, Any] | None:
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


def _lengths(table: Table) -> dict[str, Any] | None:
    """Histogram of the texts' characters."""
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


def _failures(table: Table) -> list[tuple[str, int]]:
    reasons = pc.value_counts(FailureLog(table.uri, table.options).rows["reason"]).to_pylist()
    return sorted(((one["values"], one["counts"]) for one in reasons), key=lambda one: -one[1])


def _provenance(table: Table, fingerprint: Fingerprint, given: _Given) -> list[tuple[str, Any]]:
    files = table.files()
    told: list[tuple[str, Any]] = [
        ("Table", table.uri),
        ("Version", table.version),
        ("Model", fingerprint.model),
        ("Dimensions", fingerprint.dim),
        ("Space", fingerprint.space[:16]),
        ("Size", f"{sum(file.size_bytes for file in files) / 1e6:,.1f} MB in {len(files)} files"),
    ]
    made = [given.map, given.neighbours, given.predictions, *given.crosses]
    for one in filter(None, made):
        note = note_of(one)
        figures = [
            f"{name.replace('_', ' ')} {note[name]}"
            for name in ("method", "k", "recall", "trustworthiness", "kept_neighbours")
            if name in note
        ]
        about = ", ".join([note.get("time", "")[:19].replace("T", " "), *figures])
        told.append((f"{note.get('command', 'table').capitalize()}: {one.uri}", about))
    return told


def _runs(table: Table) -> list[tuple[str, str]]:
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


def _text(_: ReportConfig, summary: ReportSummary) -> str:
    size = f"{summary.size_bytes / 1e6:,.1f} MB"
    return f"{summary.file}: {summary.rows:,} rows, {size}. Open it in a browser."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(ReportConfig, "report", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
