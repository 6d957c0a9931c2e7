import json
import shutil

import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import load_facebook_vectors, save_facebook_model
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from actors.checkpoints import resolve
from actors.encoders.words import WORD, WordEncoder, read_word_weights
from actors.engine.engine import NOT_FINITE, Engine
from actors.files.vocabulary import MOST_TOKENS
from actors.models import ModelError
from tests.support.word_files import GENSIM, copied, written

FASTTEXT = str(GENSIM / "lee_fasttext_new.bin")
TEXTS = [
    "The government said the fire was in the south of the country.",
    "Palestinian leader Yasser Arafat: attacks, attacks and attacks!",
    "police",
    "Two people were injured in the bus, police said on Sunday.",
]


@pytest.fixture(scope="module")
def lee(tmp_path_factory):
    return str(copied("word2vec_pre_kv_c", tmp_path_factory.mktemp("words") / "lee.txt"))


@pytest.fixture
def small(tmp_path):
    words = {"us": [1, 0], "US": [0, 1], "berlin": [3, 4], "don't": [0, -2], "not": [-3, -4]}
    return str(written(tmp_path / "small.txt", words))


def forms(encoder, text):
    return encoder.tokenize([text]).ids[0]


def embedded(encoder, texts):
    encoded = Engine(encoder).encode(texts)
    assert encoded.errors == {}
    return encoded.vectors


def weights_of(path, texts):
    """The file that `embatch words weights` writes, by scikit-learn's counts."""
    counter = CountVectorizer(tokenizer=WORD.findall, token_pattern=None, binary=True)
    counts = np.asarray(counter.fit_transform(texts).sum(axis=0))[0].tolist()
    held = dict(zip(counter.get_feature_names_out().tolist(), counts, strict=True))
    path.write_text(json.dumps({"documents": len(texts), "words": held}))
    return str(path)


def test_a_text_is_the_mean_of_its_words(lee):
    kv = KeyedVectors.load_word2vec_format(lee)
    found = embedded(WordEncoder(lee), TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        known = [w if w in kv else w.lower() for w in WORD.findall(text) if w.lower() in kv]
        assert known
        mean = kv.get_mean_vector(known, pre_normalize=False, post_normalize=True)
        np.testing.assert_allclose(vector, mean, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_neither_order_nor_company_changes_a_vector(lee):
    encoder = WordEncoder(lee)
    together = embedded(encoder, TEXTS)
    np.testing.assert_array_equal(embedded(encoder, TEXTS[::-1])[::-1], together)
    alone = np.concatenate([embedded(encoder, [text]) for text in TEXTS])
    np.testing.assert_array_equal(alone, together)
    assert encoder.forward([]).shape == (0, 10)
    assert embedded(encoder, []).shape == (0, 10)


def test_fasttext_makes_vectors_of_words_that_it_does_not_hold():
    kv = load_facebook_vectors(FASTTEXT)
    encoder = WordEncoder(FASTTEXT)
    for word in ("the", "zebras", "Rukavinas", "ß"):
        np.testing.assert_allclose(encoder.vector(word), kv.get_vector(word), atol=1e-5)
    assert "zebras" not in kv.key_to_index
    vector = embedded(encoder, ["zebras said unquestionably"])[0]
    mean = np.mean([kv[word] for word in ("zebras", "said", "unquestionably")], axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert encoder.tokenize(["zebras said unquestionably"]).n_unknown == 0


def test_a_word_shorter_than_any_part_is_unknown(tmp_path):
    model = FastText([["abcdef", "ghijkl"]], vector_size=4, min_count=1, min_n=5, bucket=20)
    save_facebook_model(model, str(tmp_path / "long.bin"))
    encoder = WordEncoder(str(tmp_path / "long.bin"))
    assert encoder.vector("abcdefg") is not None
    assert encoder.vector("ab") is None
    assert encoder.tokenize(["abcdef ab"]).n_unknown == 1
    with pytest.raises(ValueError, match="no word of the text is in the vocabulary"):
        encoder.tokenize(["ab"])


def test_a_word_is_looked_up_as_it_stands_then_in_lower_case(small):
    encoder = WordEncoder(small)
    assert forms(encoder, "US Us us BERLIN's DON'T Berlin") == ["US", "us", "us", "don't", "berlin"]
    assert forms(WordEncoder(FASTTEXT), "THE Australian zEbRa") == ["the", "Australian", "zEbRa"]


def test_the_first_of_two_equal_words_counts(tmp_path):
    (tmp_path / "twice.txt").write_text("3 2\na 1 0\na 0 1\nb 0 2\n")
    encoder = WordEncoder(str(tmp_path / "twice.txt"))
    assert encoder.vector("a").tolist() == [1, 0]
    assert encoder.vector("b").tolist() == [0, 2]


def test_unknown_words_are_counted_and_a_text_of_them_fails_alone(small):
    encoder = WordEncoder(small)
    tokens = encoder.tokenize(["Berlin is not Bonn", "us"])
    assert (tokens.ids, tokens.n_unknown) == ([["berlin", "not"], ["us"]], 2)
    for text in ("Bonn", "", "?!"):
        with pytest.raises(ValueError, match="no word of the text is in the vocabulary"):
            encoder.tokenize([text])
    encoded = Engine(encoder).encode(["us in Berlin", "Bonn", "us"])
    assert encoded.errors == {1: "ValueError: no word of the text is in the vocabulary"}
    assert encoded.n_tokens.tolist() == [2, 0, 1]
    assert encoded.usage.n_unknown == 1
    assert encoded.vectors[2].tolist() == [1, 0]


def test_words_that_cancel_out_have_no_direction(small):
    encoded = Engine(WordEncoder(small)).encode(["berlin not", "berlin"])
    assert encoded.errors == {0: NOT_FINITE}
    assert encoded.vectors[1].tolist() == pytest.approx([0.6, 0.8])


def test_a_text_of_too_many_words_is_cut_and_marked(small):
    tokens = WordEncoder(small).tokenize(["us " * (MOST_TOKENS + 1), "us"])
    assert len(tokens.ids[0]) == MOST_TOKENS
    assert tokens.truncated.tolist() == [True, False]


def test_spans_are_those_of_all_words(small):
    text = "Berlin isn't – rock’n’roll_2 ?"
    spans = WordEncoder(small).spans(text)
    assert [text[a:b] for a, b in spans] == ["Berlin", "isn't", "rock’n’roll_2"]
    assert spans.dtype == np.int64
    assert WordEncoder(small).spans("?!").tolist() == [[0, 2]]


# Weights


def test_weights_are_those_of_scikit_learn(tmp_path):
    weights, rarest = read_word_weights(weights_of(tmp_path / "w.json", TEXTS))
    tfidf = TfidfVectorizer(tokenizer=WORD.findall, token_pattern=None, smooth_idf=True).fit(TEXTS)
    expected = dict(zip(tfidf.get_feature_names_out(), tfidf.idf_, strict=True))
    assert weights == pytest.approx(expected)
    assert rarest == pytest.approx(np.log(1 + len(TEXTS)) + 1)
    assert rarest > max(weights.values())


def test_rare_words_count_more(lee, tmp_path):
    kv = KeyedVectors.load_word2vec_format(lee)
    counted = ["The police said", "the police", "the fire in the south", "of the"]
    found = embedded(WordEncoder(lee, word_weights=weights_of(tmp_path / "w.json", counted)), TEXTS)
    tfidf = TfidfVectorizer(
        tokenizer=WORD.findall, token_pattern=None, vocabulary=kv.index_to_key, norm=None
    )
    tfidf = tfidf.fit(counted)
    for text, vector in zip(TEXTS, found, strict=True):
        mean = tfidf.transform([text.lower()]).toarray()[0] @ kv.vectors
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    plain = embedded(WordEncoder(lee), TEXTS)
    assert np.abs(found - plain)[[0, 3]].max(axis=1).min() > 1e-4
    np.testing.assert_allclose(found[2], plain[2], atol=1e-6)  # one word


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", "{}", '{"documents": 2}', '{"documents": 2, "words": {"a": "b"}}']
    + ['{"documents": 2, "words": 3}', '{"documents": 2, "words": {"a": -1}}'],
)
def test_a_file_that_holds_no_weights(text, lee, tmp_path):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(
        ModelError, match=r"w\.json holds no weights of words.*embatch words weights"
    ):
        WordEncoder(lee, word_weights=str(tmp_path / "w.json"))


# As a model


def test_a_file_is_a_model_wherever_it_lies(lee, tmp_path, monkeypatch):
    model = resolve(lee)
    assert (model.name, model.dim, model.unit, model.spec.family) == ("lee.txt", 10, True, "words")
    copy = tmp_path / "other name.txt"
    shutil.copy(lee, copy)
    monkeypatch.chdir(tmp_path)
    again = resolve("other name.txt")
    assert again.folder == str(copy)
    assert (again.space, again.recipe) == (model.space, model.recipe)
    assert again.size_bytes == copy.stat().st_size
    np.testing.assert_array_equal(embedded(again.load(), TEXTS), embedded(model.load(), TEXTS))
    copy.write_text(copy.read_text().replace("the -0.561106", "the -0.561107"))
    assert resolve(str(copy)).space != model.space


def test_vectors_beside_a_kv_file_are_a_part_of_the_model(lee, tmp_path):
    kv = KeyedVectors.load_word2vec_format(lee)
    kv.save(str(tmp_path / "a.kv"), separately=["vectors"])
    before = resolve(str(tmp_path / "a.kv"))
    np.save(tmp_path / "a.kv.vectors.npy", -kv.vectors)
    assert resolve(str(tmp_path / "a.kv")).space != before.space


def test_weights_make_another_recipe_in_the_same_space(lee, tmp_path):
    plain = resolve(lee)
    one = resolve(lee, word_weights=weights_of(tmp_path / "one.json", TEXTS))
    other = resolve(lee, word_weights=weights_of(tmp_path / "other.json", TEXTS[:2]))
    copy = resolve(lee, word_weights=weights_of(tmp_path / "copy.json", TEXTS))
    assert plain.space == one.space == other.space
    assert len({plain.recipe, one.recipe, other.recipe}) == 3
    assert copy.recipe == one.recipe
    weighted = embedded(one.load(), TEXTS)
    assert np.abs(weighted - embedded(plain.load(), TEXTS)).max() > 1e-4


@pytest.mark.parametrize("option", [{"prompt": "query: "}, {"max_tokens": 8}, {"labels": True}])
def test_what_words_do_not_take(lee, option):
    with pytest.raises(ModelError, match="takes no prompt, no --max-tokens and no --labels"):
        resolve(lee, **option)


def test_mistakes_are_told(lee, tmp_path):
    with pytest.raises(ModelError, match=r"lee\.txt embeds text, and SOURCE holds images"):
        resolve(lee, modality="image")
    with pytest.raises(ModelError, match="leave out --word-weights"):
        resolve("all-MiniLM-L6-v2", word_weights=str(tmp_path / "w.json"))
    with pytest.raises(ModelError, match=r"missing\.bin does not exist.*\.bin, \.vec"):
        resolve(str(tmp_path / "missing.bin"))
    with pytest.raises(ModelError, match=r"w\.json.*embatch words weights"):
        resolve(lee, word_weights=str(tmp_path / "w.json"))
    moved = tmp_path / "moved.txt"
    shutil.copy(lee, moved)
    model = resolve(str(moved))
    moved.unlink()
    with pytest.raises(ModelError, match=r"moved\.txt is not on this machine"):
        model.load()


def test_a_file_with_another_ending_is_told_to_be_renamed(tmp_path):
    path = copied("word2vec_pre_kv_c", tmp_path / "vectors")
    with pytest.raises(ModelError, match=r"ends in \.bin, \.vec") as told:
        resolve(str(path))
    assert "does not exist" not in str(told.value)
