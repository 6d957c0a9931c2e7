import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from actors.checkpoints import resolve
from jobs.word_vectors.filling import NO_DIRECTION, NOT_TEXT
from schemas.delta.store import Table
from schemas.vectors import vectors_of
from tests.support.tables import jsonl, reasons
from tests.support.word_files import (
    GENSIM,
    assert_holds,
    copied,
    raw,
    says,
    table_at,
    words_of,
    written,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


def test_a_table_of_word2vec(lee, lee_kv, embatch):
    assert_holds(lee, lee_kv)
    told = embatch("status", lee)
    assert (told["rows"], told["failures"]) == (1750, {})


def test_a_table_of_fasttext_has_frequencies(parts, parts_kv):
    assert_holds(parts, parts_kv, parts_kv.expandos["count"].tolist())


def test_a_second_run_changes_nothing_and_another_file_all(tmp_path, embatch):
    path = written(tmp_path / "a.txt", {"a": [3, 4], "b": [0, 2]})
    first = embatch("words", path, tmp_path / "t")
    assert (first["n"], first["dim"], first["unchanged"], first["failed"]) == (2, 2, False, {})
    again = embatch("words", path, tmp_path / "t")
    assert again == first | {"unchanged": True}
    written(path, {"c": [1, 2, 2], "a": [1, 0, 0], "b": [0, 5, 0]})
    other = embatch("words", path, tmp_path / "t")
    assert (other["n"], other["dim"], other["unchanged"]) == (3, 3, False)
    rows = words_of(str(tmp_path / "t"))
    assert rows["id"].to_pylist() == ["c", "a", "b"]
    assert rows["norm"].to_pylist() == [3, 1, 5]
    assert vectors_of(rows["embedding"])[2].tolist() == [0, 1, 0]


class Killed(BaseException):
    pass


def killed(*_):
    raise Killed


def test_a_run_that_ends_before_its_rows_are_there_is_not_taken_for_done(
    tmp_path, embatch, monkeypatch
):
    path = written(tmp_path / "a.txt", {"a": [3, 4], "b": [0, 1]})
    with monkeypatch.context() as patch:
        patch.setattr(Table, "overwrite", killed)
        with pytest.raises(Killed):
            embatch("words", path, tmp_path / "t")
    assert Table.open(str(tmp_path / "t")).files() == []
    told = embatch("words", path, tmp_path / "t")
    assert (told["n"], told["unchanged"]) == (2, False)
    assert len(Table.open(str(tmp_path / "t")).read()) == 2


def test_what_has_no_row_is_told(tmp_path, embatch):
    pairs = [(b"a", [3, 4]), (b"zero", [0, 0]), (b"a", [1, 1]), (b"\xff\xfe", [1, 2])]
    pairs += [(b"far", ["inf", 1]), (b"b", [1, 0]), (b"\xe3", [1, 2]), (b"none", ["nan", 1])]
    path = raw(tmp_path / "a.txt", pairs)
    told = embatch("words", path, tmp_path / "t")
    assert (told["n"], told["duplicates"]) == (2, 1)
    assert told["failed"] == {NO_DIRECTION: 3, NOT_TEXT: 2}
    rows = words_of(str(tmp_path / "t"))
    assert (rows["id"].to_pylist(), rows["rank"].to_pylist()) == (["a", "b"], [0, 5])
    assert vectors_of(rows["embedding"])[0].tolist() == pytest.approx([0.6, 0.8])
    assert reasons(tmp_path / "t") == [
        (1, "zero", NO_DIRECTION),
        (3, None, NOT_TEXT),
        (4, "far", NO_DIRECTION),
        (6, None, NOT_TEXT),
        (7, "none", NO_DIRECTION),
    ]
    raw(path, [(b"a", [3, 4]), (b"zero", [1, 0])])
    assert embatch("words", path, tmp_path / "t")["failed"] == {}
    assert reasons(tmp_path / "t") == []


def test_words_in_another_encoding(tmp_path, embatch):
    path = copied("w2v_keyedvectors_load_test.modeldata", tmp_path / "cut_words.txt")
    says(embatch("words", path, tmp_path / "t"), 1, f"no word with a vector: {{'{NOT_TEXT}': 2}}")
    told = embatch("words", path, tmp_path / "t", "--encoding", "latin-1")
    assert (told["n"], told["failed"]) == (2, {})
    assert reasons(tmp_path / "t") == []
    says(
        embatch("words", path, tmp_path / "t", "--encoding", "klingon"),
        2,
        "--encoding klingon is unknown",
    )
    model = GENSIM / "cp852_fasttext.bin"
    assert embatch("words", model, tmp_path / "cp", "--encoding", "cp852")["n"] == 171
    assert set(words_of(str(tmp_path / "cp"))["id"].to_pylist()) >= {"který", "bylo"}


@pytest.mark.parametrize(
    ("name", "ending"),
    [("euclidean_vectors.bin", "bin"), ("word2vec_pre_kv_c", "txt"), ("lee_fasttext.bin", "bin")],
)
def test_of_a_damaged_file_nothing_is_written(name, ending, tmp_path, embatch):
    table, path = str(tmp_path / "t"), copied(name, tmp_path / f"whole.{ending}")
    half = tmp_path / f"half.{ending}"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    says(embatch("words", half, table), 1, f"half.{ending}")
    assert [one for one in tmp_path.iterdir() if one not in (path, half)] == []
    table_at(table, path)
    before = Table.open(table).version, words_of(table)
    assert embatch("words", half, table)[0] == 1
    assert (Table.open(table).version, words_of(table)) == before


@pytest.mark.slow
def test_tokens_of_a_transformer(tmp_path, embatch):
    told = embatch("words", "all-MiniLM-L6-v2", tmp_path / "t", "--token-embeddings")
    folder = resolve("all-MiniLM-L6-v2").folder
    matrix = load_file(Path(folder) / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert (told["n"], told["dim"], told["failed"]) == (*matrix.shape, {})
    rows = words_of(str(tmp_path / "t"))
    vectors = vectors_of(rows["embedding"]) * rows["norm"].to_numpy()[:, None]
    np.testing.assert_allclose(vectors, matrix, atol=1e-6)
    words = rows["id"].to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert words.index("berlin") == tokenizer.convert_tokens_to_ids("berlin")
    for name, distances in {
        "smallest_norms": np.linalg.norm(matrix, axis=1),
        "nearest_to_centroid": np.linalg.norm(matrix - matrix.mean(axis=0), axis=1),
    }.items():
        expected = np.argsort(distances)[:10]
        assert [word for word, _ in told[name]] == [words[row] for row in expected]
        assert [value for _, value in told[name]] == pytest.approx(distances[expected], abs=1e-5)
    again = embatch("words", "all-MiniLM-L6-v2", tmp_path / "t", "--token-embeddings")
    assert again["unchanged"]
    assert embatch("words", "similar", tmp_path / "t", "king", "--k", "1")["words"][0]


def test_which_models_have_words(tmp_path, embatch):
    path = written(tmp_path / "a.txt", {"a": [3, 4]})
    for arguments, words in {
        ("all-MiniLM-L6-v2",): "Its input tokens come with --token-embeddings",
        (path, "--token-embeddings"): "a file of words, which has no --token-embeddings",
        ("use-multilingual-v3", "--token-embeddings"): "no transformer: it has no input embeddings",
        (tmp_path / "missing.bin",): "missing.bin does not exist",
    }.items():
        model, *options = arguments
        says(embatch("words", model, tmp_path / "t", *options), 1, words)
    assert not (tmp_path / "t").exists()


def test_other_tables_are_left_alone(lee, tmp_path, embatch):
    source = jsonl(tmp_path / "a.jsonl", [{"text": "the government said"}])
    model = Path(lee).parent / "lee.txt"
    embatch("embed", source, tmp_path / "texts", "--model", model)
    says(embatch("words", model, tmp_path / "texts"), 1, "Give another")
    shutil.copytree(lee, tmp_path / "words")
    says(embatch("embed", source, tmp_path / "words", "--model", model), 1, "words")
    assert Table.open(str(tmp_path / "words")).version == 1


def test_follow_up_jobs_take_the_table(lee, lee_kv, tmp_path, embatch):
    near, places = str(tmp_path / "near"), str(tmp_path / "map")
    assert embatch("neighbours", lee, near, "--k", "3")["n"] == 1750
    found = Table.open(near).read().filter(pc.field("id") == "police").sort_by("rank")
    expected = [value for _, value in lee_kv.most_similar("police", topn=3)]
    assert found["similarity"].to_pylist() == pytest.approx(expected, abs=1e-5)
    assert embatch("project", lee, places, "--method", "pca")["n"] == 1750
    page = tmp_path / "page.html"
    assert embatch("report", lee, places, near, "--out", page)["rows"] == 1750
    assert "palestinian" in page.read_text(encoding="utf-8")
    hit = embatch("search", lee, "Police", "--k", "1")["hits"][0]
    assert (hit["id"], hit["similarity"]) == ("police", pytest.approx(1, abs=1e-5))
    says(embatch("search", lee, "xqzw"), 1, "no word of the text is in the vocabulary")
