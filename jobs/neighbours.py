"""Find the rows of a table that are most like each of its rows, or each row of another table, by cosine.

    embatch neighbours tables/articles tables/near
    embatch neighbours tables/photos tables/found --queries tables/captions --k 5

Both tables must be of one space: texts and texts, or images and texts of one CLIP, in any direction.
OUT has `id`, `rank`, `neighbour_id`, `similarity`. Run it again after BASE or the queries changed:
only rows that changed, and rows whose neighbours changed, are compared with all rows again.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow.compute as pc
import tyro

from jobs.analysis.nearest import Nearest, nearest, pairs_of_itself
from jobs.analysis.nearest_by_faiss import nearest_by_index
from jobs.analysis.nearest_on_ray import nearest_through_ray
from jobs.analysis.vectors import (
    Vectors,
    changes,
    open_vectors,
    read_vectors,
    refuse_two_spaces,
)
from jobs.runtime.command import Flag, run_command, storage_options, table_uri
from jobs.runtime.progress import Progress
from jobs.runtime.ray_cluster import cluster
from schemas.delta.derived import note_of, open_derived, write_derived
from schemas.delta.formats import upgrade_rows
from schemas.delta.store import StoreError, Table
from schemas.errors import UsageError
from schemas.tables.neighbours import NEIGHBOURS, neighbour_rows, neighbours_of

PART_ROWS = 65_536  # that are copied out of a table at a time
Positional = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class NeighboursConfig:
    """The tables to compare, the method, and the table of neighbours.

    Attributes:
        base: table whose rows are the neighbours
        out: table of neighbours; an old one is brought up to date
        queries: table whose rows get neighbours (default: BASE, each row without itself)
        k: number of neighbours of each row
        index: exact finds all neighbours; faiss is for many millions of rows, misses some, and measures how many
        anew: compare all rows again, even if OUT holds most neighbours already
        address: Ray cluster to work on (default: RAY_ADDRESS, else this machine without Ray)
        storage_option: KEY=VALUE for the object store, once for each
        json: print the summary as one line of JSON, the last on stdout
    """

    base: Annotated[Positional, tyro.conf.arg(metavar="BASE")]
    out: Annotated[Positional, tyro.conf.arg(metavar="OUT")]
    queries: Annotated[str, tyro.conf.arg(metavar="TABLE", help_behavior_hint="")] = ""
    k: int = 10
    index: Literal["exact", "faiss"] = "exact"
    anew: Flag = False
    address: Annotated[str, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = ""
    storage_option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    json: Flag = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"--k is {self.k}, expected 1 or more.")
        storage_options(self.storage_option)


@dataclass(frozen=True)
class NeighboursSummary:
    """Counts and measures of the neighbours.

    Attributes:
        n: number of rows that get neighbours.
        n_base: number of rows of the base.
        k: neighbours of a row, at most.
        n_searched: number of rows that were compared with the whole base; the others kept their neighbours
            and were compared with the changed rows only.
        recall: share of the exact neighbours that were found; with an index, measured on a sample.
        mean_similarity: mean cosine of each row and its nearest neighbour; None if there are none.
        inputs: versions of the tables that were read, by table.
        table_version: version of the table of neighbours.
    """

    n: int
    n_base: int
    k: int
    n_searched: int
    recall: float
    mean_similarity: float | None
    inputs: dict[str, int]
    table_version: int


def run(config: NeighboursConfig) -> NeighboursSummary:
    """Find the neighbours of all rows, or only of those that changed, and write them.

    Raises:
        StoreError: a table is missing, empty, or of another space.
    """
    options = storage_options(config.storage_option)
    base_table, fingerprint = open_vectors(config.base, options)
    tables = {"base": base_table}
    if config.queries:
        tables["queries"], of_queries = open_vectors(config.queries, options)
        refuse_two_spaces(config.base, fingerprint, config.queries, of_queries)
    out = open_derived(table_uri(config.out), NEIGHBOURS, options)
    read = {name: read_vectors(table, fingerprint.dim) for name, table in tables.items()}
    for name, table in tables.items():
        if not len(read[name].ids):
            raise StoreError(f"{table.uri} holds no rows.")
    base, queries = read["base"], read.get("queries", read["base"])
    recipe = {
        "k": config.k,
        "index": config.index,
        "space": fingerprint.space,
        "tables": {name: table.uri for name, table in tables.items()},
        "versions": {name: table.version for name, table in tables.items()},
    }
    search = _Search(base, queries, config)
    anew = out is None or config.anew or config.index != "exact"
    known = None if out is None or anew else _known(out, recipe, tables, base, queries)
    found, n_searched = search.all() if known is None else search.changed(known)
    rows = neighbour_rows(queries.ids, base.ids, found.indices, found.similarities)
    note = {"command": "neighbours", "recall": search.recall, **recipe}
    out = write_derived(out, table_uri(config.out), NEIGHBOURS, rows, note, options)
    first = found.similarities[found.indices[:, 0] >= 0, 0]
    return NeighboursSummary(
        n=len(queries.ids),
        n_base=len(base.ids),
        k=config.k,
        n_searched=n_searched,
        recall=round(search.recall, 4),
        mean_similarity=round(float(first.mean()), 6) if len(first) else None,
        inputs={table.uri: table.version for table in tables.values()},
        table_version=out.version,
    )


@dataclass(frozen=True)
class _Known:
    """Neighbours in OUT that are still true.

    Attributes:
        found: (n, k) neighbours of n queries, as indices into the base as it is now.
        due: (n,) bool, True for a query that must be compared with the whole base.
        came: (c,) int, indices of the base's rows that no query was compared with yet.
    """

    found: Nearest
    due: np.ndarray
    came: np.ndarray


def _known(
    out: Table,
    recipe: Mapping[str, Any],
    tables: Mapping[str, Table],
    base: Vectors,
    queries: Vectors,
) -> _Known | None:
    """Read the neighbours of OUT that are still true; None if it has other settings or changes are unknown."""
    note = note_of(out)
    if any(note.get(name) != recipe[name] for name in ("k", "index", "space", "tables")):
        return None
    dim = base.vectors.shape[1]
    changed = {name: changes(table, note["versions"][name], dim) for name, table in tables.items()}
    of_base, of_queries = changed["base"], changed.get("queries", changed["base"])
    if of_base is None or of_queries is None:
        return None
    k = recipe["k"]
    held = upgrade_rows(out.read(), NEIGHBOURS)
    indices, similarities = neighbours_of(held, queries.ids, base.ids, k)
    came = pc.index_in(of_base[0], value_set=base.ids).to_numpy()
    n_others = len(base.ids) - (queries is base)
    lacking = (indices >= 0).sum(axis=1) < min(k, n_others)  # new, or a neighbour is gone
    moved = np.isin(indices, came).any(axis=1)  # a neighbour has another vector
    new = pc.is_in(queries.ids, value_set=of_queries[0]).to_numpy(zero_copy_only=False)
    return _Known(Nearest(indices, similarities), lacking | moved | new, came)


class _Search:
    """Compares rows, in this process or on Ray, and shows the progress.

    Attributes:
        recall: share of the exact neighbours that were found.
    """

    def __init__(self, base: Vectors, queries: Vectors, config: NeighboursConfig) -> None:
        self._base, self._queries = base.vectors, queries.vectors
        self._itself = queries is base
        self._k, self._index = config.k, config.index
        self.recall = 1.0
        self._address = config.address or None
        self._quiet = config.json and not sys.stderr.isatty()

    def all(self) -> tuple[Nearest, int]:
        """Compare all queries with the whole base.

        Returns:
            The neighbours, and the number of queries.
        """
        queries = None if self._itself else self._queries
        n = len(self._queries)
        if self._index == "faiss":
            with Progress("search", n, "rows", quiet=self._quiet) as progress:
                found, self.recall = nearest_by_index(self._base, self._k, queries, progress.add)
            return found, n
        n_pairs = pairs_of_itself(n) if self._itself else n * len(self._base)
        with self._progress(n_pairs) as progress, cluster(self._address, verbose=False) as mine:
            if mine.is_up():
                found = nearest_through_ray(mine, self._base, self._k, queries, progress.add)
            else:
                found = nearest(self._base, self._k, queries, progress=progress.add)
        return found, n

    def changed(self, known: _Known) -> tuple[Nearest, int]:
        """Compare due queries with the whole base, and the other queries with new rows only.

        Returns:
            The neighbours, and the number of due queries; of all queries if more than half were due.
        """
        due, rest = np.flatnonzero(known.due), np.flatnonzero(~known.due)
        if 2 * len(due) > len(known.due):
            return self.all()
        found = known.found
        n_pairs = len(due) * len(self._base) + len(rest) * len(known.came)
        with self._progress(n_pairs) as progress:
            for rows in _parts(due):
                k = self._k + self._itself
                new = nearest(self._base, k, self._queries[rows], progress=progress.add)
                new = new.without(rows) if self._itself else new
                found.indices[rows], found.similarities[rows] = new.indices, new.similarities
            came = self._base[known.came]
            for rows in _parts(rest) if len(came) else ():
                least = found.similarities[rows, -1]
                new = nearest(
                    came, self._k, self._queries[rows], known=least, progress=progress.add
                )
                names = np.where(new.indices < 0, -1, known.came[new.indices])
                found.merge(rows, Nearest(names, new.similarities))
        return found, len(due)

    def _progress(self, n_pairs: int) -> Progress:
        return Progress("compare", n_pairs, "pairs", quiet=self._quiet)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(PART_ROWS, len(rows), PART_ROWS)) if len(rows) else []


def _text(config: NeighboursConfig, summary: NeighboursSummary) -> str:
    lines = [
        f"{summary.n:>12,}  rows with {min(summary.k, summary.n_base)} neighbours each,"
        f" among {summary.n_base:,} rows",
        f"{summary.n_searched:>12,}  of them compared with all rows, the others with what changed",
    ]
    if config.index != "exact":
        lines.append(f"{summary.recall:>12.1%}  of the exact neighbours found, of a sample")
    if summary.mean_similarity is not None:
        lines.append(f"{summary.mean_similarity:>12.3f}  mean similarity of the nearest neighbours")
    lines.append(f"\n{config.out} is at version {summary.table_version}.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(NeighboursConfig, "neighbours", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
