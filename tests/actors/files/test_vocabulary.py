import gzip
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors, Word2Vec
from gensim.models.fasttext import load_facebook_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actors.files.vocabulary import is_vocabulary, open_vocabulary
from actors.files.word_vectors import BLOCK_WORDS
from actors.models import ModelError
from tests.support.word_files import GENSIM, copied, read, written, zipped

WORD2VEC = {
    "word2vec_pre_kv_c": False,
    "euclidean_vectors.bin": True,
    "crime-and-punishment.vec": False,
    "high_precision.kv.bin": True,
    "high_precision.kv.txt": False,
}
FASTTEXT = {
    "crime-and-punishment.bin": "utf-8",
    "lee_fasttext_new.bin": "utf-8",
    "lee_fasttext.bin": "utf-8",
    "non_ascii_fasttext.bin": "utf-8",
    "cp852_fasttext.bin": "cp852",
    "toy-model.bin": "utf-8",
}


def assert_same(vocabulary, reference):
    words, vectors = read(vocabulary)
    assert words == reference.index_to_key
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, reference.vectors[: len(words)])
    assert vocabulary.n in (len(words), None)
    assert vocabulary.dim == reference.vector_size


def lee():
    return KeyedVectors.load_word2vec_format(str(GENSIM / "word2vec_pre_kv_c"))


def size_of(path):
    return len(read(open_vocabulary(str(path)))[0])


def refused(path, match="."):
    with pytest.raises(ModelError, match=match) as told:
        size_of(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("name", WORD2VEC)
def test_word2vec_as_gensim_reads_it(name, tmp_path):
    reference = KeyedVectors.load_word2vec_format(str(GENSIM / name), binary=WORD2VEC[name])
    assert_same(open_vocabulary(str(GENSIM / name)), reference)
    assert_same(open_vocabulary(str(zipped(GENSIM / name, tmp_path / f"{name}.gz"))), reference)


@pytest.mark.parametrize("name", FASTTEXT)
def test_fasttext_as_gensim_reads_it(name):
    encoding = FASTTEXT[name]
    reference = load_facebook_vectors(str(GENSIM / name), encoding=encoding)
    vocabulary = open_vocabulary(str(GENSIM / name), encoding=encoding)
    assert_same(vocabulary, reference)
    about = {"min_n": reference.min_n, "max_n": reference.max_n, "buckets": reference.bucket}
    assert about.items() <= vocabulary.about.items()
    counts = np.concatenate([block.counts for block in vocabulary.blocks()])
    assert counts.tolist() == reference.expandos["count"].tolist()
    np.testing.assert_array_equal(vocabulary.subwords("zebras"), reference.get_vector("zebras"))


@pytest.mark.parametrize("name", ["crime-and-punishment.bin", "lee_fasttext_new.bin"])
def test_fasttext_in_a_gz(name, tmp_path):
    path = zipped(GENSIM / name, tmp_path / f"{name}.gz")
    assert_same(open_vocabulary(str(path)), load_facebook_vectors(str(GENSIM / name)))


def test_glove_which_has_no_header(tmp_path):
    text = (GENSIM / "test_glove.txt").read_bytes()
    (tmp_path / "with_header.txt").write_bytes(b"76 50\n" + text)
    reference = KeyedVectors.load_word2vec_format(str(tmp_path / "with_header.txt"))
    assert_same(open_vocabulary(str(GENSIM / "test_glove.txt")), reference)
    path = zipped(GENSIM / "test_glove.txt", tmp_path / "glove.txt.gz")
    assert_same(open_vocabulary(str(path)), reference)


def test_glove_with_lines_of_many_bytes(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 1000))
    lines = [f"w{row} {' '.join(map(str, vector))}\n" for row, vector in enumerate(vectors)]
    (tmp_path / "wide.txt").write_text("".join(lines))
    words, found = read(open_vocabulary(str(tmp_path / "wide.txt")))
    assert words == ["w0", "w1", "w2"]
    np.testing.assert_array_equal(found, vectors.astype(np.float32))


def test_words_with_blanks_as_in_glove_840b(tmp_path):
    (tmp_path / "840b.txt").write_text("the 0.1 0.2 0.3\n. . . 0.4 0.5 0.6\n1 2 3 4\n")
    words, vectors = read(open_vocabulary(str(tmp_path / "840b.txt")))
    assert words == ["the", ". . .", "1"]
    assert vectors[1].tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_line_ends_do_not_matter(tmp_path):
    for name, text in {
        "windows": b"2 2\r\na 0.5 1\r\nb 2 3\r\n",
        "no last": b"2 2\na 0.5 1\nb 2 3",
        "fasttext": b"2 2 \na 0.5 1 \nb 2 3 \n\n",
    }.items():
        (tmp_path / f"{name}.txt").write_bytes(text)
        words, vectors = read(open_vocabulary(str(tmp_path / f"{name}.txt")))
        assert (words, vectors.tolist()) == (["a", "b"], [[0.5, 1], [2, 3]])


def test_a_line_end_after_each_vector_as_the_first_word2vec_wrote_it(tmp_path):
    pairs = [(b"a", [0.5, 1]), (b"b", [2, 3])]
    data = b"".join(word + b" " + np.array(v, "<f4").tobytes() + b"\n" for word, v in pairs)
    (tmp_path / "old.bin").write_bytes(b"2 2\n" + data)
    words, vectors = read(open_vocabulary(str(tmp_path / "old.bin")))
    assert (words, vectors.tolist()) == (["a", "b"], [[0.5, 1], [2, 3]])


@pytest.mark.parametrize("binary", [True, False])
def test_more_words_than_a_block(binary, tmp_path):
    reference = KeyedVectors(2)
    n = BLOCK_WORDS + 3
    reference.add_vectors([f"w{i}" for i in range(n)], np.arange(2 * n, dtype="f4").reshape(-1, 2))
    reference.save_word2vec_format(str(tmp_path / "many.w2v"), binary=binary)
    vocabulary = open_vocabulary(str(tmp_path / "many.w2v"))
    assert [len(block.words) for block in vocabulary.blocks()] == [BLOCK_WORDS, 3]
    assert_same(vocabulary, reference)


LETTERS = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@settings(max_examples=30)
@given(
    words=st.lists(st.text(LETTERS, min_size=1), min_size=1, max_size=9, unique=True),
    data=st.data(),
    binary=st.booleans(),
)
def test_what_gensim_writes_is_read_back(tmp_path_factory, words, data, binary):
    dim = data.draw(st.integers(2, 4))
    vectors = data.draw(arrays(np.float32, (len(words), dim), elements=NUMBERS))
    kv = KeyedVectors(dim)
    kv.add_vectors(words, vectors)
    path = tmp_path_factory.getbasetemp() / "round.w2v"
    kv.save_word2vec_format(str(path), binary=binary)
    found, numbers = read(open_vocabulary(str(path)))
    assert found == words
    np.testing.assert_array_equal(numbers, vectors)


def test_words_that_are_no_text_in_the_encoding(tmp_path):
    path = copied("w2v_keyedvectors_load_test.modeldata", tmp_path / "cut_words.txt")
    words, vectors = read(open_vocabulary(str(path)))
    assert words == [None, None]
    np.testing.assert_allclose(vectors, [[0.6, 0.6, 0.6], [0.1, 0.2, 0.3]])
    assert None not in read(open_vocabulary(str(path), encoding="latin-1"))[0]


def test_which_names_are_files_of_words():
    for name in ("a.bin", "a.BIN", "a.vec", "a.txt.gz", "a.kv", "dir.d/a.w2v"):
        assert is_vocabulary(name), name
    for name in ("a.csv", "bin", "a.bin.zip", "a.json"):
        assert not is_vocabulary(name), name


def test_the_case_of_a_name_does_not_matter(tmp_path):
    small = written(tmp_path / "a.TXT", {"a": [1, 2]})
    for path in (small, zipped(small, tmp_path / "a.TXT.GZ")):
        assert is_vocabulary(str(path))
        assert read(open_vocabulary(str(path)))[0] == ["a"]


def test_what_stands_beside_a_file_is_told(tmp_path):
    path = written(tmp_path / "a.txt", {"a": [1, 2]})
    assert open_vocabulary(str(path)).about == {"kind": "word2vec"}
    beside = tmp_path / "a.txt.json"
    beside.write_text(json.dumps({"kind": "label", "texts": 7}))
    assert open_vocabulary(str(path)).about == {"kind": "label", "texts": 7}


@pytest.mark.parametrize("text", ["no json", "[1]", '"a"'])
def test_what_stands_beside_a_file_and_is_something_else(text, tmp_path):
    path = written(tmp_path / "a.txt", {"a": [1, 2]})
    (tmp_path / "a.txt.json").write_text(text)
    with pytest.raises(ModelError, match=r"a\.txt\.json"):
        open_vocabulary(str(path))


# gensim's .kv


@pytest.mark.parametrize(
    "options", [{}, {"sep_limit": 100}, {"separately": ["vectors"]}], ids=["one", "limit", "named"]
)
def test_a_kv_file(options, tmp_path):
    lee().save(str(tmp_path / "a.kv"), **options)
    assert (tmp_path / "a.kv.vectors.npy").exists() == bool(options)
    assert_same(open_vocabulary(str(tmp_path / "a.kv")), lee())


def test_a_kv_file_in_a_gz_and_one_of_other_types(tmp_path):
    lee().save(str(tmp_path / "a.kv"))
    assert_same(open_vocabulary(str(zipped(tmp_path / "a.kv", tmp_path / "a.kv.gz"))), lee())
    wide = KeyedVectors(3)
    wide.vectors, wide.index_to_key = np.array([[0.1, 0.2, 0.3]]), [7]  # float64, a number
    wide.save(str(tmp_path / "wide.kv"))
    words, vectors = read(open_vocabulary(str(tmp_path / "wide.kv")))
    assert words == ["7"]
    assert vectors.dtype == np.float32


def test_a_kv_file_tells_how_frequent_words_are(tmp_path):
    model = Word2Vec([["b", "a", "b"]], vector_size=4, min_count=1, workers=1)
    model.wv.save(str(tmp_path / "a.kv"))
    block = next(open_vocabulary(str(tmp_path / "a.kv")).blocks())
    assert (block.words, block.counts.tolist()) == (["b", "a"], [2, 1])


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_kv_file_that_names_a_command_runs_nothing(inside, protocol, tmp_path):
    held = Malice(tmp_path / "was_here")
    if inside:
        kv = lee()
        kv.index_to_key[5] = held
        held = kv
    (tmp_path / "bad.kv").write_bytes(pickle.dumps(held, protocol))
    refused(tmp_path / "bad.kv", r"names posix\.system")
    assert not (tmp_path / "was_here").exists()
    pickle.loads((tmp_path / "bad.kv").read_bytes())  # plain pickle does run it
    assert (tmp_path / "was_here").exists()


class Pointers:
    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"\x01" * 8)


def test_a_kv_file_with_made_up_pointers_is_refused(tmp_path):
    kv = KeyedVectors(1)
    kv.vectors, kv.index_to_key = np.zeros((1, 1), np.float32), Pointers()
    (tmp_path / "bad.kv").write_bytes(pickle.dumps(kv))
    code = "import sys; from actors.files.vocabulary import open_vocabulary; open_vocabulary(sys.argv[1])"
    arguments = [sys.executable, "-c", code, str(tmp_path / "bad.kv")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 1  # not a crash
    assert "no .kv file of gensim 4 that can be read safely" in ended.stderr


def test_other_pickles_are_no_kv_files(tmp_path):
    FastText([["a", "b"]], vector_size=2, min_count=1, bucket=9).wv.save(str(tmp_path / "f.kv"))
    refused(tmp_path / "f.kv", "FastTextKeyedVectors.*save_word2vec_format")
    for held in ({"vectors": [1]}, np.zeros(3), "words", None):
        (tmp_path / "other.kv").write_bytes(pickle.dumps(held))
        refused(tmp_path / "other.kv", r"no \.kv file of gensim 4")


def test_a_kv_file_without_what_belongs_to_it(tmp_path):
    lee().save(str(tmp_path / "a.kv"), sep_limit=100)
    beside = tmp_path / "a.kv.vectors.npy"
    whole = beside.read_bytes()
    beside.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "a.kv", r"no \.kv file")
    np.save(beside, np.zeros((3, 10), np.float32))
    refused(tmp_path / "a.kv", r"1750 words and vectors of shape \(3, 10\)")
    np.save(beside, np.array([Malice(tmp_path / "was_here")]), allow_pickle=True)
    refused(tmp_path / "a.kv", r"no \.kv file")
    assert not (tmp_path / "was_here").exists()
    beside.unlink()
    refused(tmp_path / "a.kv", r"vectors\.npy")


# What is damaged, or something else


@pytest.mark.parametrize(
    ("name", "ending", "match"),
    [
        ("euclidean_vectors.bin", ".bin", "ends after 1,385 of the 2,747 words"),
        ("word2vec_pre_kv_c", ".txt", "word 879: expected 10 numbers"),
        ("test_glove.txt", ".txt", "word 38: expected 50 numbers"),
        ("lee_fasttext_new.bin", ".bin", "The file is damaged or cut off"),
    ],
)
def test_half_a_file(name, ending, match, tmp_path):
    path = tmp_path / f"half{ending}"
    data = (GENSIM / name).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path, match)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("n_bytes", [60, 106, 1000])
def test_fasttext_that_ends_among_its_words(n_bytes, tmp_path):
    path = tmp_path / "cut.bin"
    path.write_bytes((GENSIM / "lee_fasttext_new.bin").read_bytes()[:n_bytes])
    refused(path, "damaged or cut off|neither word2vec's nor fastText's")


ZIPPED = ["euclidean_vectors.bin", "word2vec_pre_kv_c", "test_glove.txt", "lee_fasttext_new.bin"]


@pytest.mark.parametrize("name", ZIPPED)
def test_half_a_gz(name, tmp_path):
    path = tmp_path / f"{name}.gz"
    data = gzip.compress((GENSIM / name).read_bytes())
    path.write_bytes(data[: len(data) // 2])
    refused(path)


@pytest.mark.parametrize("name", ZIPPED)
@pytest.mark.parametrize("share", [0.002, 0.5])
def test_a_gz_with_wrong_bytes_in_it(name, share, tmp_path):
    path = tmp_path / f"{name}.gz"
    data = bytearray(gzip.compress((GENSIM / name).read_bytes()))
    at = int(len(data) * share) + 30
    data[at : at + 50] = bytes(50)
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("name", ["euclidean_vectors.bin", "word2vec_pre_kv_c", "a.kv"])
def test_a_gz_that_is_none(name, tmp_path):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(b"2 2\na 1 2\nb 3 4\n")
    refused(path, "Not a gzipped file")


@pytest.mark.parametrize(
    ("name", "header"),
    [("euclidean_vectors.bin", b"2747 10"), ("word2vec_pre_kv_c", b"1750 10")],
)
@pytest.mark.parametrize(
    ("n", "dim", "match"),
    [
        (-1, 0, "names"),
        (+1, 0, "names"),
        (10**11, 0, "names"),
        (0, -1, "."),
        (0, +1, "."),
        (0, +10, "."),
        (0, -5, "."),
        (0, 60_000, "."),
        (0, 10**9, "1000000010 dimensions, expected 1 to 65,536"),
        (0, -10, ": its first line says 0 dimensions, expected 1"),
    ],
)
def test_a_header_that_lies(name, header, n, dim, match, tmp_path):
    path = tmp_path / f"{name}.w2v"
    old_n, old_dim = map(int, header.split())
    lie = f"{old_n + n} {old_dim + dim}".encode()
    path.write_bytes((GENSIM / name).read_bytes().replace(header, lie, 1))
    refused(path, match)


def test_a_text_file_with_another_dim_than_it_says_is_told_so(tmp_path):
    (tmp_path / "a.txt").write_text("2 3\na 1 2\nb 3 4\n")
    refused(tmp_path / "a.txt", "3 (numbers|dimensions)")


@pytest.mark.parametrize("ending", ["bin", "txt", "vec", "w2v", "kv", "bin.gz", "txt.gz", "kv.gz"])
def test_an_empty_file(ending, tmp_path):
    path = tmp_path / f"empty.{ending}"
    path.write_bytes(gzip.compress(b"") if ending.endswith("gz") else b"")
    refused(path, "begins with b''|Ran out of input")
    path.write_bytes(b"")
    refused(path, "begins with b''|Ran out of input")


@pytest.mark.parametrize("ending", ["bin", "txt", "kv"])
def test_chance_is_no_file_of_words(ending, tmp_path):
    path = tmp_path / f"chance.{ending}"
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(3000))
        refused(path)


@pytest.mark.parametrize(
    "text", ["Just a text.\nOf two lines.\n", "cat\ndog\n", "1 2\n3 4\n", "3 5\n", "a,0.1,0.2\n"]
)
def test_texts_and_lists_are_no_file_of_words(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    refused(tmp_path / "a.txt")


def test_a_classifier_of_fasttext_is_refused():
    refused(GENSIM / "pang_lee_polarity_fasttext.bin", "classifier of fastText")


def test_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / "folder.bin").mkdir()
    refused(tmp_path / "folder.bin", "There is no file")
    refused(tmp_path / "missing.bin", "There is no file")
