import pytest

from sources import SourceError, SourceOptions, open_source
from sources.labels import class_of, is_sentence

PHOTO = ("a photo of a {}",)
SEVERAL = ("a photo of a {}", "many {}")


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


@pytest.mark.parametrize(
    ("line", "templates", "asked", "text"),
    [
        ("dog", PHOTO, False, "a photo of a dog"),
        ("dog", SEVERAL, False, "a photo of a dog\nmany dog"),
        ("dog", ("{}",), False, "dog"),
        ("great white shark", PHOTO, False, "a photo of a great white shark"),
        ("a photo of a dog", PHOTO, False, "a photo of a dog"),
        ("a photo of a dog", SEVERAL, True, "a photo of a dog"),
        ("A Drawing of the sea", ("this is {}",), True, "A Drawing of the sea"),
        ("a dog", PHOTO, False, "a dog"),
        ("a dog", ("a photo of {}",), True, "a photo of a dog"),
        ("7: seven", PHOTO, False, "seven"),
        ("7: seven", PHOTO, True, "a photo of a seven"),
        ("7: a photo of a seven", PHOTO, True, "a photo of a seven"),
        ("7: {}", PHOTO, True, "a photo of a {}"),
    ],
)
def test_names_are_put_into_templates_and_sentences_stand(line, templates, asked, text):
    assert class_of(line, templates, asked=asked).text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("a photo of a cat", True), ("Two pictures of cats", True), ("this is a cat", True)),
        *(("the cat", True), ("It is raining.", True), ("The cat sat on the mat.", True)),
        *(
            ("there are three cats", True),
            ("Cats.", False),
            ("U.S.", False),
            ("St. Bernard", False),
        ),
        *(("photo album", False), ("theatre", False), ("ice cream", False), ("anchor", False)),
        *(("art of the fugue", False), ("7", False)),
    ],
)
def test_what_reads_like_a_sentence(text, expected):
    assert is_sentence(text, PHOTO) is expected


def test_lines_that_are_put_into_no_template_are_told(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("dog\na photo of a cat\n7: seven\n8: eight\n9: nine\n6: six\n")

    def remarks(templates, asked):
        options = SourceOptions(str(path), labels=True, templates=templates, templates_asked=asked)
        return open_source(options).remarks()

    sentences, wordings = remarks(PHOTO, asked=False)
    assert sentences.startswith(
        "1 of the classes ('a photo of a cat') read like sentences and stand"
    )
    assert wordings.startswith(
        "4 of the classes ('seven', 'eight', 'nine', …) are wordings of their"
    )
    assert len(remarks(PHOTO, asked=True)) == 1
    assert remarks(("{}",), asked=False) == []
    path.write_text("black and gold garden spider\ngreat white shark\nx: y y y y\n")
    (long, *_) = remarks(PHOTO, asked=True)
    assert long.startswith(
        "1 of the classes ('black and gold garden spider') are long for names and"
    )
