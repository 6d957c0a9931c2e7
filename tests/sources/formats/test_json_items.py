import gzip
import json
import tracemalloc

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sources import SourceError
from sources.formats import json_items
from sources.formats.json_items import Items
from sources.opening import SourceFile

ROWS = [{"text": "a", "n": 1}, {"text": "b ä 😀", "n": [2, {"x": None}]}, {"text": "c"}]
FORMS = {
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "an array": json.dumps,
    "an array over lines": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    "an array of lines": lambda rows: "[\r\n" + ",\r\n".join(map(json.dumps, rows)) + "\r\n]\r\n",
    "one after another": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows),
    "without a blank": lambda rows: "".join(json.dumps(row, indent=2) for row in rows),
}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def items_of(path, data):
    return Items(SourceFile(LocalFileSystem(), str(write(path, data)), path.name))


@pytest.mark.parametrize("form", FORMS)
def test_a_json_file_of_any_form_is_the_rows_of_json_lines(tmp_path, read, form):
    lines = read(write(tmp_path / "a.jsonl", FORMS["lines"](ROWS)))
    result = read(write(tmp_path / "a.json", FORMS[form](ROWS)))
    assert (repr(result.rows), result.failures) == (repr(lines.rows), [])
    packed = gzip.compress(FORMS[form](ROWS).encode("utf-16"))
    assert repr(read(write(tmp_path / "b.json.gz", packed)).rows) == repr(lines.rows)


def test_one_object_over_many_lines_is_a_row(tmp_path, read):
    (row,) = read(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=2))).rows
    assert (row["text"], row["n"], row["position"]) == ("a", 1, 0)


def test_no_items_are_no_rows(tmp_path, read):
    write(tmp_path / "a.json", json.dumps(ROWS))
    write(tmp_path / "b.json", "[]")
    write(tmp_path / "c.json", " \n ")
    assert read(tmp_path).texts() == [row["text"] for row in ROWS]


def test_items_that_are_no_objects_fail_alone_and_keep_their_positions(tmp_path, read):
    deep = b'{"x": ' + b"[" * 300 + b"]" * 300 + b"}"
    bad = [b'{"text": "\xff"}', b"7", b"[1]", b'{"text": "\\ud83d"}', deep, b"null"]
    items = [b'{"text": "a"}', *bad, b'{"text": "b"}']
    result = read(write(tmp_path / "a.json", b"[" + b", ".join(items) + b"]"))
    assert [(row["text"], row["position"]) for row in result.rows] == [("a", 0), ("b", 7)]
    assert [
        (position, reason.partition(": ")[2][:23]) for position, _, reason in result.reasons()
    ] == [
        (1, "it is not UTF-8: byte 1"),
        (2, "it holds a int"),
        (3, "it holds a list"),
        (4, "half a surrogate pair"),
        (5, "it is nested more than "),
        (6, "it holds a NoneType"),
    ]
    assert result.reasons()[1][2] == "item 3 is not a JSON object: it holds a int"
    lines = b"\n".join([b'{"text": "a"}', deep])
    assert read(write(tmp_path / "b.jsonl", lines)).reasons() == [
        (1, "read", "line 2 is not a JSON object: it is nested more than 200 deep")
    ]


def test_a_first_line_that_is_broken_is_a_row_that_failed(tmp_path, read):
    result = read(write(tmp_path / "a.json", '{oops\n{"text": "b"}\n{"text": "c"}\n'))
    assert [(row["text"], row["position"]) for row in result.rows] == [("b", 1), ("c", 2)]
    assert [position for position, _, _ in result.reasons()] == [0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"text": "a"}, {"text": "b"}', "the array has no end: the file was cut off at character 29"),
        ('[{"text": "a"}, {"text": "b"}, ]', "expecting value at character 31"),
        ('[{"text": "a"}, {"text": "b"} {}]', "a comma or the end of the array is missing at character 30"),
        ('[{"text": "a"}, {"text": "b"}] []', "more follows the end of the array at character 31"),
        ('{"text":\n"a"} {"text": "b"} {"text', "unterminated string starting at at character 29"),
    ],
)  # fmt: skip
def test_what_is_no_json_any_more_is_a_failure_after_the_good_rows(tmp_path, read, text, why):
    result = read(write(tmp_path / "a.json", text))
    assert result.texts() == ["a", "b"]
    assert result.reasons() == [(2, "file", why)]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"data": [{"text": "a"}]}, r"holds rows in 'data'\. Expected JSON objects: one a line, .*jq"),
        ({"type": "F", "features": [{"text": "a"}]}, r"holds rows in 'features'.*jq '.features\[\]'"),
        ({"text": {"0": "a"}, "n": {"0": 1}}, r"holds columns\. Expected .*pandas: orient='records'"),
        ({"text": ["a", "b"], "n": 2}, "holds columns"),
        ({"body": {str(n): "a" for n in range(99)}}, "holds columns"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_is_no_row_is_refused(tmp_path, read, held, message, indent):
    path = write(tmp_path / "b.json", json.dumps(held, indent=indent))
    with pytest.raises(SourceError, match=f"b.json: its only object {message}"):
        read(path)
    write(tmp_path / "a.json", json.dumps(ROWS))
    result = read(tmp_path, text_column=("text",))
    assert len(result.rows) == 3
    assert [failure["source_file"] for failure in result.failures] == ["b.json"]
    assert result.failures[0]["reason"].startswith("its only object holds")


def test_what_is_no_json_at_all_is_refused(tmp_path, read):
    message = (
        "a.json: expecting value at character 0. Expected JSON objects: one a line, in an array"
    )
    with pytest.raises(SourceError, match=message):
        read(write(tmp_path / "a.json", "hello"))


def test_a_value_without_end_is_given_up(tmp_path, read, monkeypatch):
    monkeypatch.setattr(json_items, "OBJECT_CHARS", 1 << 20)
    text = '[{"text": "a"}, {"text": "' + "b" * (3 << 20)
    result = read(write(tmp_path / "a.json", text))
    assert result.texts() == ["a"]
    ((_, _, reason),) = result.reasons()
    assert reason == "no JSON value, or one of more than 1 MB at character 16"


def test_an_array_is_not_held_in_memory(tmp_path):
    data = json.dumps([{"text": "x" * 2000, "n": n} for n in range(2000)]).encode()
    items = items_of(tmp_path / "a.json", data)
    tracemalloc.start()
    n_items = sum(item.record is not None for item in items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (n_items, items.error) == (2000, None)
    assert peak < len(data) / 8


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=5,
)
records = st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), min_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(records, st.sampled_from(sorted(FORMS)), st.integers(1, 40))
def test_any_objects_come_back_from_any_form_in_chunks_of_any_size(
    tmp_path, monkeypatch, held, form, chunk_bytes
):
    with monkeypatch.context() as patch:
        patch.setattr(json_items, "CHUNK_BYTES", chunk_bytes)
        items = items_of(tmp_path / "a.json", FORMS[form](held))
        assert [item.record for item in items] == held
        assert items.error is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(records, st.sampled_from(["an array", "an array over lines"]), st.data())
def test_an_array_that_is_cut_anywhere_gives_what_is_whole(tmp_path, held, form, data):
    written = FORMS[form](held)
    cut = written[: data.draw(st.integers(1, len(written) - 1))]
    items = items_of(tmp_path / "a.json", cut)
    found = [item.record for item in items]
    assert found == held[: len(found)]
    assert isinstance(items.error, SourceError)
