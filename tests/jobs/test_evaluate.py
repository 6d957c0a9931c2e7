import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from actors.checkpoints import resolve
from jobs.cli import main
from jobs.embed import run as embed
from jobs.evaluate import EvaluateConfig, run
from jobs.sync.config import EmbedConfig
from schemas.delta.store import StoreError, Table
from schemas.vectors import vectors_of
from sources.rows import SourceError
from tests.support.hash_model import HashModel
from tests.support.tables import fill

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def tables(tmp_path):
    """Documents, and queries that are word for word one of them each."""
    documents = [{"key": f"d{i}", "text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
    queries = [{"key": f"q{i}", "text": f"text {i}"} for i in range(20)]
    return fill(tmp_path, "documents", documents), fill(tmp_path, "queries", queries)


def qrels(folder, lines):
    path = folder / "qrels.tsv"
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return str(path)


def test_what_belongs_to_queries(tables, tmp_path):
    lines = [(f"q{i}", f"d{i}", 1) for i in range(10)] + [("q10", "d3", 1), ("q11", "d11", 0)]
    lines += [("gone", "d1", 1), ("q1", "lost", 1)]
    path = tmp_path / "pairs.png"
    found = run(
        EvaluateConfig(
            tables[0], queries=tables[1], qrels=qrels(tmp_path, lines), picture=str(path)
        )
    )
    assert (found["queries"], found["unknown_queries"], found["unknown_documents"]) == (11, 1, 1)
    assert found["queries_without_judgement"] == 20 - 11
    assert 10 <= found["in_top_5"] <= 11
    assert found["matched"] > 0.9 > found["unmatched"]
    assert found["recall@1"] == pytest.approx((9 + 0.5) / 11, abs=1e-6)
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_likeness(tables, tmp_path):
    chance = np.random.default_rng(1)
    pairs = [
        (f"d{a}", f"d{b}", round(s, 3))
        for a, b, s in zip(*chance.integers(0, 60, (2, 50)), chance.random(50), strict=True)
    ]
    pairs = list({pair[:2]: pair for pair in pairs}.values())
    found = run(EvaluateConfig(tables[0], scores=qrels(tmp_path, [*pairs, ("d1", "lost", 1)])))
    rows = Table.open(tables[0]).read()
    held = dict(zip(rows["id"].to_pylist(), vectors_of(rows["embedding"]), strict=True))
    want = spearmanr([held[a] @ held[b] for a, b, _ in pairs], [s for _, _, s in pairs]).statistic
    assert found["spearman"] == pytest.approx(want, abs=1e-6)
    assert (found["pairs"], found["unknown_pairs"]) == (len(pairs), 1)
    assert -1 <= found["pearson"] <= 1


def test_another_model(tables, tmp_path):
    documents = [{"key": f"d{i}", "text": f"text {i}"} for i in range(50)]
    queries = [{"key": f"q{i}", "text": f"other {i}"} for i in range(20)]
    model = HashModel(dim=8, space="other", recipe="other")
    other = fill(tmp_path, "other", documents, model), fill(tmp_path, "asked", queries, model)
    judged = qrels(tmp_path, [(f"q{i}", f"d{i}", 1) for i in range(20)])
    found = run(
        EvaluateConfig(
            tables[0], queries=tables[1], qrels=judged, compare=other[0], compare_queries=other[1]
        )
    )
    assert found["shared_rows"] == 50
    assert 0 <= found["overlap@10"] < 0.6
    assert found["ndcg@10"] == 1
    assert found["other:ndcg@10"] < 0.5
    assert found["queries_better"] > 10
    assert found["queries_worse"] == 0
    assert run(EvaluateConfig(tables[0], compare=tables[0]))["overlap@10"] == 1


def test_labels(tmp_path):
    words = {
        "fruit": "apple pear plum cherry banana grape melon lemon fig peach".split(),
        "tool": "hammer saw drill wrench pliers chisel axe screwdriver shovel rake".split(),
    }
    rows = [
        {"key": f"{kind}{i}", "text": f"a {word}", "kind": kind}
        for kind, names in words.items()
        for i, word in enumerate(names)
    ]
    rows.append({"key": "none", "text": "a cloud", "kind": None})
    table = fill(tmp_path, "t", rows, resolve(MINILM))
    found = run(EvaluateConfig(table, label_column="kind"))
    assert (found["rows"], found["labels"], found["rows_without_label"]) == (20, 2, 1)
    assert found["knn_accuracy@10"] > 0.8
    assert found["probe_accuracy"] > 0.7


def test_mistakes_are_told(tables, tmp_path):
    with pytest.raises(ValueError, match="Say what to evaluate"):
        EvaluateConfig(tables[0])
    with pytest.raises(ValueError, match="--queries needs --qrels"):
        EvaluateConfig(tables[0], queries=tables[1], label_column="label")
    with pytest.raises(SourceError, match="name no query.*'nobody'"):
        run(
            EvaluateConfig(
                tables[0], queries=tables[1], qrels=qrels(tmp_path, [("nobody", "d1", 1)])
            )
        )
    with pytest.raises(SourceError, match="no column 'kind'"):
        run(EvaluateConfig(tables[0], label_column="kind"))
    with pytest.raises(SourceError, match="names 0 pairs"):
        run(EvaluateConfig(tables[0], scores=qrels(tmp_path, [("a", "b", 1)])))
    with pytest.raises(StoreError, match="no table of vectors"):
        run(EvaluateConfig(str(tmp_path / "nowhere"), label_column="label"))


def test_the_command(tables, tmp_path, capsys):
    judged = qrels(tmp_path, [(f"q{i}", f"d{i}", 1) for i in range(20)])
    arguments = ["evaluate", tables[0], "--queries", tables[1], "--qrels", judged]
    assert main(arguments) == 0
    assert "Of 20 queries 20 have a right answer among the first five." in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"ndcg@10", "recall@5", "mrr@10", "map", "in_top_5"} <= found.keys()


@pytest.mark.slow
@pytest.mark.data
def test_scientific_abstracts(data_folder, tmp_path):
    folder = data_folder / "scifact_reduced"
    embed(
        EmbedConfig(
            str(folder / "corpus.jsonl"),
            str(tmp_path / "d"),
            MINILM,
            id_column="_id",
            text_column="title,text",
        )
    )
    embed(
        EmbedConfig(
            str(folder / "queries.jsonl"),
            str(tmp_path / "q"),
            MINILM,
            id_column="_id",
            text_column="text",
        )
    )
    found = run(
        EvaluateConfig(
            str(tmp_path / "d"),
            queries=str(tmp_path / "q"),
            qrels=str(folder / "qrels" / "test.tsv"),
        )
    )
    assert found["ndcg@10"] == pytest.approx(0.8789, abs=0.002)
    assert found["mrr@10"] == pytest.approx(0.8553, abs=0.002)
    assert found["queries"] == 100


@pytest.mark.slow
@pytest.mark.data
def test_photos_and_captions_equal_the_evaluator_of_sentence_transformers(data_folder, tmp_path):
    """All four directions, with a CLIP that is small and trained on other images."""
    import zipfile

    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from jobs.neighbours import NeighboursConfig
    from jobs.neighbours import run as neighbours

    model = str(data_folder / "clip_tiny")
    with zipfile.ZipFile(data_folder / "flickr8k_1000" / "images.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        archive.extractall(tmp_path / "photos", names)
    with (data_folder / "flickr8k_1000" / "captions.csv").open(encoding="utf-8") as file:
        captions = [row for row in csv.DictReader(file)]
    pairs = []
    with (tmp_path / "captions.jsonl").open("w") as file:
        for index, row in enumerate(captions):
            name = next((name for name in names if name.endswith(row["image"])), None)
            if name:
                file.write(json.dumps({"key": f"c{index:05}", "text": row["caption"]}) + "\n")
                pairs.append((f"c{index:05}", name))
    photos, texts = str(tmp_path / "p"), str(tmp_path / "c")
    embed(EmbedConfig(str(tmp_path / "photos"), photos, model))
    embed(
        EmbedConfig(
            str(tmp_path / "captions.jsonl"), texts, model, id_column="key", text_column="text"
        )
    )
    for base, asked, lines in (
        (photos, texts, pairs),
        (texts, photos, [pair[::-1] for pair in pairs]),
    ):
        judged = tmp_path / "pairs.csv"
        judged.write_text("".join(f"{one},{two}\n" for one, two in lines))
        found = run(EvaluateConfig(base, queries=asked, qrels=str(judged)))
        tables = [Table.open(place).read(["id", "embedding"]) for place in (base, asked)]
        (ids, vectors), (query_ids, query_vectors) = (
            (rows["id"].to_pylist(), vectors_of(rows["embedding"])) for rows in tables
        )
        relevant = {}
        for one, two in lines:
            relevant.setdefault(one, set()).add(two)
        theirs = InformationRetrievalEvaluator(
            {name: name for name in query_ids},
            {name: name for name in ids},
            relevant,
            score_functions={"cosine": lambda a, b: a @ b.T},
        )
        held = dict(zip([*ids, *query_ids], [*vectors, *query_vectors], strict=True))

        class Known:
            """Gives the vectors of the tables to names."""

            def encode(self, names, held=held, **_):
                return torch.from_numpy(np.stack([held[name] for name in names]))

            encode_query = encode_document = encode

        scores = theirs.compute_metrices(Known())["cosine"]
        for k in (1, 5, 10):
            assert found[f"recall@{k}"] == pytest.approx(scores["recall@k"][k], abs=1e-6)
            assert found[f"hit@{k}"] == pytest.approx(scores["accuracy@k"][k], abs=1e-6)
        assert found["mrr@10"] == pytest.approx(scores["mrr@k"][10], abs=1e-6)
        assert found["ndcg@10"] == pytest.approx(scores["ndcg@k"][10], abs=1e-6)
    for base in (photos, texts):
        for asked in (photos, texts):
            out = str(tmp_path / f"{base[-1]}{asked[-1]}")
            summary = neighbours(NeighboursConfig(base, out, queries=asked, k=3))
            assert summary.n == len(Table.open(asked).read(["id"]))
