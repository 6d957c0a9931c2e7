from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from actors.encoders.words import WORD, read_word_weights
from schemas.delta.store import Table
from schemas.vectors import vectors_of
from tests.support.tables import jsonl, reasons
from tests.support.word_files import ROYAL, says, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
CORPUS = [
    {"text": "Police said the xqzw was in the bus."},
    {"text": "The president and the xqzw"},
    {"text": "xqzw"},
]


def test_texts_are_embedded_by_their_words(parts, parts_kv, lee, tmp_path, embatch):
    source = jsonl(tmp_path / "corpus.jsonl", CORPUS)
    told = embatch("embed", source, tmp_path / "t", "--model", Path(parts).parent / "lee.bin")
    assert (told["embedded"], told["unknown_share"]) == (3, 0)
    rows = Table.open(str(tmp_path / "t")).read()
    for text, vector in zip(rows["text"].to_pylist(), vectors_of(rows["embedding"]), strict=True):
        words = [
            word if word in parts_kv.key_to_index else word.lower() for word in WORD.findall(text)
        ]
        mean = np.mean([parts_kv.get_vector(word) for word in words], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    other = [str(tmp_path / "w"), "--model", str(Path(lee).parent / "lee.txt")]
    told = embatch("embed", source, *other, "--max-failures", "0.5")
    assert (told["embedded"], told["failed"], told["n_tokens"]) == (2, 1, 11)
    assert told["unknown_share"] == pytest.approx(2 / 13, abs=1e-4)
    assert reasons(tmp_path / "w")[0][2].endswith("no word of the text is in the vocabulary")


def test_a_table_finds_its_file_of_words_from_any_folder(tmp_path, monkeypatch, embatch):
    written(tmp_path / "royal.txt", ROYAL)
    jsonl(tmp_path / "corpus.jsonl", [{"text": "a king"}, {"text": "a woman"}])
    monkeypatch.chdir(tmp_path)
    embatch("embed", "corpus.jsonl", "texts", "--model", "royal.txt")
    embatch("words", "royal.txt", "words")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for table in ("words", "texts"):
        found = embatch("search", tmp_path / table, "king", "--k", "1")
        assert "hits" in found, found
        assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_weights_are_counted_and_used(royal, tmp_path, embatch):
    model, file = tmp_path / "royal.txt", tmp_path / "w.json"
    texts = ["The king, a man", "the King and a queen", "the woman and a man", "The queen"]
    source = jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])
    told = embatch("words", "weights", source, file)
    tfidf = TfidfVectorizer(tokenizer=WORD.findall, token_pattern=None, norm=None)
    weights = tfidf.fit_transform(texts).toarray()
    names = tfidf.get_feature_names_out().tolist()
    assert (told["documents"], told["words"]) == (4, len(names))
    assert read_word_weights(str(file))[0] == pytest.approx(
        dict(zip(names, tfidf.idf_, strict=True))
    )
    embatch("embed", source, tmp_path / "t", "--model", model)
    again = embatch("embed", source, tmp_path / "t", "--model", model, "--word-weights", file)
    assert (again["replaced"], again["unchanged"]) == (4, 0)
    rows = Table.open(str(tmp_path / "t")).read()
    known = np.array([ROYAL.get(name, [0, 0, 0]) for name in names])
    for text, vector in zip(rows["text"].to_pylist(), vectors_of(rows["embedding"]), strict=True):
        mean = weights[texts.index(text)] @ known
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    embatch("words", "weights", tmp_path / "t", tmp_path / "of_table.json")  # texts of a table
    assert (tmp_path / "of_table.json").read_text() == file.read_text()


def test_a_query_is_weighed_as_the_rows_were(royal, tmp_path, embatch):
    texts = ["king woman", "king queen", "king", "a king and a man"]
    source = jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])
    embatch("words", "weights", source, tmp_path / "w.json")
    options = ["--model", tmp_path / "royal.txt", "--word-weights", tmp_path / "w.json"]
    embatch("embed", source, tmp_path / "t", *options)
    hit = embatch("search", tmp_path / "t", "king woman", "--k", "1")["hits"][0]
    assert (hit["shown"], hit["similarity"]) == ("king woman", pytest.approx(1, abs=1e-5))


def test_wrong_weights_are_told_before_there_is_a_table(royal, tmp_path, embatch):
    source = jsonl(tmp_path / "corpus.jsonl", CORPUS)
    (tmp_path / "w.json").write_text("{}")
    for name in ("w.json", "missing.json"):
        options = ["--model", tmp_path / "royal.txt", "--word-weights", tmp_path / name]
        says(embatch("embed", source, tmp_path / "t", *options), 1, name)
        assert not (tmp_path / "t").exists()
    says(
        embatch("words", "weights", source, tmp_path / "w.txt"),
        2,
        "expected one that ends in .json",
    )
    says(
        embatch("words", "weights", royal, tmp_path / "new.json"),
        1,
        f"{royal} is a table of words: it holds no texts. Name their source",
    )
