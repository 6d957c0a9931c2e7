import io
import json

import numpy as np
import pytest
import torch
import transformers

from actors.engine import ModelError
from actors.models import MODELS
from actors.reader import SpanReader, best_span
from jobs.ask import AskConfig, Asker
from jobs.cli import main
from schemas.store import StoreError
from tests.tables import fill
from tests.tiny_bert import tiny_bert

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
PASSAGES = {
    "radium": "marie curie discovered radium in paris .",
    "radio": "\x1b[31mmarconi sent the first message over the sea by radio .",
    "penicillin": "alexander fleming found penicillin in london by chance .",
}
QUESTION = "who discovered radium ?"
WORDS = [*" ".join(PASSAGES.values()).replace("\x1b[31m", "").split(), *QUESTION.split()]


def model_of(folder, kind, seed=7, **config):
    return tiny_bert(folder, WORDS, kind, seed, **config)


def rows():
    return [{"key": key, "text": text} for key, text in PASSAGES.items()]


@pytest.fixture
def reader(tmp_path):
    return model_of(tmp_path / "reader", "BertForQuestionAnswering")


@pytest.fixture
def table(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    place = str(tmp_path / "t")
    asked = ["--id-column", "key", "--text-column", "text", "--model", "all-MiniLM-L6-v2"]
    assert main(["embed", str(tmp_path / "p.jsonl"), place, *asked]) == 0
    return place


def test_the_passage_that_answers_comes_first(table, capsys):
    told = Asker(AskConfig(table, k=2))(QUESTION)
    assert [one["id"] for one in told["passages"]][0] == "radium"
    assert len(told["passages"]) == 2
    assert told["passages"][0]["text"] == PASSAGES["radium"]
    assert "answer" not in told
    assert main(["ask", table, "wireless", "--k", "1"]) == 0
    shown = capsys.readouterr().out
    assert "marconi sent" in shown
    assert "\x1b" not in shown


def test_questions_from_stdin_as_json(table, reader, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n\npenicillin\n"))
    capsys.readouterr()
    assert main(["ask", table, "--json", "--k", "1", "--reader", reader]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["passages"][0]["id"] for one in told] == ["radium", "penicillin"]
    for one in told:
        answer = one["answer"]
        text = PASSAGES[one["passages"][0]["id"]]
        assert answer is None or text[answer["start"] : answer["end"]] == answer["text"]


def test_a_question_encoder_finds_passages_of_its_partner(tmp_path):
    shared = {"embatch_space": "my-dpr"}
    passages = model_of(tmp_path / "ctx", "DPRContextEncoder", 1, **shared)
    questions = model_of(tmp_path / "q", "DPRQuestionEncoder", 2, **shared)
    stranger = model_of(tmp_path / "x", "DPRQuestionEncoder", 3)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    place = str(tmp_path / "t")
    asked = ["--id-column", "key", "--text-column", "text", "--model", passages]
    assert main(["embed", str(tmp_path / "p.jsonl"), place, *asked]) == 0
    told = Asker(AskConfig(place, model=questions, k=3))(QUESTION)
    words = transformers.AutoTokenizer.from_pretrained(passages)
    with torch.inference_mode():
        asked_for = transformers.DPRQuestionEncoder.from_pretrained(questions).eval()(
            **words(QUESTION, return_tensors="pt")
        )
        held = transformers.DPRContextEncoder.from_pretrained(passages).eval()
        scores = {
            key: float(
                (
                    asked_for.pooler_output
                    @ held(**words(text, return_tensors="pt")).pooler_output.T
                )[0]
            )
            for key, text in PASSAGES.items()
        }
    assert [one["id"] for one in told["passages"]] == sorted(scores, key=lambda key: -scores[key])
    for one in told["passages"]:
        assert one["similarity"] == pytest.approx(scores[one["id"]], abs=1e-4)
    with pytest.raises(ModelError, match="they cannot be compared"):
        Asker(AskConfig(place, model=stranger))(QUESTION)


def test_known_question_encoders_are_known_and_share_the_space():
    for spec in MODELS.values():
        if spec.questions:
            assert MODELS[spec.questions].space == spec.space is not None


def test_spans_by_hand():
    ends = np.array([0.0, 0.0, 2.0])
    span, none = best_span(np.array([0.0, 2.0, 0.0]), ends, np.array([False, True, True]))
    assert span[:2] == (1, 2)
    assert span[2] == pytest.approx((np.exp(2) / (np.exp(2) + 2)) ** 2)
    assert none == pytest.approx(1 / (np.exp(2) + 2) ** 2)
    backwards, _ = best_span(
        np.array([0.0, 0.0, 9.0]), np.array([0.0, 9.0, 0.0]), np.array([0, 1, 1], bool)
    )
    assert backwards[0] <= backwards[1]
    assert best_span(ends, ends, np.zeros(3, bool))[0] is None
    far = np.zeros(64)
    far[1], ends = 9.0, np.roll(np.eye(64)[0] * 9, 63)
    inside = np.arange(64) > 0
    first, last, _ = best_span(far, ends, inside)[0]
    assert last - first < 30


def test_a_reader_is_what_its_model_says(reader):
    words = transformers.AutoTokenizer.from_pretrained(reader)
    network = transformers.AutoModelForQuestionAnswering.from_pretrained(reader).eval()
    n_found = 0
    for passage in PASSAGES.values():
        inputs = words(QUESTION, passage, return_tensors="pt", return_offsets_mapping=True)
        offsets = inputs.pop("offset_mapping")[0].tolist()
        of_passage = [kind == 1 for kind in words(QUESTION, passage).sequence_ids(0)]
        with torch.inference_mode():
            told = network(**inputs)
        allowed = [i for i, inside in enumerate(of_passage) if inside or i == 0]
        shares = [torch.softmax(x[0, allowed], 0) for x in (told.start_logits, told.end_logits)]
        best = max(
            (float(shares[0][a] * shares[1][b]), allowed[a], allowed[b])
            for a in range(1, len(allowed))
            for b in range(a, len(allowed))
        )
        span = SpanReader(reader).read(QUESTION, [passage])[0]
        if float(shares[0][0] * shares[1][0]) >= best[0]:
            assert span is None
            continue
        assert span.score == pytest.approx(best[0], abs=1e-6)
        assert (span.start, span.end) == (offsets[best[1]][0], offsets[best[2]][1])
        assert passage[span.start : span.end] == span.text
        n_found += 1
    assert n_found


def test_a_long_passage_is_read_to_its_end(reader):
    text = " ".join(["the sea ."] * 60)
    spans = SpanReader(reader).read(QUESTION, [text, f"{text} marie curie discovered radium ."])
    assert len(spans) == 2
    for span in filter(None, spans):
        assert 0 <= span.start < span.end <= len(text) + 40


def test_mistakes_are_told(tmp_path, table, reader, royal):
    with pytest.raises(ValueError, match="--k is 0"):
        AskConfig(table, k=0)
    with pytest.raises(ModelError, match="neither a folder nor a name on the hub"):
        Asker(AskConfig(table, reader="./nowhere"))
    with pytest.raises(ModelError, match="is no reader: its config.json names BertModel"):
        Asker(AskConfig(table, reader=model_of(tmp_path / "plain", "BertModel")))
    with_adapter = model_of(tmp_path / "adapted", "BertForQuestionAnswering")
    (tmp_path / "adapted" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapted holds an adapter"):
        Asker(AskConfig(table, reader=with_adapter))
    with pytest.raises(ModelError, match="expected at most 31: a half"):
        SpanReader(reader).read("radium " * 40, ["radium"])
    without = fill(tmp_path, "bare", rows(), no_text=True)
    with pytest.raises(StoreError, match="bare is a table embedded with --no-text: it holds no"):
        Asker(AskConfig(without))
    with pytest.raises(StoreError, match="is a table of words: it holds no texts to find answers"):
        Asker(AskConfig(royal))
