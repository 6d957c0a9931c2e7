"""Measures of retrieval and of labels, as trec_eval, sentence-transformers and scikit-learn define them.

Ranks come from exact neighbours. Documents that the judgements do not name count as not relevant.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import accuracy_score, silhouette_score

from jobs.analysis.nearest import nearest

CUTS = (1, 3, 5, 10, 100)
VOTES = 10


def retrieval_measures(gains: np.ndarray, judged: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Measures of retrieval for each query.

    Args:
        gains: (q, depth) float, relevance of the document at each rank; 0 if it is not relevant, or if
            there is no document.
        judged: q arrays of float, the relevances above 0 in the judgements of a query, one at least.

    Returns:
        `ndcg@10` (Järvelin and Kekäläinen 2002, gains as they are, discount log2(rank + 1)),
        `recall@k` and `hit@k` (1 if a relevant document is among the first k, else 0), `mrr@10`, and
        `map` (over the whole depth), (q,) float64 each.

    For gains [[0, 1, 0]] and judgements [[1, 1]]: recall@3 0.5, mrr@10 0.5, map 0.25, ndcg@10 0.3869.
    """
    n_queries, depth = gains.shape
    n_relevant = np.array([len(values) for values in judged])
    ideal = np.zeros((n_queries, 10))
    for row, values in enumerate(judged):
        best = np.sort(values)[::-1][:10]
        ideal[row, : len(best)] = best
    discounts = 1 / np.log2(np.arange(2, 12))
    top = np.zeros((n_queries, 10))
    top[:, : min(10, depth)] = gains[:, :10]
    hits = gains > 0
    found = np.cumsum(hits, axis=1)
    ranks = np.arange(1, depth + 1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    measures = {"ndcg@10": (top @ discounts) / (ideal @ discounts)}
    for cut in CUTS:
        measures[f"recall@{cut}"] = found[:, min(cut, depth) - 1] / n_relevant
        measures[f"hit@{cut}"] = (first <= cut).astype(np.float64)
    measures["mrr@10"] = np.where(first <= 10, 1 / first, 0.0)
    measures["map"] = (found / ranks * hits).sum(axis=1) / n_relevant
    return measures


def vote(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Label that most neighbours of each row have; the nearest neighbour decides a tie.

    Args:
        labels: (n,) int, from 0.
        indices: (m, k) int, neighbours, nearest first, -1 where there is none.

    Returns:
        (m,) int. For labels [0, 1, 1] and neighbours [[0, 1, 2], [0, 1, -1]]: [1, 0].
    """
    votes = np.zeros((len(indices), int(labels.max()) + 1))
    for place in range(indices.shape[1]):
        row = np.flatnonzero(indices[:, place] >= 0)
        # What a nearer neighbour has is a little more, never as much as another vote.
        votes[row, labels[indices[row, place]]] += 1 + 2.0 ** -(place + 2)
    winners: np.ndarray = votes.argmax(axis=1)
    return winners


def relevances(
    ids: Sequence[str], found: Sequence[Sequence[str]], qrels: Mapping[str, Mapping[str, float]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Relevances of ranked documents and of judged ones: the arguments of `retrieval_measures`.

    Args:
        ids: of q queries, each with judgements.
        found: ids of the documents of each query, best first.
        qrels: relevance by query and document.

    Returns:
        Gains (q, depth) float64, and q arrays of the relevances above 0 in the judgements.
    """
    depth = max(map(len, found), default=1)
    gains = np.zeros((len(ids), max(1, depth)))
    for row, (query, documents) in enumerate(zip(ids, found, strict=True)):
        known = qrels[query]
        gains[row, : len(documents)] = [max(0.0, known.get(name, 0.0)) for name in documents]
    judged = [np.array([value for value in qrels[query].values() if value > 0]) for query in ids]
    return gains, judged


def separation(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures of how well vectors are separated by their labels.

    Args:
        vectors: (n, dim) float32, unit rows; two or more.
        labels: (n,) of any type.

    Returns:
        `knn_accuracy`: share of rows whose ten nearest rows vote for their label; `silhouette` by cosine
        (Rousseeuw 1987), left out where there is one label or each row has its own.
    """
    numbers = np.unique(labels, return_inverse=True)[1]
    near = nearest(vectors, min(VOTES, len(vectors) - 1))
    measures = {"knn_accuracy": accuracy_score(numbers, vote(numbers, near.indices))}
    if 1 < len(np.unique(labels)) < len(labels):
        measures["silhouette"] = silhouette_score(vectors, labels, metric="cosine")
    return {name: round(float(value), 6) for name, value in measures.items()}
