import io
import json

import numpy as np
import pytest
import torch
import transformers

from actors.heads.reader import SpanReader, best_span
from actors.models import MODELS, ModelError
from jobs.ask import AskConfig, Asker
from jobs.cli import main
from schemas.delta.store import StoreError
from tests.support.tables import fill
from tests.support.tiny_bert import tiny_bert

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


def pair(folder, passages="dpr-ctx", questions="dpr-question", **shared):
    """A pair of encoders, and a table that the first one made."""
    ctx = model_of(folder / passages, "DPRContextEncoder", 1, **shared)
    question = model_of(folder / questions, "DPRQuestionEncoder", 2, **shared)
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return ctx, question, embedded(folder, ctx)


def embedded(folder, model, *more):
    place = str(folder / "t")
    asked = ["--id-column", "key", "--text-column", "text", "--model", model]
    asked += ["--precision", "fp32", *more]
    assert main(["embed", str(folder / "p.jsonl"), place, *asked]) == 0
    return place


def assert_asked_of(told, ctx, question):
    """Similarities are transformers' own of a question and passages."""
    words = transformers.AutoTokenizer.from_pretrained(ctx)
    encoders = [
        transformers.DPRQuestionEncoder.from_pretrained(question).eval(),
        transformers.DPRContextEncoder.from_pretrained(ctx).eval(),
    ]
    with torch.inference_mode():
        asked, *held = (
            encoders[bool(at)](**words(text, return_tensors="pt")).pooler_output[0]
            for at, text in enumerate([QUESTION, *PASSAGES.values()])
        )
    scores = {key: float(asked @ one) for key, one in zip(PASSAGES, held, strict=True)}
    assert [one["id"] for one in told["passages"]] == sorted(scores, key=lambda key: -scores[key])
    for one in told["passages"]:
        assert one["similarity"] == pytest.approx(scores[one["id"]], abs=1e-4)


def test_a_pair_in_local_folders_finds_itself_by_its_names(tmp_path, capsys):
    ctx, question, place = pair(tmp_path)
    model_of(tmp_path / "dpr-reader", "BertModel")
    assert_asked_of(Asker(AskConfig(place, k=3))(QUESTION), ctx, question)
    said = f"questions are embedded by {question}, the partner of dpr-ctx by its name"
    assert said in capsys.readouterr().err
    assert_asked_of(Asker(AskConfig(place, model=question, k=3))(QUESTION), ctx, question)


@pytest.mark.parametrize("named", [True, False])
def test_a_pair_that_declares_one_space_finds_itself(tmp_path, capsys, named):
    ctx, question, place = pair(tmp_path, "c", "one", embatch_space="my-dpr")
    model_of(tmp_path / "other", "DPRQuestionEncoder", 3)
    model = question if named else ""
    assert_asked_of(Asker(AskConfig(place, model=model, k=3))(QUESTION), ctx, question)
    assert "by its name" not in capsys.readouterr().err
    model_of(tmp_path / "two", "DPRQuestionEncoder", 4, embatch_space="my-dpr")
    with pytest.raises(ModelError, match="/one, .*/two all declare the space 'my-dpr'"):
        Asker(AskConfig(place))(QUESTION)


def test_passages_are_never_asked_by_their_own_encoder(tmp_path):
    ctx, question, place = pair(tmp_path, "first", "second")
    advice = (
        r"A question needs the encoder .*second\). Put that folder beside .*first, named alike but"
        r" for `question` .* write one line into the config.json of both, \"embatch_space\": \"NAME\""
    )
    with pytest.raises(ModelError, match=f"first is DPR's encoder of passages. {advice}"):
        Asker(AskConfig(place))(QUESTION)
    with pytest.raises(
        ModelError, match=f"Nothing says that .*second embeds questions for .*{advice}"
    ):
        Asker(AskConfig(place, model=question))(QUESTION)
    with pytest.raises(ModelError, match="first is DPR's encoder of passages"):
        Asker(AskConfig(place, model=ctx))(QUESTION)


def test_what_the_advice_says_helps(tmp_path, embatch):
    ctx, question, place = pair(tmp_path, "first", "second")
    for folder in (ctx, question):
        path = tmp_path / folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"embatch_space": "NAME"}))
    assert_asked_of(Asker(AskConfig(place, k=3))(QUESTION), ctx, question)  # the same weights
    asked = ["--id-column", "key", "--text-column", "text", "--model", ctx]
    code, said = embatch("embed", tmp_path / "p.jsonl", place, *asked)
    assert code == 1
    assert "holds vectors of another first (32): its space is NAME, was " in said
    assert "--replace to embed all its rows anew" in said
    embedded(tmp_path, ctx, "--replace")
    for model in ("", question):
        assert_asked_of(Asker(AskConfig(place, model=model, k=3))(QUESTION), ctx, question)


def test_other_weights_under_one_name_are_said_to_be_others(tmp_path):
    ctx, _, place = pair(tmp_path)
    model_of(tmp_path / "dpr-ctx", "DPRContextEncoder", 5)
    with pytest.raises(
        ModelError, match=r"dpr-ctx makes others \(its weights are others; its space"
    ):
        Asker(AskConfig(place))(QUESTION)
    with pytest.raises(
        ModelError, match="and all-MiniLM-L6-v2 makes others: they cannot be compared"
    ):
        Asker(AskConfig(place, model="all-MiniLM-L6-v2"))(QUESTION)


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
