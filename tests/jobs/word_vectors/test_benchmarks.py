import numpy as np
import pytest
from gensim.models import KeyedVectors

from tests.support.tables import jsonl
from tests.support.word_files import GENSIM, says, table_at, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


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


def test_questions_are_text_whatever_their_file_is_called(royal, tmp_path, embatch):
    path = tmp_path / "q.gz"
    path.write_text(": family\nman king woman queen\n: none\na b c d\n: family\nman man man king\n")
    told = embatch("evaluate", royal, "--analogies", path)
    assert {name for name in told if ":" in name} == {"analogy_accuracy:family"}
    assert (told["analogies"], told["analogies_with_unknown_words"]) == (2, 1)
    assert told["analogy_accuracy:family"] == 1
    path.write_text("king\tqueen\t8\r\nman\twoman\t7\r\n")
    assert embatch("evaluate", royal, "--word-pairs", path)["word_pairs"] == 2


def test_files_that_hold_no_questions(royal, tmp_path, embatch):
    for name, text, words in [
        ("--analogies", "man king woman queen\n", "q.txt, line 1: expected a section first"),
        ("--analogies", "\n\nman king woman queen\n", "q.txt, line 3: expected a section first"),
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
        f"{tmp_path}/texts is no table of words. `embatch words MODEL TABLE` makes one.",
    )
    says(
        embatch("evaluate", tmp_path / "missing", "--word-pairs", tmp_path / "q.txt"),
        1,
        f"no table of words at {tmp_path}/missing. `embatch words MODEL {tmp_path}/missing` makes",
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
        monkeypatch.setattr("jobs.word_vectors.benchmarks.MOST_WORDS", n_words)
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


def test_lines_that_are_no_pair_are_counted(royal, embatch, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("# a remark\none\tother\thuman\nking\tqueen\t8\nman\twoman\t7\nking\tman\nking\tman\thigh\n")  # fmt: skip
    told = embatch("evaluate", royal, "--word-pairs", path)
    assert (told["word_pairs"], told["lines_that_are_no_pair"]) == (2, 2)
