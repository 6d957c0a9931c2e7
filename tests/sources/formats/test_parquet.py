import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sources import SourceError
from sources.formats import parquet


def write(path, n_rows=6, **columns):
    table = pa.table({"text": [f"text {n}" for n in range(n_rows)], "n": range(n_rows), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2, compression="none", use_dictionary=False)
    return path


def test_rows_come_in_order_with_their_types(tmp_path, read):
    write(tmp_path / "a.parquet", when=pa.array([0] * 6, pa.timestamp("ms", "UTC")))
    result = read(tmp_path / "a.parquet")
    assert result.texts() == [f"text {n}" for n in range(6)]
    assert [row["position"] for row in result.rows] == list(range(6))
    assert result.tables[0].schema.field("when").type == pa.timestamp("ms", "UTC")
    assert result.source.columns == ("n", "when")
    assert len(result.pieces) == 1


def test_a_large_file_is_cut_into_pieces_of_row_groups(tmp_path, read, monkeypatch):
    monkeypatch.setattr(parquet, "PIECE_ROWS", 4)
    write(tmp_path / "b.pq")
    write(tmp_path / "a.parquet", n_rows=2)
    result = read(tmp_path)
    assert [(piece.files, piece.part) for piece in result.pieces] == [
        (("a.parquet",), None),
        (("b.pq",), (0, 2)),
        (("b.pq",), (2, 3)),
    ]
    assert [row["position"] for row in result.rows] == [0, 1, 0, 1, 2, 3, 4, 5]


def test_pieces_end_by_size_too(tmp_path, read, monkeypatch):
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1)
    write(tmp_path / "a.parquet")
    assert [piece.part for piece in read(tmp_path).pieces] == [(0, 1), (1, 2), (2, 3)]


def test_long_rows_come_in_smaller_tables(tmp_path, read):
    pq.write_table(
        pa.table({"text": [f"{n}" + "x" * 2**20 for n in range(40)]}), tmp_path / "a.parquet"
    )
    assert max(table.num_rows for table in read(tmp_path).tables) <= 16


def test_a_file_cut_in_half_is_one_failure(tmp_path, read):
    whole = write(tmp_path / "a.parquet")
    half = tmp_path / "cut.parquet"
    half.write_bytes(whole.read_bytes()[:300])
    result = read(tmp_path)
    assert len(result.rows) == 6
    (failure,) = result.failures
    assert (failure["id"], failure["source_file"], failure["stage"]) == (
        None,
        "cut.parquet",
        "file",
    )
    assert failure["reason"].startswith("Parquet magic bytes not found")
    assert "\n" not in failure["reason"]
    alone = read(half)
    assert [(f["position"], f["stage"]) for f in alone.failures] == [(0, "file")]


def test_a_bad_row_group_costs_no_other_its_rows(tmp_path, read):
    path = write(tmp_path / "a.parquet")
    group = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset
    data[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(data)
    result = read(path)
    assert result.texts() == ["text 0", "text 1", "text 4", "text 5"]
    assert [row["position"] for row in result.rows] == [0, 1, 4, 5]
    (failure,) = result.failures
    assert (failure["position"], failure["stage"]) == (2, "file")
    assert failure["reason"].startswith("row group 1: ")


def test_a_file_without_the_text_column_is_a_failure(tmp_path, read):
    write(tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    result = read(tmp_path)
    assert result.reasons() == [(0, "file", "no column 'text' among body")]


def test_a_file_without_rows_has_no_rows(tmp_path, read):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pq.ParquetWriter(tmp_path / "b.parquet", pa.schema([("text", pa.string())])):
        pass  # not even a row group
    result = read(tmp_path)
    assert (result.rows, result.failures) == ([], [])


def test_only_needed_columns_are_kept(tmp_path, read):
    write(tmp_path / "a.parquet", key=list("abcdef"), label=["x"] * 6)
    result = read(tmp_path, id_column="key", columns=("label",))
    assert result.tables[0].column_names[6:] == ["label"]
    assert result.ids() == list("abcdef")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text_column": ("body",)},
            r"no column 'body' \(asked for as text column\). It has: text, n, key",
        ),
        ({"id_column": "nr"}, r"no column 'nr' \(asked for as id column\). It has: text, n, key"),
        ({"columns": ("x",)}, r"no column 'x' \(asked for as other column\). It has: text, n, key"),
    ],
)
def test_a_column_that_does_not_exist_is_refused(tmp_path, read, options, message):
    write(tmp_path / "a.parquet", key=list("abcdef"))
    with pytest.raises(SourceError, match=message):
        read(tmp_path, **options)


def test_the_only_column_of_strings_is_the_text(tmp_path, read):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    assert read(tmp_path).texts() == ["x"]
    pq.write_table(pa.table({"body": ["x"], "key": ["k"]}), tmp_path / "a.parquet")
    assert read(tmp_path, id_column="key").texts() == ["x"]


def test_without_one_string_column_the_text_must_be_named(tmp_path, read):
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(
        SourceError, match=r"several columns of strings.*body \(string\), title \(string\)"
    ):
        read(tmp_path)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"no column of strings.*n \(int64\)"):
        read(tmp_path)


def test_text_id_and_image_may_be_views(tmp_path, read):
    views = {"key": pa.array(["k", "l"], pa.string_view()), "text": pa.array(["a", "b"], pa.string_view())}  # fmt: skip
    pq.write_table(pa.table(views), tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet", id_column="key")
    assert list(zip(result.ids(), result.texts(), strict=True)) == [("k", "a"), ("l", "b")]
    kind = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])
    images = {"bytes": pa.array([b"file", None], pa.binary_view()), "struct": pa.array([{"bytes": b"file", "path": "p"}, None], kind)}  # fmt: skip
    for name, path in (("bytes", None), ("struct", "p")):
        pq.write_table(pa.table({"image": images[name]}), tmp_path / "b.parquet")
        result = read(tmp_path / "b.parquet")
        assert [row["image"] for row in result.rows] == [{"bytes": b"file", "path": path}]
        assert result.reasons() == [(1, "read", "image is null")]


def test_views_that_are_not_utf8_fail_their_rows_alone(tmp_path, read):
    bad = pa.array([b"ok", b"a\xff"]).cast(pa.string(), safe=False).cast(pa.string_view())
    pq.write_table(pa.table({"text": ["a", "b"], "label": bad}), tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet", text_column=("text",))
    assert result.texts() == ["a"]
    assert result.reasons() == [(1, "read", "label is not UTF-8: byte 1")]
