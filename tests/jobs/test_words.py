import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from gensim.models import KeyedVectors
from gensim.models.fasttext import load_facebook_vectors
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoTokenizer

from actors.checkpoints import resolve
from actors.vocabulary import open_vocabulary
from actors.words import WORD, read_weights
from jobs.cli import main
from jobs.word_table import WordTable
from jobs.words import NO_DIRECTION, NOT_TEXT
from schemas.embeddings import vectors_of
from schemas.store import Table
from tests.word_files import GENSIM, copied, raw, read, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
ROYAL = {
    "king": [1.0, 1.0, 0.1],
    "queen": [1.0, -1.0, 0.1],
    "man": [0.1, 1.0, 0.0],
    "woman": [0.1, -1.0, 0.0],
    "Prince": [0.9, 0.8, 0.5],
    "prince": [0.0, 0.0, 9.0],
}


@pytest.fixture
def embatch(capfd):
    """A command and its JSON; of a command that fails, the code and the message."""

    def call(*arguments):
        capfd.readouterr()
        try:
            code = main([*map(str, arguments), "--json"])
        except SystemExit as end:
            code = end.code
        told = capfd.readouterr()
        if code == 0:
            return json.loads(told.out.splitlines()[-1])
        return code, " ".join(told.err.replace("│", " ").split())

    return call


def says(result, code, words):
    assert isinstance(result, tuple), result
    assert (result[0], words in result[1]) == (code, True), result


def table_at(path, model):
    assert main(["words", str(model), str(path), "--json"]) == 0
    return str(path)


@pytest.fixture(scope="module")
def lee(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lee")
    return table_at(folder / "table", copied("word2vec_pre_kv_c", folder / "lee.txt"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return table_at(folder / "table", copied("lee_fasttext_new.bin", folder / "lee.bin"))


@pytest.fixture
def royal(tmp_path):
    return table_at(tmp_path / "royal", written(tmp_path / "royal.txt", ROYAL))


@pytest.fixture(scope="module")
def lee_kv():
    return KeyedVectors.load_word2vec_format(str(GENSIM / "word2vec_pre_kv_c"))


@pytest.fixture(scope="module")
def parts_kv():
    return load_facebook_vectors(str(GENSIM / "lee_fasttext_new.bin"))


@pytest.fixture(scope="module")
def news(data_folder, tmp_path_factory):
    model = data_folder / "word2vec_news" / "vectors.bin"
    return table_at(tmp_path_factory.mktemp("news") / "table", model)


@pytest.fixture(scope="module")
def news_kv(data_folder):
    path = str(data_folder / "word2vec_news" / "vectors.bin")
    return KeyedVectors.load_word2vec_format(path, binary=True)


def rows_of(table):
    return Table.open(table).read().sort_by("rank")


def reasons(table):
    failures = Table.open(f"{table}.failures")
    rows = [] if failures is None else failures.read().to_pylist()
    return sorted((row["position"], row["id"], row["reason"]) for row in rows)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def assert_holds(table, kv, frequencies=None):
    rows = rows_of(table)
    assert rows["id"].to_pylist() == kv.index_to_key
    assert rows["rank"].to_pylist() == list(range(len(kv)))
    assert rows["frequency"].to_pylist() == (frequencies or [None] * len(kv))
    unit = vectors_of(rows["embedding"])
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    vectors = kv.vectors[: len(kv)]
    np.testing.assert_allclose(rows["norm"], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    np.testing.assert_allclose(unit * rows["norm"].to_numpy()[:, None], vectors, atol=1e-5)


def assert_ranked(found, expected, kv, query, asked):
    """As gensim ranks them; words that are equally near may change places."""
    similarities = kv.get_normed_vectors() @ query
    assert len(found) == len(expected)
    for one, (_, similarity) in zip(found, expected, strict=True):
        assert one["similarity"] == pytest.approx(similarity, abs=1e-5)
        assert one["similarity"] == pytest.approx(similarities[kv.get_index(one["word"])], abs=1e-5)
        assert one["word"] not in asked
    assert len({one["word"] for one in found}) == len(found)


# The table


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
    rows = rows_of(str(tmp_path / "t"))
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
    rows = rows_of(str(tmp_path / "t"))
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
    assert set(rows_of(str(tmp_path / "cp"))["id"].to_pylist()) >= {"který", "bylo"}


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
    before = Table.open(table).version, rows_of(table)
    assert embatch("words", half, table)[0] == 1
    assert (Table.open(table).version, rows_of(table)) == before


@pytest.mark.slow
def test_tokens_of_a_transformer(tmp_path, embatch):
    told = embatch("words", "all-MiniLM-L6-v2", tmp_path / "t", "--token-embeddings")
    folder = resolve("all-MiniLM-L6-v2").folder
    matrix = load_file(Path(folder) / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert (told["n"], told["dim"], told["failed"]) == (*matrix.shape, {})
    rows = rows_of(str(tmp_path / "t"))
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


# Questions


def test_similar_words_as_gensim_finds_them(lee, lee_kv, embatch):
    for words, without in [(["police"], []), (["the", "to"], ["bush"]), (["is"], ["said", "an"])]:
        options = [f"--without={word}" for word in without]
        found = embatch("words", "similar", lee, *words, *options, "--k", "20")["words"]
        expected = lee_kv.most_similar(positive=words, negative=without, topn=20)
        weights = [1.0] * len(words) + [-1.0] * len(without)
        query = lee_kv.get_mean_vector(words + without, weights, post_normalize=True)
        assert_ranked(found, expected, lee_kv, query, words + without)
    all_others = embatch("words", "similar", lee, "police", "--k", "5000")["words"]
    assert len(all_others) == 1749


def test_similarities_as_gensim_computes_them(lee, lee_kv, embatch):
    for one, other in [("police", "bush"), ("the", "the"), ("the,to,police", "bush,said")]:
        value = embatch("words", "similarity", lee, one, other)["similarity"]
        expected = lee_kv.n_similarity(one.split(","), other.split(","))
        assert value == pytest.approx(float(expected), abs=1e-5)
    assert embatch("words", "similarity", lee, "the", "police")["similarity"] == pytest.approx(
        float(lee_kv.similarity("the", "police")), abs=1e-5
    )


def test_analogies_as_gensim_answers_them(lee, lee_kv, embatch):
    found = embatch("words", "analogy", lee, "the", "police", "bush", "--k", "9")["words"]
    expected = lee_kv.most_similar(positive=["police", "bush"], negative=["the"], topn=9)
    query = lee_kv.get_mean_vector(["police", "bush", "the"], [1, 1, -1], post_normalize=True)
    assert_ranked(found, expected, lee_kv, query, ["the", "police", "bush"])


def test_an_analogy_may_be_a_sentence(royal, embatch):
    for words in (
        ["man", "king", "woman"],
        ["man is to king as woman is to ?"],
        "man is to king as woman is to?".split(),
    ):
        assert embatch("words", "analogy", royal, *words)["words"][0]["word"] == "queen"


def test_the_odd_one_out_as_gensim_finds_it(lee, lee_kv, embatch):
    for words in (["police", "said", "bush", "three"], ["the", "is", "palestinian"]):
        found = embatch("words", "odd-one-out", lee, *words)
        assert found["odd"] == lee_kv.doesnt_match(words)
        ranked = lee_kv.rank_by_centrality(words)
        assert [one["word"] for one in found["words"]] == [word for _, word in ranked]
        similarities = [one["similarity"] for one in found["words"]]
        assert similarities == pytest.approx([float(value) for value, _ in ranked], abs=1e-5)


@pytest.mark.data
def test_word_arithmetic_on_a_real_model(news, news_kv, embatch):
    found = embatch("words", "analogy", news, "man", "king", "woman", "--k", "5")["words"]
    assert found[0] == {"word": "queen", "similarity": pytest.approx(0.7118, abs=5e-5)}
    expected = news_kv.most_similar(positive=["king", "woman"], negative=["man"], topn=5)
    assert [one["word"] for one in found] == [word for word, _ in expected]
    found = embatch("words", "similar", news, "king", "queen", "--without", "man")["words"]
    expected = news_kv.most_similar(positive=["king", "queen"], negative=["man"])
    assert [one["word"] for one in found] == [word for word, _ in expected]
    assert [one["similarity"] for one in found] == pytest.approx(
        [value for _, value in expected], abs=1e-5
    )
    words = ["football", "lunch", "dinner"]
    assert embatch("words", "odd-one-out", news, *words)["odd"] == news_kv.doesnt_match(words)
    value = embatch("words", "similarity", news, "king,queen", "man,woman")["similarity"]
    expected = news_kv.n_similarity(["king", "queen"], ["man", "woman"])
    assert value == pytest.approx(float(expected), abs=1e-5)


def test_words_that_fasttext_makes_of_their_parts(parts, parts_kv, embatch):
    assert "zebras" not in parts_kv.key_to_index
    found = embatch("words", "similar", parts, "zebras", "--k", "7")["words"]
    direction = parts_kv.get_vector("zebras", norm=True)
    expected = parts_kv.most_similar("zebras", topn=7)
    assert_ranked(found, expected, parts_kv, direction, ["zebras"])
    value = embatch("words", "similarity", parts, "zebras", "police")["similarity"]
    assert value == pytest.approx(float(parts_kv.similarity("zebras", "police")), abs=1e-5)


def test_parts_of_words_are_not_taken_from_another_model(tmp_path, embatch):
    model = copied("lee_fasttext_new.bin", tmp_path / "a.bin")
    table = table_at(tmp_path / "t", model)
    for name in ("toy-model.bin", "lee_fasttext.bin"):
        copied(name, model)
        says(embatch("words", "similar", table, "zebras"), 1, "a.bin")
    model.unlink()
    says(embatch("words", "similar", table, "zebras"), 1, "no word 'zebras'")
    assert embatch("words", "similar", table, "police", "--k", "1")["words"]


def test_a_table_by_rank(parts, parts_kv):
    table = WordTable(parts, {})
    assert [table.words[row] for row in table.by_rank] == parts_kv.index_to_key
    np.testing.assert_allclose(table.raw("police"), parts_kv["police"], atol=1e-5)
    np.testing.assert_allclose(table.raw("zebras"), parts_kv["zebras"], atol=1e-5)
    assert table.direction("zebras") @ table.direction("zebras") == pytest.approx(1)


def test_an_unknown_word_is_answered_with_others_like_it(lee, embatch):
    code, message = embatch("words", "similar", lee, "Police")
    assert code == 1
    assert "no word 'Police'. Like it: 'police'" in message
    assert message.count("'police'") == 1
    assert embatch("words", "similar", lee, "xqzw")[1].endswith("no word 'xqzw'.")
    assert "no word 'nope'" in embatch("words", "odd-one-out", lee, "the", "is", "nope")[1]


def test_words_and_their_neighbours_on_a_map(lee, lee_kv, tmp_path, embatch):
    picture = tmp_path / "words.png"
    told = embatch("words", "map", lee, "police", "bush", "--k", "5", "--picture", picture)
    for word, near in told["neighbours"].items():
        expected = lee_kv.most_similar(word, topn=5)
        assert_ranked(near, expected, lee_kv, lee_kv.get_vector(word, norm=True), [word])
    assert picture.stat().st_size > 5000
    says(embatch("words", "map", lee, "police", "--picture", "words.doc"), 2, "expected a .png")
    says(embatch("words", "map", lee), 2, "Name a word")


def test_wrong_questions_are_told(lee, tmp_path, embatch):
    for arguments, words in {
        ("similar", lee): "Name a word",
        ("similar", lee, "the", "--k", "0"): "--k is 0, expected 1 or more",
        ("similarity", lee, "the"): "Name two words, or two lists",
        ("similarity", lee, "the", ","): "Name two words, or two lists",
        ("analogy", lee, "the", "to"): "An analogy has three words",
        ("analogy", lee, "a b c d"): "An analogy has three words",
        ("odd-one-out", lee, "the", "to"): "Name three words or more",
    }.items():
        says(embatch("words", *arguments), 2, words)
    embatch("neighbours", lee, tmp_path / "near", "--k", "2")
    for table in (tmp_path / "missing", tmp_path / "near"):
        says(
            embatch("words", "similar", table, "the"),
            1,
            "is no table of words. `embatch words MODEL",
        )
    source = jsonl(tmp_path / "a.jsonl", [{"text": "the government said"}])
    embatch("embed", source, tmp_path / "texts", "--model", Path(lee).parent / "lee.txt")
    says(
        embatch("words", "similar", tmp_path / "texts", "the"),
        1,
        "no table of words. `embatch words MODEL",
    )


def test_answers_for_people(royal, capsys):
    for arguments, lines in {
        ("similarity", royal, "king", "king"): ["1.0000"],
        ("similar", royal, "man", "--k", "1"): ["0.772  king"],
        ("analogy", royal, "man", "king", "woman", "--k", "1"): ["0.960  queen"],
        ("odd-one-out", royal, "king", "man", "woman"): ["woman is the odd one out."],
        (f"{royal}.txt", royal): [
            "6  words of 3 dimensions",
            "word2vec  kind",
            "held them already",
        ],
    }.items():
        capsys.readouterr()
        assert main(["words", *arguments]) == 0
        told = capsys.readouterr().out
        assert all(line in told for line in lines), told


# Benchmarks


def test_analogies_are_counted(royal, tmp_path, embatch):
    (tmp_path / "q.txt").write_text(
        "\ufeff: family\nman king woman queen\nMAN WOMAN KING QUEEN\nwoman queen king man\n"
        "man king woman\n\n: other\nking queen man duke\nman king woman prince\n",
        encoding="utf-8",
    )
    told = embatch("evaluate", royal, "--analogies", tmp_path / "q.txt")
    assert told == {
        "analogies": 4,
        "analogies_with_unknown_words": 1,
        "lines_that_are_no_analogy": 1,
        "analogy_accuracy": 0.5,
        "analogy_accuracy:family": pytest.approx(2 / 3, abs=1e-6),
        "analogy_accuracy:other": 0,
    }


def test_files_that_hold_no_questions(royal, tmp_path, embatch):
    for name, text, words in [
        ("--analogies", "man king woman queen\n", "q.txt, line 1: expected a section first"),
        ("--analogies", ": family\nman king\n", "q.txt holds no analogy"),
        ("--word-pairs", "man\twoman\t7\n", "q.txt: 1 of its pairs are in"),
        ("--word-pairs", "man,woman,7\nking,queen,5\n", "with tabs between them"),
    ]:
        (tmp_path / "q.txt").write_text(text)
        says(embatch("evaluate", royal, name, tmp_path / "q.txt"), 1, words)
        says(embatch("evaluate", royal, name, tmp_path / "missing.txt"), 1, "Cannot read")
    source = jsonl(tmp_path / "a.jsonl", [{"text": "a man"}])
    embatch("embed", source, tmp_path / "texts", "--model", tmp_path / "royal.txt")
    says(
        embatch("evaluate", tmp_path / "texts", "--analogies", tmp_path / "q.txt"),
        1,
        "no table of words",
    )


def test_only_the_most_frequent_words_are_asked(tmp_path, embatch, monkeypatch):
    chance = np.random.default_rng(5)
    words = [f"w{i % 25}" if i < 25 else f"W{i - 10}" for i in range(50)]  # some but for their case
    vectors = chance.normal(size=(50, 3))
    model = written(tmp_path / "a.txt", dict(zip(words, vectors.tolist(), strict=True)))
    table, kv = table_at(tmp_path / "t", model), KeyedVectors.load_word2vec_format(str(model))
    questions = [" ".join(chance.choice(words, 4, replace=False)) for _ in range(400)]
    (tmp_path / "q.txt").write_text(": chance\n" + "\n".join(questions))
    pairs = ["\t".join([*chance.choice(words, 2), str(chance.random())]) for _ in range(99)]
    (tmp_path / "p.tsv").write_text("\n".join(pairs))
    for n_words in (20, 35, 50):
        monkeypatch.setattr("jobs.word_benchmarks.MOST_WORDS", n_words)
        told = embatch(
            "evaluate", table, "--analogies", tmp_path / "q.txt", "--word-pairs", tmp_path / "p.tsv"
        )
        score, sections = kv.evaluate_word_analogies(str(tmp_path / "q.txt"), n_words)
        assert told["analogies"] == len(sections[0]["correct"]) + len(sections[0]["incorrect"]) > 5
        assert told["analogy_accuracy"] == pytest.approx(score, abs=1e-6)
        pearson, spearman, _ = kv.evaluate_word_pairs(
            str(tmp_path / "p.tsv"), restrict_vocab=n_words
        )
        assert told["word_pairs_pearson"] == pytest.approx(float(pearson.statistic), abs=1e-5)
        assert told["word_pairs_spearman"] == pytest.approx(float(spearman.statistic), abs=1e-5)
    assert told["analogy_accuracy"] > 0


@pytest.mark.data
def test_analogies_as_gensim_counts_them(news, news_kv, tmp_path, embatch):
    lines = (GENSIM / "questions-words.txt").read_text(encoding="utf-8").splitlines()
    some = [line for row, line in enumerate(lines) if line.startswith(":") or row % 20 == 0]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join([*some, ": odd", "four words are not", "king queen xqzw man"]))
    told = embatch("evaluate", news, "--analogies", path)
    score, sections = news_kv.evaluate_word_analogies(str(path))
    expected = {}
    for one in sections:
        n = len(one["correct"]) + len(one["incorrect"])
        expected |= {one["section"]: len(one["correct"]) / n} if n else {}
    assert told["analogies"] == n > 70
    assert told["analogy_accuracy"] == pytest.approx(score, abs=1e-6)
    assert expected.pop("Total accuracy") == score
    name = "analogy_accuracy:"
    found = {key.removeprefix(name): told[key] for key in told if key.startswith(name)}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("name", ["wordsim353.tsv", "simlex999.txt"])
def test_word_pairs_as_gensim_correlates_them(name, news, news_kv, embatch):
    told = embatch("evaluate", news, "--word-pairs", GENSIM / name)
    pearson, spearman, unknown_percent = news_kv.evaluate_word_pairs(str(GENSIM / name))
    assert told["word_pairs_spearman"] == pytest.approx(float(spearman.statistic), abs=1e-5)
    assert told["word_pairs_pearson"] == pytest.approx(float(pearson.statistic), abs=1e-5)
    n = told["word_pairs"] + told["word_pairs_unknown"]
    assert 100 * told["word_pairs_unknown"] / n == pytest.approx(unknown_percent)


# What takes the table, and texts by their words


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
    assert read_weights(str(file))[0] == pytest.approx(dict(zip(names, tfidf.idf_, strict=True)))
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
    says(embatch("words", "weights", royal, tmp_path / "new.json"), 1, "holds no texts")


# Training


GOOD = ["good", "great", "superb", "fine", "lovely"]
BAD = ["bad", "awful", "poor", "dreadful", "nasty"]
PLAIN = ["film", "story", "actor", "plot", "scene", "music"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    chance = random.Random(0)
    rows = []
    for number in range(600):
        words = chance.sample((BAD, GOOD)[number % 2], 2) + chance.sample(PLAIN, 3)
        rows.append({"text": f"The {' '.join(words)}.", "stars": 1 + 4 * (number % 2)})
    return jsonl(tmp_path_factory.mktemp("reviews") / "reviews.jsonl", rows)


def train(embatch, *arguments):
    return embatch("words", "train", *arguments, "--threads", "1", "--dim", "16")


def test_word2vec_of_a_corpus(reviews, tmp_path, embatch):
    files = [tmp_path / f"{name}.bin" for name in ("one", "same", "other")]
    for file, seed in zip(files, (3, 3, 4), strict=True):
        told = train(embatch, reviews, file, "--seed", seed, "--epochs", "2")
    one, same, other = (file.read_bytes() for file in files)
    assert one == same != other
    kv = KeyedVectors.load_word2vec_format(str(files[0]), binary=True)
    assert set(kv.index_to_key) == {"the", *PLAIN, *GOOD, *BAD}
    assert kv.index_to_key[0] == "the"
    assert (told["words"], told["texts"], told["dim"]) == (17, 600, 16)
    for a, b, cosine in told["most_alike"] + told["least_alike"]:
        kv = KeyedVectors.load_word2vec_format(str(files[2]), binary=True)
        assert cosine == pytest.approx(float(kv.similarity(a, b)), abs=1e-4)
    about = embatch("words", files[0], tmp_path / "t")["about"]
    expected = {"kind": "word2vec", "epochs": 2, "seed": 3, "window": 5, "skip_gram": False}
    assert expected.items() <= about.items()


def test_only_frequent_words_are_trained(reviews, tmp_path, embatch):
    counts = Counter(WORD.findall(reviews.read_text().lower()))
    least = sorted(counts[word] for word in PLAIN)[3]
    train(embatch, reviews, tmp_path / "w.bin", "--min-count", least, "--epochs", "1")
    words, _ = read(open_vocabulary(str(tmp_path / "w.bin")))
    assert set(words) == {w for w in ["the", *PLAIN, *GOOD, *BAD] if counts[w] >= least}
    assert 3 <= len(words) <= 4


def test_fasttext_of_a_corpus(reviews, tmp_path, embatch):
    file = tmp_path / "parts.bin"
    options = ["--kind", "fasttext", "--threads", "1", "--dim", "4", "--epochs", "2"]
    told = embatch("words", "train", reviews, file, *options, "--skip-gram", "--seed", "1")
    assert told["words"] == 17
    kv = load_facebook_vectors(str(file))
    found = embatch("words", file, tmp_path / "t")
    assert_holds(str(tmp_path / "t"), kv, kv.expandos["count"].tolist())
    assert found["about"]["max_n"] == kv.max_n
    value = embatch("words", "similarity", tmp_path / "t", "goodly", "good")["similarity"]
    assert value == pytest.approx(float(kv.similarity("goodly", "good")), abs=1e-5)


def test_words_for_the_same_label_lie_together(reviews, tmp_path, embatch):
    options = ["--kind", "label", "--label-column", "stars", "--epochs", "20"]
    told = train(embatch, reviews, tmp_path / "l.bin", *options)
    assert (told["accuracy"], told["labels"]) == (1, ["1", "5"])
    assert told["texts"] == len(set(reviews.read_text().splitlines()))
    first = (tmp_path / "l.bin").read_bytes()
    train(embatch, reviews, tmp_path / "l.bin", *options)
    assert (tmp_path / "l.bin").read_bytes() == first
    kv = KeyedVectors.load_word2vec_format(str(tmp_path / "l.bin"), binary=True)
    for group in (GOOD, BAD):
        alike = [kv.similarity(a, b) for a in group for b in group if a < b]
        assert min(alike) > 0.5
    assert max(kv.similarity(a, b) for a in GOOD for b in BAD) < 0


def test_training_by_label_ends_when_it_gets_no_better(tmp_path, embatch):
    chance = random.Random(1)
    rows = [{"text": " ".join(chance.sample(PLAIN, 3)), "label": i % 2} for i in range(100)]
    source = jsonl(tmp_path / "chance.jsonl", rows)
    options = ["--kind", "label", "--label-column", "label", "--epochs", "500", "--patience", "2"]
    told = train(embatch, source, tmp_path / "l.bin", *options)
    assert 3 <= told["passes"] < 500


def test_a_table_is_a_corpus_too(reviews, royal, tmp_path, embatch):
    source = tmp_path / "few.jsonl"
    source.write_text("".join(reviews.read_text().splitlines(keepends=True)[:60]))
    embatch("embed", source, tmp_path / "t", "--model", GENSIM / "lee_fasttext_new.bin")
    options = ["--kind", "label", "--label-column", "stars"]
    told = train(embatch, tmp_path / "t", tmp_path / "l.bin", *options)
    assert (told["texts"], told["labels"]) == (
        Table.open(str(tmp_path / "t")).files()[0].n_rows,
        ["1", "5"],
    )
    says(
        train(embatch, tmp_path / "t", tmp_path / "l.bin", *options[:-1], "mood"),
        1,
        "no column 'mood'. It has: id,",
    )
    says(train(embatch, royal, tmp_path / "l.bin"), 1, "holds no texts")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 6, "'label' has 1 values (a), expected two or more"),
        ([None] * 6, "'label' has 0 values"),
        (["a"] * 5 + ["b"], "have one text (b), expected two or more"),
        ([["a"], ["b"]] * 3, "'label'"),
    ],
)
def test_labels_that_teach_nothing(labels, words, tmp_path, embatch):
    source = jsonl(
        tmp_path / "a.jsonl",
        [{"text": f"one two {i}", "label": one} for i, one in enumerate(labels)],
    )
    options = ["--kind", "label", "--label-column", "label", "--min-count", "1"]
    says(train(embatch, source, tmp_path / "l.bin", *options), 1, words)
    assert not (tmp_path / "l.bin").exists()


@pytest.mark.parametrize("kind", ["word2vec", "label"])
def test_no_word_is_frequent_enough(kind, reviews, tmp_path, embatch):
    options = ["--kind", "label", "--label-column", "stars"] if kind == "label" else []
    says(
        train(embatch, reviews, tmp_path / "w.bin", *options, "--min-count", "9999"),
        1,
        "stands there 9999 times. Lower --min-count",
    )
    assert not (tmp_path / "w.bin").exists()


def test_training_mistakes_are_told(reviews, tmp_path, embatch):
    out = tmp_path / "w.bin"
    for arguments, code, words in [
        ([reviews, tmp_path / "w.txt"], 2, "expected a file that ends in .bin"),
        ([reviews], 2, "OUT is missing"),
        ([reviews, out, "--kind", "label"], 2, "--kind label and --label-column go together"),
        ([reviews, out, "--label-column", "stars"], 2, "go together"),
        ([reviews, out, "--window", "0"], 2, "--window is 0, expected 1 or more"),
        ([reviews, out, "--min-count", "-1"], 2, "--min-count is -1"),
        ([reviews, out, "--kind", "label", "--label-column", "mood"], 1, "no column 'mood'"),
        ([reviews, out, "--text-column", "body"], 1, "'body'"),
        ([tmp_path / "missing.jsonl", out], 1, "no file or folder"),
    ]:
        says(embatch("words", "train", *arguments), code, words)
    assert not out.exists()


def test_an_out_in_a_new_folder_is_made_and_one_that_cannot_be_is_told_first(
    reviews, tmp_path, capsys
):
    assert main(["words", "train", str(reviews), str(tmp_path / "new" / "w.bin")]) == 0
    capsys.readouterr()
    (tmp_path / "file").write_text("mine")
    assert main(["words", "train", str(reviews), str(tmp_path / "file" / "w.bin")]) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / "file") in told
    assert "passes" not in told
