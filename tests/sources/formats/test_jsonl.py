import gzip
import json
from random import Random

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sources.rows import MAX_ROWS


def write(path, *lines):
    data = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    packed = {".gz": gzip.compress, ".zst": zstandard.compress, ".zstd": zstandard.compress}
    path.write_bytes(packed.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize(
    "ending", ["jsonl", "ndjson", "json", "jsonl.gz", "jsonl.zst", "json.zstd", "JSONL"]
)
def test_each_line_is_a_row(tmp_path, read, ending):
    path = write(tmp_path / f"a.{ending}", {"text": "a", "n": 1}, {"text": "b", "n": 2})
    result = read(path)
    assert [(row["text"], row["n"], row["position"]) for row in result.rows] == [
        ("a", 1, 0),
        ("b", 2, 1),
    ]
    assert not result.failures


def test_a_line_that_is_no_object_fails_alone(tmp_path, read):
    path = write(
        tmp_path / "a.jsonl", {"text": "a"}, b"", b"[1, 2]", b"{oops", b"   ", b'{"text": "\xff"}',
        b'{"text": "\\ud83d"}', b"[" * 100_000, {"text": "b"},
    )  # fmt: skip
    result = read(path)
    assert [(row["text"], row["position"]) for row in result.rows] == [("a", 0), ("b", 6)]
    assert [position for position, _, _ in result.reasons()] == [1, 2, 3, 4, 5]
    reasons = [reason for _, stage, reason in result.reasons() if stage == "read"]
    assert reasons[0] == "line 3 is not a JSON object: it holds a list"
    assert reasons[1].startswith("line 4 is not a JSON object: Expecting property name")
    assert reasons[2].startswith("line 6 is not a JSON object: it is not UTF-8: byte 10. A file in")
    assert reasons[3] == "line 7 is not a JSON object: half a surrogate pair"
    assert reasons[4].startswith("line 8 is not a JSON object: ")


def test_columns_may_be_missing(tmp_path, read):
    path = write(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "n": 2}, {"n": 3})
    result = read(path)
    assert [row["n"] for row in result.rows] == [None, 2]
    assert result.reasons() == [(2, "read", "text is null")]


def test_mixed_types_become_text(tmp_path, read):
    lines = [{"text": "a", "x": 1, "y": {"k": 1}}, {"text": "b", "x": "1", "y": [2]}, {"text": "c"}]
    result = read(write(tmp_path / "a.jsonl", *lines))
    assert [(row["x"], row["y"]) for row in result.rows] == [
        ("1", '{"k": 1}'),
        ("1", "[2]"),
        (None, None),
    ]


def test_a_row_hash_does_not_depend_on_what_stands_beside_it(tmp_path, read):
    row = {"text": "a", "x": 1, "y": {"k": 1.0}}
    alone = read(write(tmp_path / "a.jsonl", row)).rows[0]
    among = read(write(tmp_path / "b.jsonl", {"text": "b", "x": "s", "y": 2}, row)).rows[1]
    assert alone["row_hash"] == among["row_hash"]
    assert alone["x"] != among["x"]


def test_text_and_id_of_mixed_types_are_read_as_strings(tmp_path, read):
    lines = [{"text": 1, "key": 7}, {"text": "b", "key": "7a"}, {"text": None, "key": 2**70}]
    result = read(write(tmp_path / "a.jsonl", *lines), id_column="key")
    assert [(row["id"], row["text"]) for row in result.rows] == [("7", "1"), ("7a", "b")]
    assert result.failures[0]["id"] == str(2**70)


@pytest.mark.parametrize(
    "value", [2**70, [1, "a"], {"deep": [{"k": None}]}, {}, [], True, 1.5, float("nan"), None]
)
def test_any_value_can_stand_in_another_column(tmp_path, read, value):
    result = read(write(tmp_path / "a.jsonl", {"text": "a", "x": value}, {"text": "b"}))
    assert result.texts() == ["a", "b"]


def test_many_rows_come_in_tables_of_bounded_size(tmp_path, read):
    lines = [{"text": f"text {n}"} for n in range(MAX_ROWS + 5)]
    result = read(write(tmp_path / "a.jsonl", *lines))
    assert [len(table) for table in result.tables] == [MAX_ROWS, 5]
    assert result.rows[-1]["position"] == MAX_ROWS + 4
    long = [{"text": "x" * (1 << 20)}] * 20
    assert [len(table) for table in read(write(tmp_path / "b.jsonl", *long)).tables] == [16, 4]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_truncated_file_gives_its_rows_so_far(tmp_path, read, ending):
    lines = [{"text": f"text {n}"} for n in Random(0).sample(range(10**12), 20_000)]
    path = write(tmp_path / f"a.jsonl.{ending}", *lines)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = read(path)
    assert 1000 < len(result.rows) < 20_000
    assert result.texts() == [line["text"] for line in lines[: len(result.rows)]]
    ((position, stage, reason),) = result.reasons()
    assert (position, stage) == (len(result.rows), "file")
    assert (
        reason
        == {
            "gz": "Compressed file ended before the end-of-stream marker was reached",
            "zst": "Truncated compressed stream",
        }[ending]
    )


def test_a_byte_order_mark_is_dropped(tmp_path, read):
    assert read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}')).texts() == ["a"]


def test_small_files_share_a_piece_and_count_their_rows_each(tmp_path, read):
    for name in "abc":
        write(tmp_path / f"{name}.jsonl", {"text": name}, b"oops", {"text": name * 2})
    result = read(tmp_path)
    assert [piece.files for piece in result.pieces] == [("a.jsonl", "b.jsonl", "c.jsonl")]
    assert [row["position"] for row in result.rows] == [0, 2, 0, 2, 0, 2]
    assert [f["source_file"] for f in result.failures] == ["a.jsonl", "b.jsonl", "c.jsonl"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from(["text", "x", "y", "id"]), json_values)))
def test_any_objects_read_the_same_twice(tmp_path, read, records):
    path = write(tmp_path / "a.jsonl", *records)
    result = read(path, text_column=("text",)) if any("text" in r for r in records) else None
    if result is not None:
        assert len(result.rows) + len(result.failures) == len(records)
        assert all(isinstance(table, pa.Table) for table in result.tables)
