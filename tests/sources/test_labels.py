import pytest

from sources import SourceError, SourceOptions, open_source


def test_a_class_a_line_perhaps_with_its_wording(tmp_path, read):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffdog\n# a comment\n\n7: the number seven\n a:b \n", encoding="utf-8")
    result = read(path, labels=True)
    assert [(row["id"], row["text"]) for row in result.rows] == [
        ("dog", "dog"),
        ("7", "the number seven"),
        ("a:b", "a:b"),
    ]
    assert result.source.columns == ()


def test_a_class_without_a_name_is_a_failure(tmp_path, read):
    (tmp_path / "classes.txt").write_text("dog\n: nothing\n")
    result = read(tmp_path / "classes.txt", labels=True)
    assert [row["id"] for row in result.rows] == ["dog"]


def test_a_folder_is_no_file_of_classes(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("dog")
    with pytest.raises(SourceError, match="one file with a class name a line"):
        open_source(SourceOptions(str(tmp_path), labels=True))
