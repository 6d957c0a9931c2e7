"""Write one HTML page about a table: a map to hover over, click and search, neighbours and figures.

    embatch report tables/articles tables/map tables/near --out report.html
    embatch report tables/photos tables/map tables/classes-on-map tables/predicted --out report.html

TABLEs are recognised by their columns: the table of vectors, its map, its neighbours, its predictions, and
maps of other tables that were put onto its map, which are shown as crosses. The page is one file and opens
without a network.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.analysis import report_page
from jobs.analysis.vectors import open_vectors, read_vectors
from jobs.runtime.command import Flag, run_command, storage_options, table_uri
from schemas.delta.derived import note_of
from schemas.delta.formats import is_of_kind
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from schemas.tables.embeddings import Fingerprint
from schemas.tables.neighbours import NEIGHBOURS
from schemas.tables.predictions import PREDICTIONS
from schemas.tables.projections import kind_of

TEMPLATE = Path(report_page.__file__).with_suffix(".html")


@dataclass(frozen=True)
class ReportConfig:
    """The tables to show, and the file of the page.

    Attributes:
        tables: table of vectors, and tables that were made of it
        out: file of the page
        label_column: column that colours the map (default: label, if there is one)
        before: table of the same rows by the model before it was fine-tuned, to compare with
        images: folder of the images that were embedded, for thumbnails (not needed after --keep-images)
        storage_option: KEY=VALUE for the object store, once for each
        json: print one line of JSON, the last on stdout
    """

    tables: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TABLE ...")]
    out: Annotated[str, tyro.conf.arg(metavar="FILE.html")] = "report.html"
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    before: Annotated[str, tyro.conf.arg(metavar="TABLE", help_behavior_hint="")] = ""
    images: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = ""
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        if not self.tables:
            raise UsageError("Name a table of vectors, and what was made of it.")
        if not self.out.lower().endswith((".html", ".htm")):
            raise UsageError(f"--out {self.out}: expected a file that ends in .html.")
        if "://" in self.out:
            raise UsageError(
                f"--out {self.out}: expected a file of this machine. Copy it on from here."
            )
        if self.images and not os.path.isdir(self.images):
            raise UsageError(f"--images {self.images}: there is no such folder.")
        storage_options(self.storage_option)


@dataclass(frozen=True)
class ReportSummary:
    """File, number of rows and size of the page."""

    file: str
    rows: int
    size_bytes: int


@dataclass
class _Tables:
    """The given tables by their kind; None for a kind that was not given."""

    vectors: Table | None = None
    map: Table | None = None
    neighbours: Table | None = None
    predictions: Table | None = None
    crosses: tuple[Table, ...] = ()

    def made(self) -> list[Table]:
        """Tables that were made of the table of vectors."""
        made = [self.map, self.neighbours, self.predictions, *self.crosses]
        return [table for table in made if table is not None]


def run(config: ReportConfig) -> ReportSummary:
    """Write the page.

    Raises:
        StoreError: a table is missing or of a kind that a page does not show, or plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise StoreError("A page is drawn by plotly: pip install -e '.[plot]'") from error
    given = _tables_by_kind(config)
    table = given.vectors
    assert table is not None  # else _tables_by_kind raises
    fingerprint = Fingerprint.of(table.schema)
    assert fingerprint is not None  # it is how it was recognised
    rows = read_vectors(table, fingerprint.dim)
    if not len(rows.ids):
        raise StoreError(f"{table.uri} holds no rows.")
    points, how = report_page.points(given.map, rows)
    data = {
        "title": os.path.basename(table.uri),
        "subtitle": f"{len(rows.ids):,} rows, {fingerprint.model}, {how}",
        "points": points | report_page.details(table, rows.ids, config.label_column, config.images),
        "crosses": [report_page.crosses(cross) for cross in given.crosses],
        "neighbours": report_page.neighbours(given.neighbours, rows.ids),
        "before": report_page.before(_before(config), rows, table, config.label_column),
        "confusion": report_page.confusion(given.predictions),
        "lengths": report_page.lengths(table),
        "failures": report_page.failures(table),
        "tables": [
            ("Where it comes from", report_page.provenance(table, fingerprint, given.made())),
            ("Last runs", report_page.runs(table)),
        ],
    }
    # "<" would let a text end the script that it lies in.
    written = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    parts = {"DATA": written, "PLOTLY": get_plotlyjs().replace("</script", "<\\/script")}
    template = TEMPLATE.read_text(encoding="utf-8")
    written = re.sub("@(DATA|PLOTLY)@", lambda match: parts[match[1]], template)
    Path(config.out).write_text(written, encoding="utf-8")
    return ReportSummary(config.out, len(rows.ids), os.path.getsize(config.out))


def _before(config: ReportConfig) -> Table | None:
    if not config.before:
        return None
    return open_vectors(config.before, storage_options(config.storage_option))[0]


def _tables_by_kind(config: ReportConfig) -> _Tables:
    """Open the given tables, and recognise the kind of each by its columns.

    Raises:
        StoreError: a table is missing, of no kind that a page shows, or the second of its kind.
    """
    options = storage_options(config.storage_option)
    given, maps = _Tables(), []
    for place in config.tables:
        table = Table.open(table_uri(place), options)
        if table is None:
            raise StoreError(f"There is no table at {place}.")
        schema = table.schema
        if Fingerprint.of(schema):
            kind = "vectors"
        elif is_of_kind(schema, NEIGHBOURS):
            kind = "neighbours"
        elif is_of_kind(schema, PREDICTIONS):
            kind = "predictions"
        elif is_of_kind(schema, kind_of(schema)):
            maps.append(table)
            continue
        else:
            names = ", ".join(schema.names)
            raise StoreError(f"{place} is no table that a page shows: it has {names}.")
        if getattr(given, kind) is not None:
            raise StoreError(f"{place} is the second table of {kind}. Name one of each kind.")
        setattr(given, kind, table)
    if given.vectors is None:
        raise StoreError(
            "None of the tables holds vectors. Name the one that the others were made of."
        )
    mine = [table for table in maps if note_of(table).get("table") == given.vectors.uri]
    if len(mine) > 1:
        raise StoreError(f"{mine[1].uri} is the second map of {given.vectors.uri}. Name one.")
    given.map = next(iter(mine), None)
    given.crosses = tuple(table for table in maps if table is not given.map)
    for cross in given.crosses:
        onto = note_of(cross).get("onto")
        if given.map is None or onto != given.map.uri:
            raise StoreError(
                f"{cross.uri} is no map of {given.vectors.uri}, and was not put onto one that is named"
                " here (`embatch project … --onto MAP`)."
            )
    return given


def _text(_: ReportConfig, summary: ReportSummary) -> str:
    size = f"{summary.size_bytes / 1e6:,.1f} MB"
    return f"{summary.file}: {summary.rows:,} rows, {size}. Open it in a browser."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(ReportConfig, "report", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
