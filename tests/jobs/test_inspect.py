import json

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from actors.checkpoints import resolve
from actors.models import ModelError
from jobs.cli import main
from jobs.inspect import InspectConfig, run, word_by_layer
from tests.support.tiny_bert import tiny_bert

MINILM = "all-MiniLM-L6-v2"
RIVER, MONEY = "He sat on the bank of the river.", "The bank lends money to unbelievers."


def test_a_word_in_two_contexts_layer_by_layer():
    summary = run(InspectConfig(MINILM, RIVER, MONEY, word="Bank", tolerance=0.05))
    folder = resolve(MINILM).folder
    words = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [
            network(**words(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            for text in (RIVER, MONEY)
        ]
    places = [words.tokenize(text).index("bank") + 1 for text in (RIVER, MONEY)]
    (word,) = summary.words
    assert word.tokens == [["bank"], ["bank"]]
    assert len(word.cosine) == summary.n_layers + 1 == 7
    for layer in range(7):
        one, other = (state[layer][0, place] for state, place in zip(states, places, strict=True))
        cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
        assert word.cosine[layer] == pytest.approx(float(cosine), abs=1e-5)
        equal = ((one - other).abs() <= 0.05).float().mean()
        assert word.equal_share[layer] == pytest.approx(float(equal), abs=1e-5)
    assert word.cosine[-1] < word.cosine[0]
    vectors = SentenceTransformer(folder, device="cpu").encode([RIVER, MONEY])
    assert summary.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)


def test_tokens_mask_and_what_is_cut_off(capsys):
    assert main(["inspect", MINILM, MONEY, "--max-tokens", "6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (text,) = told["texts"]
    assert text["tokens"] == ["[CLS]", "the", "bank", "lend", "##s", "[SEP]"]
    assert text["attended"] == [1] * 6
    assert text["n_cut"] > 0
    assert told["pooling"] == "mean"
    assert told["similarity"] is None
    assert main(["inspect", MINILM, MONEY, RIVER, "--max-tokens", "6"]) == 0
    shown = capsys.readouterr().out
    assert "Text 1 is cut" in shown
    assert "the mean of all tokens" in shown


def test_a_word_of_several_tokens_is_their_mean():
    summary = run(InspectConfig(MINILM, "unbelievers sing", "sing, unbelievers"))
    assert {word.word for word in summary.words} == {"unbelievers", "sing"}
    (word,) = (word for word in summary.words if word.word == "unbelievers")
    assert len(word.tokens[0]) > 1
    same = run(InspectConfig(MINILM, RIVER, RIVER))
    assert all(np.allclose(word.cosine, 1, atol=1e-5) for word in same.words)
    assert all(word.equal_share == [1.0] * 7 for word in same.words)


def test_by_hand():
    cosine, equal = word_by_layer(np.array([[3.0, 4.0]]), np.array([[3.0, 0.0]]), 0)
    assert (cosine.tolist(), equal.tolist()) == ([0.6], [0.5])


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match="TEXT is empty"):
        InspectConfig(MINILM, " ")
    with pytest.raises(ValueError, match="--tolerance is -1"):
        InspectConfig(MINILM, "a", tolerance=-1)
    with pytest.raises(ModelError, match="do not share a word 'goal' .* They share: the, bank"):
        run(InspectConfig(MINILM, "the bank", "the bank", word="goal"))
    with pytest.raises(ModelError, match="no plain transformer of texts"):
        run(InspectConfig("use-multilingual-v3", "a"))
    one = tiny_bert(tmp_path / "bert", ["a", "b"])
    assert run(InspectConfig(one, "a b", "b b")).words[0].word == "b"
