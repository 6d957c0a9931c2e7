import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sources import SourceError


def test_parquet_and_json_lines_are_one_table(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": 1}\n')
    pq.write_table(pa.table({"n": [2], "text": ["b"]}), tmp_path / "b.parquet")
    result = read(tmp_path)
    assert [(row["text"], row["n"]) for row in result.rows] == [("a", 1), ("b", 2)]
    assert [piece.files for piece in result.pieces] == [("a.jsonl",), ("b.parquet",)]


def test_the_same_row_has_the_same_hashes_in_both(tmp_path, read):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "n": 1.0, "tags": ["x"], "more": {"k": null, "l": 2}}\n'
    )
    more = {
        "tags": [["x"]],
        "more": [{"l": 2}],
        "n": pa.array([1], pa.int8()),
        "text": ["a"],
        "none": pa.nulls(1),
    }
    pq.write_table(pa.table(more), tmp_path / "b.parquet")
    one, two = read(tmp_path).rows
    assert (one["row_hash"], one["content_hash"]) == (two["row_hash"], two["content_hash"])


def test_a_text_column_that_was_found_is_named(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"body": "a", "n": 1}\n')
    assert read(tmp_path).source.remarks() == [
        "column 'body' is taken for the text, as the only one of strings. --text-column names one."
    ]
    assert read(tmp_path, text_column=("body",)).source.remarks() == []
    (tmp_path / "a.jsonl").write_text('{"text": "a", "title": "b"}\n')
    assert read(tmp_path).source.remarks() == []


@pytest.mark.parametrize(
    ("names", "held"),
    [
        (("a.txt", "b.jsonl", "c.jsonl"), r"2 .jsonl, 1 .txt.*\*\*/\*.jsonl"),
        (("a.csv", "b.jsonl", "c.csv"), r"2 .csv, 1 .jsonl.*\*\*/\*.csv"),
        (("a.csv", "b.md"), r"1 .csv, 1 .md"),
    ],
)
def test_kinds_that_cannot_be_one_table_are_refused(tmp_path, read, names, held):
    for name in names:
        (tmp_path / name).write_text('{"text": "a"}\n')
    with pytest.raises(SourceError, match=f"cannot be one table: {held}"):
        read(tmp_path)


def test_a_readme_beside_tables_is_no_document(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "README.md").write_text("about the table")
    assert read(tmp_path).texts() == ["a"]


def test_a_readme_among_documents_is_one(tmp_path, read):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "README.md").write_text("b")
    assert read(tmp_path).ids() == ["README.md", "a.txt"]


def test_columns_are_checked_on_the_first_file_that_can_be_read(tmp_path, read):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more PAR1")
    (tmp_path / "b.jsonl").write_text("oops\n")
    (tmp_path / "c.jsonl").write_text('{"body": "c"}\n')
    result = read(tmp_path)
    assert result.texts() == ["c"]
    assert [(f["source_file"], f["stage"]) for f in result.failures] == [
        ("a.parquet", "file"),
        ("b.jsonl", "read"),
    ]
    with pytest.raises(SourceError, match="It has: body"):
        read(tmp_path, text_column=("text",))


def test_where_no_file_can_be_read_each_is_a_failure(tmp_path, read):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more PAR1")
    (tmp_path / "b.jsonl").write_text("oops\n")
    result = read(tmp_path)
    assert [(f["source_file"], f["stage"]) for f in result.failures] == [
        ("a.parquet", "file"),
        ("b.jsonl", "file"),
    ]


def test_documents_have_no_other_columns(tmp_path, read):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(
        SourceError, match=r"no column 'key' \(asked for as id column\). It has: text"
    ):
        read(tmp_path, id_column="key")
