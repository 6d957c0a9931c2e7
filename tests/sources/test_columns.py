import pyarrow as pa
import pytest

from sources.columns import (
    is_image,
    is_text,
    text_guess_remarks,
    with_columns,
    with_partition_columns,
)
from sources.rows import SourceError, SourceOptions

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STRING, INT = pa.string(), pa.int64()


def found(columns, /, **options):
    return with_columns(SourceOptions("p", **options), pa.schema(columns))


def test_text_is_the_column_of_that_name_else_the_only_one_of_strings():
    assert found({"text": STRING, "title": STRING}).text_column == ("text",)
    assert found({"id": INT, "title": STRING}).text_column == ("title",)
    assert found({"key": STRING, "title": STRING}, id_column="key").text_column == ("title",)


def test_only_a_text_that_was_guessed_is_remarked():
    given = SourceOptions("p")
    (remark,) = text_guess_remarks(given, found({"id": INT, "title": STRING}))
    assert "'title' is taken for the text" in remark
    assert text_guess_remarks(given, found({"text": STRING})) == []


def test_images_are_found_by_their_type_or_by_the_name_of_bytes():
    assert found({"shot": PICTURE, "text": STRING}).image_column == "shot"
    assert found({"PNG": pa.binary(), "text": STRING}).image_column == "PNG"
    assert found({"blob": pa.binary(), "text": STRING}).text_column == ("text",)
    assert found({"blob": pa.binary()}, image_column="blob").image_column == "blob"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": STRING}, {"text_column": ("b",)}, r"no column 'b' \(asked for as text column\)"),
        ({"a": STRING}, {"columns": ("b",)}, "asked for as other column"),
        ({"a": STRING}, {"image_column": "a"}, "holds no images: .* got string"),
        ({"a": PICTURE, "b": PICTURE}, {}, r"several columns of images \(a, b\)"),
        ({"a": STRING, "b": STRING}, {}, "several columns of strings"),
        ({"a": INT}, {}, r"no column of strings.*a \(int64\)"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_columns(columns, options, message):
    with pytest.raises(SourceError, match=message):
        found(columns, **options)


def test_a_column_of_partitions_may_be_kept_but_be_no_text():
    files, partitions = pa.schema({"text": STRING}), pa.schema({"lang": STRING})
    kept = with_partition_columns(SourceOptions("p", columns=("lang",)), files, partitions)
    assert (kept.text_column, kept.columns) == (("text",), ("lang",))
    with pytest.raises(SourceError, match="'lang' of p is one of partitions"):
        with_partition_columns(SourceOptions("p", text_column=("lang",)), files, partitions)


def test_types_are_seen_through_dictionaries_and_views():
    assert is_text(pa.dictionary(pa.int32(), STRING))
    assert is_text(pa.string_view())
    assert is_image(pa.binary_view())
    assert not is_text(pa.binary())
    assert not is_image(pa.struct([("path", STRING)]))
