from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.word_vectors.table import WordTable
from schemas.delta.store import Table
from schemas.vectors import vectors_of
from tests.support.tables import jsonl
from tests.support.word_files import copied, says, table_at, written

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


def assert_ranked(found, expected, kv, query, asked):
    """As gensim ranks them; words that are equally near may change places."""
    similarities = kv.get_normed_vectors() @ query
    assert len(found) == len(expected)
    for one, (_, similarity) in zip(found, expected, strict=True):
        assert one["similarity"] == pytest.approx(similarity, abs=1e-5)
        assert one["similarity"] == pytest.approx(similarities[kv.get_index(one["word"])], abs=1e-5)
        assert one["word"] not in asked
    assert len({one["word"] for one in found}) == len(found)


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


def test_a_word_is_looked_up_in_lower_case_as_embed_does(parts, parts_kv, tmp_path, embatch):
    """Its parts would make another vector; gensim's own is that of the form which it holds."""
    assert "POLICE" not in parts_kv.key_to_index
    assert np.abs(parts_kv["POLICE"] - parts_kv["police"]).max() > 1e-3
    table = WordTable(parts, {})
    np.testing.assert_allclose(table.raw("POLICE"), parts_kv["police"], atol=1e-5)
    found = embatch("words", "similar", parts, "POLICE", "--k", "7")
    assert found["looked_up_as"] == {"POLICE": "police"}
    direction = parts_kv.get_vector("police", norm=True)
    expected = parts_kv.most_similar("police", topn=7)
    assert_ranked(found["words"], expected, parts_kv, direction, ["police"])
    value = embatch("words", "similarity", parts, "POLICE", "SAID")["similarity"]
    assert value == pytest.approx(float(parts_kv.similarity("police", "said")), abs=1e-5)
    source = jsonl(
        tmp_path / "a.jsonl", [{"id": "a", "text": "POLICE"}, {"id": "b", "text": "Zebras"}]
    )
    model = Path(parts).with_name("lee.bin")
    embatch("embed", source, tmp_path / "t", "--model", model, "--id-column", "id")
    rows = Table.open(str(tmp_path / "t")).read().sort_by("id")
    vectors = vectors_of(rows["embedding"])
    for vector, word in zip(vectors, ("POLICE", "Zebras"), strict=True):
        np.testing.assert_allclose(vector, table.direction(word), atol=1e-5)


def test_a_word_in_another_case_answers_no_question_about_itself(royal, embatch, capfd):
    whole = embatch("words", "similar", royal, "KING", "--k", "9")
    assert whole["looked_up_as"] == {"KING": "king"}
    assert "king" not in [one["word"] for one in whole["words"]]
    assert "looked_up_as" not in embatch("words", "similar", royal, "Prince")  # it is there so
    assert embatch("words", "analogy", royal, "Man", "King", "Woman")["words"][0]["word"] == "queen"
    assert embatch("words", "odd-one-out", royal, "King", "queen", "Man")["looked_up_as"] == {
        "King": "king",
        "Man": "man",
    }
    assert main(["words", "similarity", royal, "King", "king"]) == 0
    assert (
        capfd.readouterr().out == "King is not in the table, and was looked up as king.\n1.0000\n"
    )


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
    assert table.keyed.index_to_key == parts_kv.index_to_key
    np.testing.assert_allclose(table.raw("police"), parts_kv["police"], atol=1e-5)
    np.testing.assert_allclose(table.raw("zebras"), parts_kv["zebras"], atol=1e-5)
    assert table.direction("zebras") @ table.direction("zebras") == pytest.approx(1)


def test_an_unknown_word_is_answered_with_others_like_it(lee, embatch):
    code, message = embatch("words", "similar", lee, "polices")
    assert code == 1
    assert "no word 'polices'. Like it: 'police'" in message
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


def test_a_table_of_one_word_and_words_that_cancel(royal, tmp_path, embatch):
    one = table_at(tmp_path / "t", written(tmp_path / "one.txt", {"king": [3, 4]}))
    assert embatch("words", "similar", one, "king")["words"] == []
    assert embatch("words", "similarity", one, "king", "KING")["similarity"] == 1
    found = embatch("words", "similar", royal, "king", "--without", "King")["words"]
    assert {word["similarity"] for word in found} == {0}
    assert len(found) == 5


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
    says(
        embatch("words", "similar", tmp_path / "missing", "the"),
        1,
        f"no table of words at {tmp_path}/missing. `embatch words MODEL {tmp_path}/missing` makes",
    )
    source = jsonl(tmp_path / "a.jsonl", [{"text": "the government said"}])
    embatch("embed", source, tmp_path / "texts", "--model", Path(lee).parent / "lee.txt")
    for table in (tmp_path / "near", tmp_path / "texts"):
        says(
            embatch("words", "similar", table, "the"),
            1,
            f"{table} is no table of words. `embatch words MODEL TABLE` makes one.",
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
