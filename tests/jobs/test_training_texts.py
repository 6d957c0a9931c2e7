"""What `jobs.corpus` gives to training; `test_corpus.py` is about a whole corpus."""

from collections import Counter

from jobs.corpus import CorpusOptions


def texts_of(source, **options):
    unread = Counter()
    found = [example.text for example in CorpusOptions(str(source), **options).examples(unread)]
    return found, dict(unread)


def test_files_that_are_not_read_are_told_beside_rows_that_could_not_be(tmp_path):
    (tmp_path / "_a.md").write_text("a")
    (tmp_path / "b.md").write_text(" ")
    (tmp_path / "c.pdf").write_text("c")
    assert texts_of(tmp_path) == (["a"], {"text is empty": 1, "files of ending .pdf": 1})
