import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from actors.checkpoints import resolve
from actors.engine.engine import Engine
from actors.models import ModelError
from jobs.analysis.metrics import separation
from jobs.cli import main
from jobs.finetune import FinetuneConfig, run
from jobs.training.examples import Example
from jobs.training.labelled import choose_length, histogram, select_labelled
from schemas.delta.store import StoreError
from sources.rows import SourceError
from tests.support.tables import rows_of
from tests.support.tiny_bert import tiny_bert

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*use_reentrant.*"),
    pytest.mark.usefixtures("few_rows_here"),
]
FILLERS = "the a of and in on with for to from about over".split()
KINDS = {"sport": "goal match team player".split(), "money": "bank share market price".split()}


def corpus(folder, n=120, name="news.csv", kinds=KINDS):
    chance = np.random.default_rng(3)
    rows = []
    for number in range(n):
        label = list(kinds)[number % len(kinds)]
        words = [*chance.choice(FILLERS, 4), *chance.choice(kinds[label], 3)]
        rows.append({"text": " ".join(chance.permutation(words)), "kind": label})
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "kind"])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / name)


@pytest.fixture
def model(tmp_path):
    return tiny_bert(tmp_path / "bert", [*FILLERS, *(w for words in KINDS.values() for w in words)])


def asked(source, model, out, **options):
    options = {"learning_rate": 3e-3, "text_column": "text"} | options
    return FinetuneConfig(source, model=model, label_column="kind", out=str(out), **options)


def test_vectors_tell_labels_afterwards_and_the_folder_is_a_model(tmp_path, model, capsys):
    source = corpus(tmp_path)
    summary = run(asked(source, model, tmp_path / "out", epochs=8, patience=8))
    assert (summary.n, summary.n_held) == (96, 24)
    assert summary.labels == {"money": 60, "sport": 60}
    assert summary.accuracy > 0.9
    assert summary.after["knn_accuracy"] > 0.8 > summary.before["knn_accuracy"]
    assert summary.after["silhouette"] > summary.before["silhouette"] + 0.2
    assert summary.epochs[summary.best_epoch - 1]["f1"] == max(e["f1"] for e in summary.epochs)
    assert "Texts are cut at 16 tokens" in capsys.readouterr().err
    assert (tmp_path / "out" / "learning.png").stat().st_size > 1000
    held = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert held["accuracy"] == summary.accuracy
    assert not (tmp_path / "out.training").exists()
    layer = load_file(tmp_path / "out" / "classifier.safetensors")
    assert layer["weight"].shape == (2, 32)
    before, after = resolve(model), resolve(str(tmp_path / "out"))
    assert after.space != before.space
    assert main(["embed", source, str(tmp_path / "t"), "--model", str(tmp_path / "out")]) == 0
    texts = ["the goal of a match", "a share on the market"]
    vectors = Engine(after.load()).encode(texts).vectors
    assert vectors[0] @ vectors[1] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "patience", "n_epochs"), [("1e-3", "12", 12), ("1e-9", "2", 3)])
def test_a_killed_training_goes_on_to_the_same_result(tmp_path, model, rate, patience, n_epochs):
    source = corpus(tmp_path)
    options = ["--text-column", "text", "--label-column", "kind", "--learning-rate", rate]
    options += ["--epochs", "12", "--patience", patience, "--model", model]

    def start(out):
        command = [sys.executable, "-m", "jobs.finetune", source, *options, "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0
    killed = start(tmp_path / "killed")
    work = tmp_path / "killed.training"
    while killed.poll() is None and not list(work.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert list(work.glob("checkpoint-*"))
    assert not (tmp_path / "killed").exists()
    assert start(tmp_path / "killed").wait() == 0
    told = [
        json.loads(Path(tmp_path, name, "finetune.json").read_text())
        for name in ("whole", "killed")
    ]
    assert told[0]["epochs"] == told[1]["epochs"]
    assert len(told[0]["epochs"]) == n_epochs
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    for name, values in weights[0].items():
        np.testing.assert_allclose(weights[1][name], values, atol=1e-6)


def test_one_label_against_the_rest_and_rare_labels_weighed(tmp_path, model):
    kinds = KINDS | {"money2": ["price"], "money3": ["bank"]}
    source = corpus(tmp_path, 80, kinds=kinds)
    summary = run(
        asked(source, model, tmp_path / "out", positive="sport", class_weights=True, epochs=1)
    )
    assert summary.labels == {"not sport": 60, "sport": 20}
    assert summary.n_held == 16


def test_a_table_is_a_source_too(tmp_path, model):
    source, table = corpus(tmp_path, 40), str(tmp_path / "t")
    assert main(["embed", source, table, "--model", model]) == 0
    summary = run(asked(table, model, tmp_path / "out", epochs=1, text_column=""))
    assert summary.n + summary.n_held == len(rows_of(table))


def test_rows_from_before_there_was_a_column_have_no_label(tmp_path, model):
    table = str(tmp_path / "t")
    (tmp_path / "a.jsonl").write_text('{"text": "the goal"}\n{"text": "the bank"}\n')
    for source in (str(tmp_path / "a.jsonl"), corpus(tmp_path, 40)):
        assert main(["embed", source, table, "--model", model, "--text-column", "text"]) == 0
    summary = run(asked(table, model, tmp_path / "out", epochs=1, text_column=""))
    assert summary.n_without_label == 2
    assert summary.n + summary.n_held == len(rows_of(table)) - 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("through_ray")
def test_workers_of_ray_train_together(tmp_path, model):
    summary = run(
        asked(corpus(tmp_path), model, tmp_path / "out", epochs=14, patience=14, workers=2)
    )
    assert summary.accuracy > 0.8
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert summary.epochs[0]["step"] == 3  # 96 texts, 16 for each of two workers a step


def test_equal_texts_are_never_learnt_and_judged_by_and_rare_labels_are():
    pairs = [(f"text {i}", "ab"[i % 2]) for i in range(998)] + [("rare", "c"), ("rarer", "c")]
    data = select_labelled(
        [Example(*pair) for pair in [*pairs, *pairs[:9], ("x", None), (" ", "a")]], "kind"
    )
    assert (len(data.texts), data.n_duplicates, data.n_without_label) == (1000, 9, 2)
    for seed in range(5):
        train, held = data.split(0.2, seed)
        assert sorted([*train, *held]) == list(range(1000))
        assert set(data.labels[train]) == set(data.labels[held]) == {0, 1, 2}
        assert 200 <= len(held) <= 203


def test_a_column_of_labels_may_have_any_name_and_unread_rows_are_told(tmp_path, model):
    lines = [
        json.dumps({"text": f"the {'goal' if i % 2 else 'bank'} a {'of ' * i}", "id": i % 2})
        for i in range(20)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "no json", '{"text": " ", "id": 1}']))
    config = FinetuneConfig(
        str(tmp_path / "a.jsonl"), model=model, label_column="id", out=str(tmp_path / "o"), epochs=1
    )
    summary = run(config)
    assert summary.labels == {"0": 10, "1": 10}
    assert sum(summary.unread.values()) == 2


def test_training_sees_the_prompt_that_embed_puts_before_texts(tmp_path, model):
    told = {"prompts": {"passage": "about : "}, "default_prompt_name": "passage"}
    SentenceTransformer(model, device="cpu").save_pretrained(str(tmp_path / "prompted"))
    settings = tmp_path / "prompted" / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | told))
    config = asked(corpus(tmp_path), str(tmp_path / "prompted"), tmp_path / "out", epochs=8)
    summary = run(config)
    layer = load_file(tmp_path / "out" / "classifier.safetensors")
    data = select_labelled(config.examples(), "kind")
    _, held = data.split(0.2, 0)
    unit = (
        Engine(resolve(str(tmp_path / "out")).load()).encode([data.texts[i] for i in held]).vectors
    )
    raw = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    vectors = raw.encode([data.texts[i] for i in held], prompt_name="passage")
    np.testing.assert_allclose(
        unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5
    )
    guessed = (vectors @ layer["weight"].T + layer["bias"]).argmax(axis=1)
    assert np.mean(guessed == data.labels[held]) == pytest.approx(summary.accuracy, abs=1e-6)


def test_lengths_and_separation_by_hand():
    assert choose_length(np.array([10, 20, 30]), 512) == 32
    assert choose_length(np.array([1000]), 512) == 512
    assert histogram(np.array([10, 20, 30])) == {16: 1, 32: 2}
    told = separation(
        np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32), np.array([0, 0, 1, 1])
    )
    assert told["silhouette"] == 1.0


def test_a_table_without_texts_is_told_for_what_it_is(tmp_path, model, royal):
    source, table = corpus(tmp_path, 20), str(tmp_path / "t")
    assert main(["embed", source, table, "--model", model, "--no-text"]) == 0
    assert main(["neighbours", table, f"{table}.near", "--k", "2"]) == 0
    for place, message in {
        table: "t is a table embedded with --no-text: it holds no texts. Name their source, or a",
        royal: "royal is a table of words: it holds no texts",
        f"{table}.near": "t.near has no column 'kind' .asked for as other column",
    }.items():
        with pytest.raises((StoreError, SourceError), match=message):
            run(asked(place, model, tmp_path / "out", text_column=""))
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told(tmp_path, model):
    source = corpus(tmp_path, 20)
    with pytest.raises(ValueError, match="--out is missing"):
        FinetuneConfig(source, model=model, label_column="kind")
    with pytest.raises(ValueError, match="--epochs is 0"):
        asked(source, model, tmp_path / "out", epochs=0)
    one = corpus(tmp_path, 8, "one.csv", {"sport": KINDS["sport"]})
    with pytest.raises(SourceError, match="'kind' has 1 values"):
        run(asked(one, model, tmp_path / "out"))
    with pytest.raises(SourceError, match="No text has the label 'x'. There are: money, sport"):
        run(asked(source, model, tmp_path / "out", positive="x"))
    with Path(source).open("a") as file:
        file.write("the goal,rare\r\n")
    with pytest.raises(SourceError, match=r"Of 3 labels of 'kind' 1 have one text \(rare\)"):
        run(asked(source, model, tmp_path / "out"))
    with pytest.raises(ModelError, match="cannot be fine-tuned"):
        run(asked(source, "use-multilingual-v3", tmp_path / "out"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not empty and no model of finetune"):
        run(asked(corpus(tmp_path, 20), model, tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "out.training")
    with pytest.raises(
        ModelError, match="out.training, where checkpoints go, holds something else"
    ):
        run(asked(corpus(tmp_path, 20), model, tmp_path / "out"))
    assert (tmp_path / "out.training" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("positive", ["", "Web"])
def test_real_news_are_told_apart_better_than_by_a_probe(tmp_path, data_folder, positive):
    news = str(data_folder / "10kgnad" / "test.csv")
    options = {"delimiter": ";", "quote": "'", "no_header": True, "max_tokens": 64}
    config = FinetuneConfig(
        news,
        model="all-MiniLM-L6-v2",
        text_column="column_2",
        label_column="column_1",
        out=str(tmp_path / "out"),
        positive=positive,
        epochs=4,
        learning_rate=1e-4,
        **options,
    )
    summary = run(config)
    assert summary.n + summary.n_held == 1028
    assert summary.accuracy > summary.probe_accuracy
    assert summary.f1 > summary.probe_f1
    assert summary.after["knn_accuracy"] > summary.before["knn_accuracy"]
    assert summary.after["silhouette"] > summary.before["silhouette"]
