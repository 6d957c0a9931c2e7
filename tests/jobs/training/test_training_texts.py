"""What `jobs.training.examples` gives to training; `test_corpus.py` is about a whole corpus."""

from collections import Counter

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from jobs.training.examples import CorpusOptions


def texts_of(source, **options):
    unread = Counter()
    found = [example.text for example in CorpusOptions(str(source), **options).examples(unread)]
    return found, dict(unread)


def test_files_that_are_not_read_are_told_beside_rows_that_could_not_be(tmp_path):
    (tmp_path / "_a.md").write_text("a")
    (tmp_path / "b.md").write_text(" ")
    (tmp_path / "c.pdf").write_text("c")
    assert texts_of(tmp_path) == (["a"], {"text is empty": 1, "files of ending .pdf": 1})


def test_what_a_source_guesses_is_said_once(tmp_path, capsys):
    file = tmp_path / "a" / "f-2024-03-01" / "18-30.txt"
    file.parent.mkdir(parents=True)
    file.write_text(f"{'a' * 60}\n \nshort\n \n{'b' * 60}")
    options = CorpusOptions(str(tmp_path))
    assert len([*options.examples(), *options.examples()]) == 2
    assert capsys.readouterr().err.count("--feeds reads the items in them.") == 1
    feeds = CorpusOptions(str(tmp_path), feeds=True)
    assert [example.text[0] for example in feeds.examples()] == ["a", "b"]
    assert "1 could not be read: items of fewer than 51 characters" in capsys.readouterr().err


def test_a_partition_may_be_the_label(tmp_path, capsys):
    for lang in ("de", "fr"):
        (tmp_path / f"lang={lang}").mkdir()
        (tmp_path / f"lang={lang}" / "a.txt").write_text("taxi")
    options = CorpusOptions(str(tmp_path), label_column="lang")
    assert [*options.examples()] == [("taxi", "de"), ("taxi", "fr")]
    assert "partition columns are read from the names of folders: lang." in capsys.readouterr().err


def test_a_delta_table_is_read_as_it_is_now(tmp_path):
    write_deltalake(tmp_path / "t", pa.table({"text": ["a", "b"], "n": [1, 2]}))
    DeltaTable(tmp_path / "t").delete("n = 1")
    options = CorpusOptions(str(tmp_path / "t"), label_column="n")
    assert [*options.examples()] == [("b", "2")]
