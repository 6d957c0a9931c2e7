"""A map of a table: each row a point in two or three dimensions, near to what is like it.

    embatch project tables/articles tables/map --picture map.png
    embatch project tables/articles tables/map3 --method pca --dim 3
    embatch project tables/classes tables/classes-on-map --onto tables/map

Run it again after TABLE changed: rows that are on the map stay exactly where they are, new ones are
placed among their neighbours, and those that went are taken off. `--onto` puts the rows of another
table of the same space on the map. The same seed gives the same map.
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
from jobs.analysis.projections import Axes, along, fit_axes, fit_tsne, fit_umap, judge, place
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
Place = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class ProjectConfig:
    """What to map, how, and where the map goes.

    Attributes:
        table: table of vectors
        out: table of points; one that is there is brought up to date
        method: how distances become a map; pca is the fastest, umap shows groups best
        dim: dimensions of the map, 2 or 3
        onto: a map of another table, on which these rows are placed
        sample: fit on at most so many rows, and place the others among them
        seed: the same one gives the same map
        refit: make a new map, on which all points lie elsewhere
        picture: where the map is drawn, a .png, .svg or .pdf file
        label_column: colours the picture (default: label, where there is one)
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    table: Annotated[Place, tyro.conf.arg(metavar="TABLE")]
    out: Annotated[Place, tyro.conf.arg(metavar="OUT")]
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
    """What the map is made of.

    Attributes:
        n: rows on the map.
        n_fitted: rows that the map was fitted to in this run.
        n_placed: rows that were placed on it in this run; the others stayed where they were.
        trustworthiness: how few are near on the map that are far in truth, on a sample; null where
            there are too few rows.
        kept_neighbours: share of the nearest rows that are nearest on the map, on the same sample.
        method: how it was made.
        inputs: the tables read, and their versions.
        table_version: of the map.
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
    """Points of a table's rows, and how many of them are new."""

    points: np.ndarray
    n_fitted: int = 0
    n_placed: int = 0
    axes: Axes | None = None


def run(config: ProjectConfig) -> ProjectSummary:
    """Make a map, or bring one up to date.

    Raises:
        StoreError: a table is missing, empty, of another space, or not what it should be.
    """
    options = storage_options(config.storage_option)
    table, held = open_vectors(config.table, options)
    rows = read_vectors(table, held.dim)
    if not len(rows.ids):
        raise StoreError(f"{config.table} holds no rows.")
    labels = labels_of(table, config.label_column, rows.ids)
    made: dict[str, Any] = {"method": config.method, "dim": config.dim, "seed": config.seed}
    made |= {"table": table.uri, "space": held.space}
    inputs = {table.uri: table.version}
    base: Table | None = None
    if config.onto:
        base = _open_map(table_uri(config.onto), options)
        theirs = note_of(base)
        made |= {name: theirs[name] for name in ("method", "dim", "seed")} | {"onto": base.uri}
        inputs[base.uri] = base.version
    uri, schema = table_uri(config.out), projection_schema(made["dim"])
    out = open_derived(uri, schema, options)
    if base is not None:
        found = _onto(base, rows, held, config, options)
    else:
        quiet = config.json
        old = None if out is None or config.refit else _old(out, made, table, rows, quiet=quiet)
        found = _fitted(rows, config) if old is None else old
    quality = judge(rows.vectors, found.points, config.seed)
    note: dict[str, Any] = {"command": "project", **made, "inputs": inputs}
    note |= {"version": table.version, "axes": _written(found.axes)}
    if quality:
        note |= {"trustworthiness": quality.trustworthiness, "kept_neighbours": quality.kept}
    points = [projection_rows(rows.ids, found.points)]
    out = write_derived(out, uri, schema, points, note, options)
    if config.picture:
        title = f"{held.model}, {made['method']}, {len(rows.ids):,} rows"
        draw_map(found.points, labels.to_pylist(), config.picture, title)
    return ProjectSummary(
        n=len(rows.ids),
        n_fitted=found.n_fitted,
        n_placed=found.n_placed,
        trustworthiness=quality and quality.trustworthiness,
        kept_neighbours=quality and quality.kept,
        method=made["method"],
        inputs=inputs,
        table_version=out.version,
    )


def _fitted(rows: Vectors, config: ProjectConfig) -> _Map:
    """A new map of all rows: fitted to a sample, the others placed."""
    n, dim = rows.vectors.shape[0], config.dim
    least = dim if config.method == "pca" else dim + 2
    if n < least:
        raise StoreError(f"{config.table} has {n} rows, too few: expected {least} or more.")
    if config.method == "pca":
        axes = fit_axes(rows.vectors, dim)
        return _Map(along(axes, rows.vectors), n_fitted=n, axes=axes)
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
    points[rest] = _placed(rows.vectors, rest, sample, points[chosen], quiet=config.json)
    return _Map(points, n_fitted=len(chosen), n_placed=len(rest))


def _placed(
    vectors: np.ndarray, which: np.ndarray, on_map: np.ndarray, points: np.ndarray, *, quiet: bool
) -> np.ndarray:
    """Points of some rows, placed among those on the map."""
    placed = np.zeros((len(which), points.shape[1]), np.float32)
    with Progress("place", len(which), "rows", quiet=quiet or not len(which)) as progress:
        for start in range(0, len(which), PLACED_ROWS):
            part = slice(start, start + PLACED_ROWS)
            placed[part] = place(vectors[which[part]], on_map, points)
            progress.add(len(which[part]))
    return placed


def _old(
    out: Table, made: Mapping[str, Any], table: Table, rows: Vectors, *, quiet: bool
) -> _Map | None:
    """The map that is there, brought up to date; None where it is a map of other things.

    Raises:
        StoreError: it cannot be known which rows changed.
    """
    note = note_of(out)
    if any(note.get(name) != made[name] for name in made) or "onto" in note:
        return None
    changed = changes(table, note["version"], rows.vectors.shape[1])
    if changed is None:
        raise StoreError(
            f"{out.uri} is a map of version {note['version']} of {table.uri}, whose files are gone, so"
            " that nobody knows which rows changed. --refit makes a new map."
        )
    points, known = _found(out, rows.ids)
    known &= ~pc.is_in(rows.ids, value_set=changed[0]).to_numpy(zero_copy_only=False)
    if not known.any():
        return None
    new = np.flatnonzero(~known)
    axes = _read(note["axes"])
    if axes is not None:
        points[new] = along(axes, rows.vectors[new])
    else:
        points[new] = _placed(rows.vectors, new, rows.vectors[known], points[known], quiet=quiet)
    return _Map(points, n_placed=len(new), axes=axes)


def _onto(
    base: Table,
    rows: Vectors,
    mine: Fingerprint,
    config: ProjectConfig,
    options: Mapping[str, str],
) -> _Map:
    """Rows placed on another table's map."""
    note = note_of(base)
    source, held = open_vectors(note["table"], options)
    refuse_two_spaces(config.table, mine, config.onto, held)
    axes = _read(note["axes"])
    if axes is not None:
        return _Map(along(axes, rows.vectors), n_placed=len(rows.ids), axes=axes)
    theirs = read_vectors(source, held.dim)
    points, known = _found(base, theirs.ids)
    if not known.any():
        raise StoreError(f"{config.onto} holds no row of {note['table']} any more. Make it anew.")
    everything = np.arange(len(rows.ids))
    placed = _placed(
        rows.vectors, everything, theirs.vectors[known], points[known], quiet=config.json
    )
    return _Map(placed, n_placed=len(rows.ids))


def _open_map(uri: str, options: Mapping[str, str]) -> Table:
    """A table of points that `project` has made.

    Raises:
        StoreError: there is none.
    """
    table = Table.open(uri, options)
    if table is None or note_of(table).get("command") != "project":
        raise StoreError(f"There is no map at {uri}. `embatch project TABLE {uri}` makes one.")
    return table


def _found(table: Table, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, dim) of ids on a map, and which of them it has, (n,) bool."""
    rows = upgrade_rows(table.read(), kind_of(table.schema))
    at = pc.index_in(ids, value_set=rows["id"].combine_chunks())
    known = at.is_valid().to_numpy(zero_copy_only=False)
    held = points_of(rows)
    points = np.zeros((len(ids), held.shape[1]), np.float32)
    points[known] = held[at.drop_null().to_numpy()]
    return points, known


def _written(axes: Axes | None) -> dict[str, Any] | None:
    return axes and {"mean": axes.mean.tolist(), "components": axes.components.tolist()}


def _read(axes: Mapping[str, Any] | None) -> Axes | None:
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
    """The command line; returns the exit code."""
    return run_command(ProjectConfig, "project", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
