"""Make a map of a table: each row is a point in two or three dimensions, near to rows that are like it.

    embatch project tables/articles tables/map --picture map.png
    embatch project tables/articles tables/map3 --method pca --dim 3
    embatch project tables/classes tables/classes-on-map --onto tables/map

Run it again after TABLE changed: rows that are on the map stay exactly where they are, new rows are placed
among their neighbours, and deleted rows are taken off. `--onto` puts the rows of another table of the same
space on the map. The same seed gives the same map.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from jobs.analysis.plots import check_picture, draw_map
from jobs.analysis.projections import (
    Axes,
    fit_axes,
    fit_tsne,
    fit_umap,
    judge,
    place,
    points_on_axes,
)
from jobs.analysis.vectors import (
    Vectors,
    changes,
    labels_of,
    open_vectors,
    read_vectors,
    refuse_two_spaces,
)
from jobs.runtime.command import Flag, run_command, storage_options, table_uri
from jobs.runtime.progress import Progress
from schemas.delta.derived import note_of, open_derived, write_derived
from schemas.delta.formats import upgrade_rows
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from schemas.tables.embeddings import Fingerprint
from schemas.tables.projections import kind_of, points_of, projection_rows, projection_schema

PLACED_ROWS = 16_384  # at a time
Positional = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class ProjectConfig:
    """The table to map, the method, and the table of points.

    Attributes:
        table: table of vectors
        out: table of points; an old one is brought up to date
        method: method that makes the map; pca is the fastest, umap shows groups best
        dim: dimensions of the map, 2 or 3
        onto: a map of another table, on which these rows are placed
        sample: fit the map to at most so many rows, and place the others among them
        seed: of the method; the same seed gives the same map
        refit: make a new map, on which all points lie elsewhere
        picture: file for a picture of the map: .png, .svg or .pdf
        label_column: column that colours the picture (default: label, if there is one)
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    table: Annotated[Positional, tyro.conf.arg(metavar="TABLE")]
    out: Annotated[Positional, tyro.conf.arg(metavar="OUT")]
    method: Literal["umap", "tsne", "pca"] = "umap"
    dim: int = 2
    onto: Annotated[str, tyro.conf.arg(metavar="MAP", help_behavior_hint="")] = ""
    sample: int = 100_000
    seed: int = 0
    refit: Flag = False
    picture: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    label_column: Annotated[str, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")] = ""
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        if self.dim not in (2, 3):
            raise UsageError(f"--dim is {self.dim}, expected 2 or 3.")
        if self.sample < 2:
            raise UsageError(f"--sample is {self.sample}, expected 2 or more.")
        check_picture(self.picture)
        storage_options(self.storage_option)


@dataclass(frozen=True)
class ProjectSummary:
    """Counts and quality of a map.

    Attributes:
        n: number of rows on the map.
        n_fitted: number of rows that the map was fitted to in this run.
        n_placed: number of rows that were placed on the map in this run; the others stayed where they were.
        trustworthiness: 1 if all neighbours on the map are also neighbours by vectors, on a sample; null
            if there are too few rows.
        kept_neighbours: share of the nearest rows that are also nearest on the map, on the same sample.
        method: of the map.
        inputs: versions of the tables that were read, by table.
        table_version: version of the map.
    """

    n: int
    n_fitted: int
    n_placed: int
    trustworthiness: float | None
    kept_neighbours: float | None
    method: str
    inputs: dict[str, int]
    table_version: int


@dataclass(frozen=True)
class _Map:
    """Points of a table's rows.

    Attributes:
        points: (n, dim) float32.
        n_fitted: number of rows that the map was fitted to in this run.
        n_placed: number of rows that were placed on the map in this run.
        axes: principal components of a map that `pca` made, else None.
    """

    points: np.ndarray
    n_fitted: int = 0
    n_placed: int = 0
    axes: Axes | None = None


def run(config: ProjectConfig) -> ProjectSummary:
    """Make a map, or bring an old one up to date.

    Raises:
        StoreError: a table is missing, empty, of another space, or of another kind.
    """
    options = storage_options(config.storage_option)
    table, fingerprint = open_vectors(config.table, options)
    rows = read_vectors(table, fingerprint.dim)
    if not len(rows.ids):
        raise StoreError(f"{config.table} holds no rows.")
    labels = labels_of(table, config.label_column, rows.ids)
    settings: dict[str, Any] = {"method": config.method, "dim": config.dim, "seed": config.seed}
    settings |= {"table": table.uri, "space": fingerprint.space}
    inputs = {table.uri: table.version}
    base: Table | None = None
    if config.onto:
        base = _open_map(table_uri(config.onto), options)
        base_note = note_of(base)
        settings |= {name: base_note[name] for name in ("method", "dim", "seed")}
        settings["onto"] = base.uri
        inputs[base.uri] = base.version
    uri, schema = table_uri(config.out), projection_schema(settings["dim"])
    out = open_derived(uri, schema, options)
    if base is not None:
        new_map = _place_onto(base, rows, fingerprint, config, options)
    else:
        extended = None
        if out is not None and not config.refit:
            extended = _extend(out, settings, table, rows, quiet=config.json)
        new_map = _fit(rows, config) if extended is None else extended
    quality = judge(rows.vectors, new_map.points, config.seed)
    note: dict[str, Any] = {"command": "project", **settings, "inputs": inputs}
    note |= {"version": table.version, "axes": _axes_to_json(new_map.axes)}
    if quality:
        note |= {"trustworthiness": quality.trustworthiness, "kept_neighbours": quality.kept}
    points = [projection_rows(rows.ids, new_map.points)]
    out = write_derived(out, uri, schema, points, note, options)
    if config.picture:
        title = f"{fingerprint.model}, {settings['method']}, {len(rows.ids):,} rows"
        draw_map(new_map.points, labels.to_pylist(), config.picture, title)
    return ProjectSummary(
        n=len(rows.ids),
        n_fitted=new_map.n_fitted,
        n_placed=new_map.n_placed,
        trustworthiness=quality and quality.trustworthiness,
        kept_neighbours=quality and quality.kept,
        method=settings["method"],
        inputs=inputs,
        table_version=out.version,
    )


def _fit(rows: Vectors, config: ProjectConfig) -> _Map:
    """Make a new map of all rows: fit it to a sample, and place the other rows on it."""
    n, dim = rows.vectors.shape[0], config.dim
    least = dim if config.method == "pca" else dim + 2
    if n < least:
        raise StoreError(f"{config.table} has {n} rows, too few: expected {least} or more.")
    if config.method == "pca":
        axes = fit_axes(rows.vectors, dim)
        return _Map(points_on_axes(axes, rows.vectors), n_fitted=n, axes=axes)
    chance = np.random.default_rng(config.seed)
    chosen = np.arange(n)
    if n > config.sample:
        chosen = np.sort(chance.choice(n, config.sample, replace=False))
    sample = rows.vectors[chosen]
    points = np.empty((n, dim), np.float32)
    if config.method == "umap":
        show = sys.stderr.isatty() and not config.json
        points[chosen] = fit_umap(sample, dim, config.seed, show=show)
    else:
        points[chosen] = fit_tsne(sample, dim, config.seed)
    rest = np.setdiff1d(np.arange(n), chosen, assume_unique=True)
    points[rest] = _place(rows.vectors, rest, sample, points[chosen], quiet=config.json)
    return _Map(points, n_fitted=len(chosen), n_placed=len(rest))


def _place(
    vectors: np.ndarray, new: np.ndarray, on_map: np.ndarray, points: np.ndarray, *, quiet: bool
) -> np.ndarray:
    """Place new rows among those on the map, PLACED_ROWS at a time.

    Args:
        vectors: (n, d) float32.
        new: (m,) int64, indices of the rows to place.
        on_map: (k, d) float32, vectors of the rows on the map.
        points: (k, dim) float32, points of the rows on the map.
        quiet: True if no progress is shown.

    Returns:
        Points of the new rows, (m, dim) float32.
    """
    placed = np.zeros((len(new), points.shape[1]), np.float32)
    with Progress("place", len(new), "rows", quiet=quiet or not len(new)) as progress:
        for start in range(0, len(new), PLACED_ROWS):
            part = slice(start, start + PLACED_ROWS)
            placed[part] = place(vectors[new[part]], on_map, points)
            progress.add(len(new[part]))
    return placed


def _extend(
    out: Table, settings: Mapping[str, Any], table: Table, rows: Vectors, *, quiet: bool
) -> _Map | None:
    """Bring an old map up to date; None if it was made of another table or with other settings.

    Raises:
        StoreError: it cannot be known which rows changed.
    """
    note = note_of(out)
    if any(note.get(name) != settings[name] for name in settings) or "onto" in note:
        return None
    changed = changes(table, note["version"], rows.vectors.shape[1])
    if changed is None:
        raise StoreError(
            f"{out.uri} is a map of version {note['version']} of {table.uri}, whose files are gone, so"
            " that nobody knows which rows changed. --refit makes a new map."
        )
    points, known = _points_on_map(out, rows.ids)
    known &= ~pc.is_in(rows.ids, value_set=changed[0]).to_numpy(zero_copy_only=False)
    if not known.any():
        return None
    new = np.flatnonzero(~known)
    axes = _axes_from_json(note["axes"])
    if axes is not None:
        points[new] = points_on_axes(axes, rows.vectors[new])
    else:
        points[new] = _place(rows.vectors, new, rows.vectors[known], points[known], quiet=quiet)
    return _Map(points, n_placed=len(new), axes=axes)


def _place_onto(
    base: Table,
    rows: Vectors,
    fingerprint: Fingerprint,
    config: ProjectConfig,
    options: Mapping[str, str],
) -> _Map:
    """Place rows on the map of another table."""
    note = note_of(base)
    source, of_source = open_vectors(note["table"], options)
    refuse_two_spaces(config.table, fingerprint, config.onto, of_source)
    axes = _axes_from_json(note["axes"])
    if axes is not None:
        return _Map(points_on_axes(axes, rows.vectors), n_placed=len(rows.ids), axes=axes)
    on_map = read_vectors(source, of_source.dim)
    points, known = _points_on_map(base, on_map.ids)
    if not known.any():
        raise StoreError(f"{config.onto} holds no row of {note['table']} any more. Make it anew.")
    everything = np.arange(len(rows.ids))
    placed = _place(
        rows.vectors, everything, on_map.vectors[known], points[known], quiet=config.json
    )
    return _Map(placed, n_placed=len(rows.ids))


def _open_map(uri: str, options: Mapping[str, str]) -> Table:
    """Open a table of points that `project` has made.

    Raises:
        StoreError: there is no such table.
    """
    table = Table.open(uri, options)
    if table is None or note_of(table).get("command") != "project":
        raise StoreError(f"There is no map at {uri}. `embatch project TABLE {uri}` makes one.")
    return table


def _points_on_map(table: Table, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Points of n ids on a map, (n, dim) float32, and True for each id that is on the map, (n,) bool."""
    rows = upgrade_rows(table.read(), kind_of(table.schema))
    at = pc.index_in(ids, value_set=rows["id"].combine_chunks())
    known = at.is_valid().to_numpy(zero_copy_only=False)
    mapped = points_of(rows)
    points = np.zeros((len(ids), mapped.shape[1]), np.float32)
    points[known] = mapped[at.drop_null().to_numpy()]
    return points, known


def _axes_to_json(axes: Axes | None) -> dict[str, Any] | None:
    return axes and {"mean": axes.mean.tolist(), "components": axes.components.tolist()}


def _axes_from_json(axes: Mapping[str, Any] | None) -> Axes | None:
    if axes is None:
        return None
    return Axes(*(np.array(axes[name], np.float32) for name in Axes._fields))


def _text(config: ProjectConfig, summary: ProjectSummary) -> str:
    stayed = summary.n - summary.n_fitted - summary.n_placed
    lines = [
        f"{summary.n:>12,}  rows on the map ({summary.method})",
        f"{summary.n_fitted:>12,}  fitted",
        f"{summary.n_placed:>12,}  placed among their neighbours",
        f"{stayed:>12,}  stayed where they were",
    ]
    if summary.trustworthiness is not None:
        lines += [
            f"{summary.trustworthiness:>12.3f}  trustworthiness",
            f"{summary.kept_neighbours:>12.1%}  of the nearest rows are nearest on the map",
        ]
    lines.append(f"\n{config.out} is at version {summary.table_version}.")
    if config.picture:
        lines.append(f"{config.picture} shows the map.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(ProjectConfig, "project", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
