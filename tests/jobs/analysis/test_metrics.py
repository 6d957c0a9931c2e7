import numpy as np
import pytest

from jobs.analysis.metrics import relevances, retrieval_measures, vote


def test_the_example():
    measures = retrieval_measures(np.array([[0.0, 1, 0]]), [np.array([1.0, 1])])
    assert measures["recall@3"] == [0.5]
    assert measures["mrr@10"] == [0.5]
    assert measures["map"] == [0.25]
    ideal = 1 + 1 / np.log2(3)
    assert measures["ndcg@10"] == pytest.approx([(1 / np.log2(3)) / ideal])
    assert measures["ndcg@10"].round(4) == [0.3869]
    assert (measures["hit@1"], measures["hit@3"]) == ([0], [1])


def test_nothing_found_is_zero():
    measures = retrieval_measures(np.zeros((1, 2)), [np.array([2.0])])
    assert all((values == 0).all() for values in measures.values())


def random_case(seed):
    chance = np.random.default_rng(seed)
    documents = [f"d{i}" for i in range(40)]
    qrels, found = {}, {}
    for query in range(25):
        judged = chance.choice(documents, 6, replace=False)
        values = chance.integers(0, 4, 6)
        values[0] = 2
        qrels[f"q{query}"] = dict(zip(judged.tolist(), values.tolist(), strict=True))
        found[f"q{query}"] = chance.permutation(documents)[: chance.integers(3, 40)].tolist()
    return qrels, found


@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_trec_eval(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, found = random_case(seed)
    wanted = {"ndcg_cut_10", "recall_1", "recall_5", "recall_10", "recall_100", "map", "success_5"}
    run = {q: {d: float(-rank) for rank, d in enumerate(names)} for q, names in found.items()}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    ids = sorted(qrels)
    mine = retrieval_measures(*relevances(ids, [found[q] for q in ids], qrels))
    for name, other in {
        "ndcg@10": "ndcg_cut_10",
        "recall@1": "recall_1",
        "recall@5": "recall_5",
        "recall@10": "recall_10",
        "recall@100": "recall_100",
        "map": "map",
        "hit@5": "success_5",
    }.items():
        np.testing.assert_allclose(mine[name], [theirs[q][other] for q in ids], atol=1e-9)


def test_votes():
    labels = np.array([0, 1, 1])
    found = np.array([[0, 1, 2], [0, 1, -1], [1, 0, -1], [-1, -1, -1]])
    assert vote(labels, found).tolist() == [1, 0, 1, 0]
