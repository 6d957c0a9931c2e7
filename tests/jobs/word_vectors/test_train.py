import random
from collections import Counter

import pytest
from gensim.models import KeyedVectors
from gensim.models.fasttext import load_facebook_vectors

from actors.encoders.words import WORD
from actors.files.vocabulary import open_vocabulary
from jobs.cli import main
from schemas.delta.store import Table
from tests.support.tables import jsonl
from tests.support.word_files import GENSIM, assert_holds, read, says

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
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
    says(train(embatch, royal, tmp_path / "l.bin"), 1, "is a table of words: it holds no texts")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 6, "'label' has 1 values (a), expected two or more"),
        ([None] * 6, "'label' has 0 values"),
        (["a"] * 5 + ["b"], "have one text (b), expected two or more"),
        (
            [["a"], ["b"]] * 3,
            "holds list<item: string>, which is no label. Expected text or numbers",
        ),
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
