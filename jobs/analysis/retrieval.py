"""Rank the rows of a table for queries, and measure the ranking with judgements."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.analysis.metrics import relevances, retrieval_measures
from jobs.analysis.nearest import nearest
from jobs.analysis.vectors import Vectors
from sources.rows import SourceError

DEPTH = 1000  # documents that are ranked for a query
UNMATCHED, SEED = 20_000, 0  # number of random pairs, and the seed that draws them
Judgements = Mapping[str, Mapping[str, float]]


def known_judgements(
    judged: Judgements, base: Vectors, queries: Vectors
) -> tuple[Judgements, dict[str, int]]:
    """Select the judgements of queries that are in the table and have a relevant document.

    Returns:
        The selected judgements, and counts of queries and documents, those left out included.

    Raises:
        SourceError: No judgement is left.
    """
    documents, asked = set(base.ids.to_pylist()), set(queries.ids.to_pylist())
    relevant = {q: v for q, v in judged.items() if any(score > 0 for score in v.values())}
    named = {name for values in judged.values() for name in values}
    wanted = {name for v in relevant.values() for name, score in v.items() if score > 0}
    qrels = {query: values for query, values in relevant.items() if query in asked}
    if not qrels or not wanted & documents:
        raise SourceError(
            "The judgements name no query, or no relevant document, that is there. They name queries"
            f" such as {min(judged)!r} and documents such as {min(named)!r}; the tables hold"
            f" {min(asked)!r} and {min(documents)!r}."
        )
    counts = {
        "queries": len(qrels),
        "queries_without_judgement": len(asked - set(relevant)),
        "unknown_queries": len(set(judged) - asked),
        "unknown_documents": len(named - documents),
    }
    return qrels, counts


def rank_queries(
    base: Vectors, queries: Vectors, qrels: Judgements
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rank the rows of the base for each query, and measure the ranking.

    Args:
        base: the documents.
        queries: the queries; the base itself if its rows are the queries.
        qrels: relevance by query and document; q queries.

    Returns:
        Measures (q,) float64 by name, and the pairs that belong together: (p, 2) int64, a row of the
        queries and a row of the base.
    """
    names = sorted(qrels)
    rows = pc.index_in(pa.array(names), value_set=queries.ids).to_numpy()
    own = base is queries
    depth = min(DEPTH + own, len(base.ids))
    found = nearest(base.vectors, depth, queries.vectors[rows])
    ids = np.array(base.ids.to_pylist(), object)
    order = [
        [name for name in ids[line].tolist() if not (own and name == query)]
        for query, line in zip(names, found.indices, strict=True)
    ]
    gains, judged = relevances(names, order, qrels)
    place = {name: row for row, name in enumerate(ids)}
    pairs = [
        (row, place[document])
        for query, row in zip(names, rows, strict=True)
        for document, score in qrels[query].items()
        if score > 0 and document in place
    ]
    return retrieval_measures(gains, judged), np.array(pairs, np.int64).reshape(-1, 2)


def random_similarities(base: Vectors, queries: Vectors, pairs: np.ndarray) -> np.ndarray:
    """Cosines, (r,) float32, of random pairs that do not belong together.

    Args:
        base: the documents.
        queries: the queries.
        pairs: (p, 2) int64, pairs that belong together, as `rank_queries` returns them.
    """
    chance = np.random.default_rng(SEED)
    one = chance.choice(pairs[:, 0], UNMATCHED)
    two = chance.integers(0, len(base.ids), UNMATCHED)
    together = np.isin(one * len(base.ids) + two, pairs[:, 0] * len(base.ids) + pairs[:, 1])
    one, two = one[~together], two[~together]
    similarity: np.ndarray = np.einsum("ij,ij->i", queries.vectors[one], base.vectors[two])
    return similarity
