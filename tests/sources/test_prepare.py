from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from sources.prepare import prepare
from sources.rows import PREPARED_FIELDS, SourceOptions


def prepared(columns: dict, /, **options):
    table = pa.table(columns)
    given = {"text_column": ("text",), **options}
    return prepare(table, SourceOptions("x", **given), "f", range(len(table)))


def reasons(rows) -> list[tuple]:
    return [(f["position"], f["reason"]) for f in rows.failures.to_pylist()]


def test_the_id_is_the_content_hash_where_there_is_no_other():
    table = prepared({"text": ["häuser", "a\0b"]}).table
    assert table["content_hash"].to_pylist() == [
        xxh3_128_digest(t.encode()) for t in ("häuser", "a\0b")
    ]
    assert table["id"].to_pylist() == [xxh3_128_hexdigest(t.encode()) for t in ("häuser", "a\0b")]
    assert table["text"].to_pylist() == ["häuser", "a\0b"]


def test_text_columns_are_joined_by_a_newline_without_nulls():
    rows = prepared(
        {
            "title": ["a", None, "c", None, None],
            "n": [1, 2, None, 4, None],
            "text": ["x", "y", "z", None, None],
        },
        text_column=("title", "n", "text"),
    )
    assert rows.table["text"].to_pylist() == ["a\n1\nx", "2\ny", "c\nz", "4"]
    assert reasons(rows) == [(4, "text is null")]


def test_other_types_become_text_as_python_writes_them():
    columns = {
        "f": [1.5], "b": [True], "l": [[1, 2]], "d": [Decimal("1.50")], "t": [datetime(2024, 1, 2)],
        "y": [b"bytes"], "k": pa.array(["k"]).dictionary_encode(), "v": pa.array(["v"], pa.string_view()),
    }  # fmt: skip
    table = prepared(columns, text_column=tuple(columns)).table
    assert table["text"][0].as_py() == "1.5\nTrue\n[1, 2]\n1.50\n2024-01-02 00:00:00\nbytes\nk\nv"


@given(st.lists(st.text(max_size=8), min_size=1), st.integers(1, 9))
def test_the_text_is_cut_to_max_chars_before_it_is_hashed(texts, max_chars):
    table = prepared({"text": texts}, max_chars=max_chars).table
    kept = [t[:max_chars] for t in texts]
    for text, digest, position in zip(
        *(table[c].to_pylist() for c in ("text", "content_hash", "position")), strict=True
    ):
        assert text == kept[position]
        assert digest == xxh3_128_digest(text.encode())


def test_null_and_empty_texts_fail():
    rows = prepared(
        {"text": [None, "", " \n\t\u2003", "good"], "key": ["a", "b", "c", "d"]}, id_column="key"
    )
    assert reasons(rows) == [(0, "text is null"), (1, "text is empty"), (2, "text is empty")]
    assert rows.table["position"].to_pylist() == [3]
    null, empty, _ = rows.failures.to_pylist()
    assert (null["id"], null["content_hash"]) == ("a", None)
    assert (empty["id"], empty["content_hash"]) == ("b", xxh3_128_digest(b""))


def test_a_text_cut_to_blanks_is_empty():
    assert reasons(prepared({"text": ["   x"]}, max_chars=3)) == [(0, "text is empty")]


def test_ids_are_cast_to_strings_and_null_ids_fail():
    rows = prepared({"text": ["a", "b", "c"], "key": [7, None, 9]}, id_column="key")
    assert rows.table["id"].to_pylist() == ["7", "9"]
    failure = rows.failures.to_pylist()[0]
    assert (failure["position"], failure["reason"], failure["id"]) == (1, "id is null", None)
    assert failure["content_hash"] == xxh3_128_digest(b"b")
    assert reasons(prepared({"text": ["a"], "key": [""]}, id_column="key")) == [(0, "id is empty")]


def test_an_id_is_the_same_as_int_and_as_float():
    rows = prepared({"text": ["a", "b"], "key": [7.0, 7.5]}, id_column="key")
    assert rows.table["id"].to_pylist() == ["7", "7.5"]


def bad_utf8(*values: bytes) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string(), safe=False)


def test_invalid_utf8_fails_only_its_row():
    text = bad_utf8(b"good", b"b\xffd", b"also good", b"fine")
    label = bad_utf8(b"x", b"x", b"\xe4", b"y")
    rows = prepared({"text": text, "label": label})
    assert rows.table["text"].to_pylist() == ["good", "fine"]
    assert reasons(rows) == [(1, "text is not UTF-8: byte 1"), (2, "label is not UTF-8: byte 0")]
    assert rows.failures["content_hash"].to_pylist() == [None, xxh3_128_digest(b"also good")]
    rows.table.validate(full=True)


def test_invalid_utf8_fails_in_binary_texts_in_ids_and_deep_inside():
    assert reasons(prepared({"text": [b"a\xff"]})) == [(0, "text is not UTF-8: byte 1")]
    bad_id = prepared({"text": ["a"], "key": bad_utf8(b"\xff")}, id_column="key")
    assert reasons(bad_id) == [(0, "id is not UTF-8: byte 0")]
    nested = pa.ListArray.from_arrays([0, 1, 2], bad_utf8(b"ok", b"\xff"))
    assert reasons(prepared({"text": ["a", "b"], "tags": nested})) == [
        (1, "tags is not UTF-8: byte 0")
    ]


def test_what_python_cannot_hold_fails_only_its_row():
    when = pa.array([0, 2**60], pa.timestamp("us"))
    rows = prepared({"text": ["a", "b"], "when": when})
    assert rows.table["text"].to_pylist() == ["a"]
    assert reasons(rows)[0][1].startswith("when cannot be read: ")


def test_row_hash_is_of_the_other_columns_alone():
    one = prepared({"text": ["a"], "key": [1], "label": ["x"]}, id_column="key").table
    two = prepared({"label": ["x"], "text": ["b"], "key": [2]}, id_column="key").table
    other = prepared({"text": ["a"], "key": [1], "label": ["y"]}, id_column="key").table
    assert one["row_hash"] == two["row_hash"]
    assert one["row_hash"] != other["row_hash"]


def test_row_hash_does_not_depend_on_arrow_types():
    kinds = [
        {"n": [1], "s": ["x"]},
        {"n": [1.0], "s": pa.array(["x"]).dictionary_encode()},
        {"n": pa.array([1], pa.int8()), "s": pa.array(["x"], pa.large_string()), "z": pa.nulls(1)},
        {"n": pa.array([Decimal("1.0")]), "s": pa.array(["x"], pa.string_view())},
    ]
    hashes = [prepared({"text": ["a"], **kind}).table["row_hash"][0] for kind in kinds]
    assert len(set(hashes)) == 1
    times = [pa.array([10**9], pa.timestamp("ns", "UTC")), pa.array([1], pa.timestamp("s", "UTC"))]
    first, second = (prepared({"text": ["a"], "t": t}).table["row_hash"] for t in times)
    assert first == second


def test_columns_of_our_names_get_a_prefix():
    table = prepared({"text": ["a"], "id": [1], "position": [5], "source_id": [2]}).table
    assert table.column_names[6:] == ["source:id", "source:position", "source_id"]


def test_columns_chooses_and_the_rest_is_not_hashed():
    one = prepared({"text": ["a"], "x": [1], "y": [2]}, columns=("x",)).table
    two = prepared({"text": ["a"], "x": [1], "y": [3]}, columns=("x",)).table
    assert one.column_names[6:] == ["x"]
    assert one["row_hash"] == two["row_hash"]
    assert prepared({"text": ["a"], "x": [1]}, columns=()).table.column_names[6:] == []


def test_other_columns_keep_their_types_and_dictionaries_are_decoded():
    columns = {
        "f": pa.array([1], pa.float16()),
        "l": [[1]],
        "k": pa.array(["k"]).dictionary_encode(),
    }
    schema = prepared({"text": ["a"], **columns}).table.schema
    assert [schema.field(n).type for n in "flk"] == [
        pa.float16(),
        pa.list_(pa.int64()),
        pa.string(),
    ]


def test_no_rows_are_no_rows():
    rows = prepared({"text": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    assert (len(rows.table), len(rows.failures)) == (0, 0)
    assert rows.table.column_names == [
        *(field.name for field in PREPARED_FIELDS),
        "n",
    ]


def test_slices_and_chunks_are_prepared_as_if_they_were_whole():
    table = pa.table({"text": pa.chunked_array([["a", "b"], ["c", None]])})
    rows = prepare(table.slice(1), SourceOptions("x", ("text",)), "f", range(5, 8))
    assert rows.table.select(["position", "text"]).to_pylist() == [
        {"position": 5, "text": "b"},
        {"position": 6, "text": "c"},
    ]
    assert reasons(rows) == [(7, "text is null")]


@pytest.mark.parametrize("n_rows", [1, 1000])
def test_types_are_as_promised(n_rows):
    table = prepared({"text": [str(n) for n in range(n_rows)]}).table
    assert [str(t) for t in table.schema.types] == [
        "string", "fixed_size_binary[16]", "uint64", "uint32", "uint32", "large_string",
    ]  # fmt: skip
    assert table["position"].to_pylist() == np.arange(n_rows).tolist()
