import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cells import cast_column
from schemas.columns import (
    RESERVED,
    SchemaError,
    common_schema,
    delta_type,
    fit_columns,
    labels_as_text,
    source_columns,
)
from schemas.delta.fragments import write_rows
from schemas.delta.store import Table
from schemas.tables.embeddings import (
    PASSAGE_FIELDS,
    Fingerprint,
    table_schema,
    textless_kind,
    what_differs,
)
from schemas.vectors import vector_column, vectors_of

from ..conftest import FINGERPRINT, note

NOON = datetime(2024, 1, 1, 12)
NOON_UTC = datetime(2024, 1, 1, 12, tzinfo=UTC)
us, us_utc = pa.timestamp("us"), pa.timestamp("us", tz="UTC")


def column(values, kind):
    return pa.array(values, kind)


def dictionary(values, kind):
    return pa.array(values, kind).dictionary_encode()


def run_ends(values, kind):
    return pa.RunEndEncodedArray.from_arrays(range(1, len(values) + 1), pa.array(values, kind))


def extension(values, kind):
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def union(values, kind):
    types, offsets = pa.array([0] * len(values), pa.int8()), pa.array(range(len(values)), pa.int32())  # fmt: skip
    return pa.UnionArray.from_dense(types, offsets, [pa.array(values, kind.field(0).type)])


STRUCT = pa.struct([("a", pa.uint32()), ("b", pa.struct([])), ("c", pa.list_(pa.float16()))])
# what a column is made with, its values, its Arrow type, the table's type, and the values there
KINDS = [
    (column, [True, None], pa.bool_(), pa.bool_(), [True, None]),
    *[
        (column, [-1, None, 2], kind, kind, [-1, None, 2])
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
    ],
    (column, [255, None], pa.uint8(), pa.int16(), [255, None]),
    (column, [2**16 - 1, None], pa.uint16(), pa.int32(), [2**16 - 1, None]),
    (column, [2**32 - 1, None], pa.uint32(), pa.int64(), [2**32 - 1, None]),
    (column, [2**64 - 1, None], pa.uint64(), pa.decimal128(20, 0), [Decimal(2**64 - 1), None]),
    (column, [np.float16(0.5), None], pa.float16(), pa.float32(), [0.5, None]),
    (column, [0.5, float("inf"), None], pa.float32(), pa.float32(), [0.5, float("inf"), None]),
    (column, [0.1, None], pa.float64(), pa.float64(), [0.1, None]),
    *[
        (column, ["ä", None, ""], kind, pa.string(), ["ä", None, ""])
        for kind in (pa.string(), pa.large_string(), pa.string_view())
    ],
    *[
        (column, [b"\xff", None], kind, pa.binary(), [b"\xff", None])
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
    ],
    (column, [None, None], pa.null(), pa.string(), [None, None]),
    (column, [date(2024, 1, 1), None], pa.date32(), pa.date32(), [date(2024, 1, 1), None]),
    (column, [date(2024, 1, 1), None], pa.date64(), pa.date32(), [date(2024, 1, 1), None]),
    *[
        (column, [NOON, None], pa.timestamp(unit), us, [NOON, None])
        for unit in ("s", "ms", "us", "ns")
    ],
    *[
        (column, [NOON_UTC, None], pa.timestamp(unit, zone), us_utc, [NOON_UTC, None])
        for unit, zone in (("s", "UTC"), ("ns", "Europe/Berlin"), ("us", "+02:00"))
    ],
    (column, [time(1, 2, 3), None], pa.time32("s"), pa.string(), ["01:02:03", None]),
    (column, [time(1, 2, 3, 4), None], pa.time64("us"), pa.string(), ["01:02:03.000004", None]),
    (column, [timedelta(hours=1), None], pa.duration("s"), pa.string(), ["3600", None]),
    (
        column,
        [(1, 2, 3), None],
        pa.month_day_nano_interval(),
        pa.string(),
        ["MonthDayNano(months=1, days=2, nanoseconds=3)", None],
    ),
    *[
        (column, [Decimal("1.50"), None], kind, pa.decimal128(5, 2), [Decimal("1.50"), None])
        for kind in (pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(5, 2), pa.decimal256(5, 2))
    ],
    (column, [Decimal("1.50"), None], pa.decimal256(50, 2), pa.string(), ["1.50", None]),
    (column, [Decimal("1500"), None], pa.decimal128(5, -2), None, None),
    (dictionary, ["a", None, "a"], pa.string(), pa.string(), ["a", None, "a"]),
    (dictionary, [7, None], pa.uint64(), pa.decimal128(20, 0), [Decimal(7), None]),
    (run_ends, ["a", None], pa.string(), pa.string(), ["a", None]),
    (run_ends, [7, None], pa.uint8(), pa.int16(), [7, None]),
    (extension, [b"0" * 16, None], pa.uuid(), pa.binary(), [b"0" * 16, None]),
    (extension, ['{"a": 1}', None], pa.json_(), pa.string(), ['{"a": 1}', None]),
    (extension, [1, None], pa.bool8(), pa.int8(), [1, None]),
    (extension, [[1, 2]], pa.fixed_shape_tensor(pa.float16(), [2]), pa.list_(pa.float32()), [[1, 2]]),
    (union, [1, 2], pa.dense_union([pa.field("a", pa.int8())]), pa.string(), ["1", "2"]),
    *[
        (column, [[1, None], [], None], kind, pa.list_(pa.int16()), [[1, None], [], None])
        for kind in (
            pa.list_(pa.uint8()),
            pa.large_list(pa.uint8()),
            pa.list_view(pa.uint8()),
            pa.large_list_view(pa.uint8()),
        )
    ],
    (column, [[1, 2], None], pa.list_(pa.uint8(), 2), pa.list_(pa.int16()), [[1, 2], None]),
    (column, [[1, 2], None], pa.list_(pa.int8(), 2), pa.list_(pa.int8()), [[1, 2], None]),
    (column, [[None], []], pa.list_(pa.null()), pa.list_(pa.string()), [[None], []]),
    (column, [[time(1)], None], pa.list_(pa.time32("s")), pa.list_(pa.string()), [["01:00:00"], None]),
    (column, [[[1]], [None]], pa.list_(pa.list_(pa.uint8())), pa.list_(pa.list_(pa.int16())), [[[1]], [None]]),
    (
        column,
        [[{"a": 1}], None],
        pa.list_(pa.struct([("a", pa.uint8())])),
        pa.list_(pa.struct([("a", pa.int16())])),
        [[{"a": 1}], None],
    ),
    (
        column,
        [{"a": 1, "b": {}, "c": [np.float16(0.5)]}, None],
        STRUCT,
        pa.struct([("a", pa.int64()), ("c", pa.list_(pa.float32()))]),
        [{"a": 1, "c": [0.5]}, None],
    ),
    (
        column,
        [{"a": None, "b": "x"}],
        pa.struct([("a", pa.null()), ("b", pa.dictionary(pa.int8(), pa.string()))]),
        pa.struct([("a", pa.string()), ("b", pa.string())]),
        [{"a": None, "b": "x"}],
    ),
    (column, [{"a b": 1}], pa.struct([("a b", pa.int8())]), None, None),
    (column, [{"A": 1, "a": 2}], pa.struct([("A", pa.int8()), ("a", pa.int8())]), None, None),
    (
        column,
        [[("k", 1)], [], None],
        pa.map_(pa.string(), pa.uint8()),
        pa.map_(pa.string(), pa.int16()),
        [[("k", 1)], [], None],
    ),
    (
        column,
        [[(7, time(1))]],
        pa.map_(pa.uint8(), pa.time32("s")),
        pa.map_(pa.int16(), pa.string()),
        [[(7, "01:00:00")]],
    ),
]  # fmt: skip
NOTHING_LEFT = [
    pa.struct([]),
    pa.struct([("a", pa.struct([]))]),
    pa.list_(pa.struct([])),
    pa.map_(pa.string(), pa.struct([])),
    pa.dictionary(pa.int8(), pa.struct([])),
]


@pytest.mark.parametrize(
    ("make", "values", "kind", "expected", "there"), KINDS, ids=[f"{k[0].__name__}-{k[2]}" for k in KINDS]
)  # fmt: skip
def test_a_column_of_any_type_can_be_written_and_read_back(
    make, values, kind, expected, there, uri
):
    source = make(values, kind)
    columns, _ = source_columns([pa.schema([("c", source.type)])])
    field = columns["c"]
    assert expected is None or field.type == expected
    schema = pa.schema([("id", pa.string()), field])
    table = Table.create(uri, schema, note())
    ids = pa.array([str(i) for i in range(len(values))])
    rows = pa.table([ids, cast_column(pa.chunked_array([source]), field.type)], schema=schema)
    table.commit(note(), add=[write_rows(table.filesystem, "rows.parquet", rows)])
    read = Table.open(uri).read().combine_chunks()
    assert read["id"].to_pylist() == ids.to_pylist()
    assert there is None or read[field.name].to_pylist() == there
    assert delta_type(read[field.name].type) == read[field.name].type  # and the next run agrees
    fit_columns(columns, table.schema)


@pytest.mark.parametrize("kind", NOTHING_LEFT, ids=str)
def test_a_column_of_nothing_is_dropped_with_a_warning(kind):
    columns, warnings = source_columns([pa.schema([("c", kind), ("d", pa.int8())])])
    assert columns == {"d": pa.field("d", pa.int8())}
    assert warnings == [f"column 'c' is dropped: Delta cannot hold {kind}"]


@pytest.mark.parametrize("make", [column, dictionary, run_ends])
def test_text_however_encoded_becomes_text_without_a_warning(make):
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        if make is dictionary and kind == pa.string_view():
            continue
        _, warnings = source_columns([pa.schema([("c", make(["a"], kind).type)])])
        assert warnings == []


def test_a_column_that_becomes_text_is_told():
    columns, warnings = source_columns([pa.schema([("c", pa.time32("s"))])])
    assert columns == {"c": pa.field("c", pa.string())}
    assert warnings == ["column 'c' becomes text: Delta cannot hold time32[s]"]


# -- names --------------------------------------------------------------------------------------


def test_reserved_refused_and_clashing_names_are_renamed():
    names = ["label", "Label", "EMBEDDING", "source_embedding", "a b", "a,b", "a_b", " ,;{}()\n\t="]
    columns, warnings = source_columns([pa.schema([(name, pa.int8()) for name in names])])
    assert {name: field.name for name, field in columns.items()} == {
        "label": "label",
        "Label": "source_Label",
        "EMBEDDING": "source_EMBEDDING",
        "source_embedding": "source_source_embedding",
        "a b": "a_b",
        "a,b": "source_a_b",
        "a_b": "source_source_a_b",
        " ,;{}()\n\t=": "__________",
    }
    assert len(warnings) == 7
    assert warnings[0] == "column 'Label' becomes 'source_Label': the name is taken or Delta refuses it"  # fmt: skip


@given(st.lists(st.sampled_from([*sorted(RESERVED), "a", "A", "source_a", "source_ID", "ID", "", "a b", "_"]), unique=True))  # fmt: skip
def test_no_two_columns_of_a_table_have_one_name(names):
    columns, _ = source_columns([pa.schema([(name, pa.int8()) for name in names])])
    taken = [field.name.lower() for field in columns.values()]
    assert list(columns) == names
    assert len({*taken, *RESERVED}) == len(names) + len(RESERVED)


def test_every_renamed_column_can_be_written(uri):
    names = ["id", "a b", "a,b", " ,;{}()\n\t=", "", "ä.b-c/d%`'\"", "Label", "label"]
    columns, _ = source_columns([pa.schema([(name, pa.int8()) for name in names])])
    schema = pa.schema([pa.field("id", pa.string()), *columns.values()])
    table = Table.create(uri, schema, note())
    rows = pa.table([["x"], *[[i] for i in range(len(names))]], names=schema.names).cast(schema)
    table.commit(note(), add=[write_rows(table.filesystem, "rows.parquet", rows)])
    assert Table.open(uri).read().to_pylist() == rows.to_pylist()


# -- several files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (pa.int8(), pa.int8(), pa.int8()),
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float16(), pa.float64(), pa.float64()),
        (pa.null(), pa.int8(), pa.int8()),
        (pa.null(), pa.null(), pa.null()),
        (pa.int8(), pa.string(), pa.string()),
        (pa.bool_(), pa.int8(), pa.string()),
        (pa.struct([("a", pa.int8())]), pa.int8(), pa.string()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.date32(), pa.timestamp("us"), pa.string()),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.string()),
        (pa.list_(pa.int8()), pa.list_(pa.int64()), pa.list_(pa.int64())),
        (
            pa.struct([("a", pa.int8())]),
            pa.struct([("b", pa.int8())]),
            pa.struct([("a", pa.int8()), ("b", pa.int8())]),
        ),
    ],
    ids=str,
)
def test_a_column_of_two_types_takes_one_that_holds_both(left, right, both):
    schemas = [pa.schema([("c", left)]), pa.schema([("c", right)])]
    assert common_schema(schemas) == pa.schema([("c", both)])
    again = common_schema(reversed(schemas)).field("c").type
    assert again == both or pa.types.is_struct(both)  # whose children come in order of appearance


def test_columns_of_all_files_come_in_order_of_appearance():
    schemas = [pa.schema([("b", pa.int8())]), pa.schema([("a", pa.int8()), ("b", pa.int16())])]
    assert common_schema(schemas) == pa.schema([("b", pa.int16()), ("a", pa.int8())])
    assert common_schema([]) == pa.schema([])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array([7, None], pa.int64()), pa.array([0.5], pa.float64())),
        (pa.array([-1], pa.int64()), pa.array([2**64 - 1], pa.uint64())),
        (pa.array([Decimal(10**37)]), pa.array([Decimal(1)], pa.decimal128(38, 20))),
        (pa.array(["a"]), pa.array([[1]])),
        (pa.array([b"\xff"]), pa.array(["a"])),
        (pa.array([True]), pa.array([{"a": 1}])),
        (pa.array([{"a": 1}]), pa.array([{"b": "x"}])),
    ],
    ids=lambda values: str(values.type),
)
def test_values_of_both_files_can_be_cast_to_the_common_type(left, right):
    columns, _ = source_columns([pa.schema([("c", values.type)]) for values in (left, right)])
    for values in (left, right):
        cast = cast_column(values, columns["c"].type)
        assert (len(cast), cast.null_count) == (len(values), values.null_count)


def test_a_source_fits_a_table_whose_columns_are_as_wide(full_schema):
    table = full_schema.append(pa.field("n", pa.int64()))
    columns = {"label": pa.field("label", pa.int8()), "n": pa.field("n", pa.int8()), "x": pa.field("x", pa.bool_())}  # fmt: skip
    held, missing = fit_columns(columns, table)
    assert held == {"label": pa.field("label", pa.string()), "n": pa.field("n", pa.int64()), "x": columns["x"]}  # fmt: skip
    assert missing == [pa.field("x", pa.bool_())]


def test_a_column_that_the_table_holds_in_a_narrower_type_is_refused():
    table = pa.schema([("id", pa.string()), ("n", pa.int8())])
    with pytest.raises(SchemaError, match="'n' is double in the source and int8 in the table.*--columns"):  # fmt: skip
        fit_columns({"n": pa.field("n", pa.float64())}, table)


# -- casts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([[1, None], None]), ["[1, null]", None]),
        (pa.array([{"a": "ä", "b": [1.5]}]), ['{"a": "ä", "b": [1.5]}']),
        (pa.array([{"t": NOON}]), ['{"t": "2024-01-01 12:00:00"}']),
        (pa.array([1, None], pa.int8()), ["1", None]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([b"\xff"]), ["b'\\xff'"]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_a_value_of_another_type_becomes_text(values, text):
    assert cast_column(values, pa.string()) == pa.array(text, pa.string())


def test_nanoseconds_are_cut_to_microseconds():
    ns = pa.array([1_999, None], pa.timestamp("ns"))
    assert cast_column(ns, us).cast(pa.int64()).to_pylist() == [1, None]
    assert cast_column(pa.array([1_999], pa.timestamp("ns", "Asia/Tokyo")), us_utc) == pa.array([1], us_utc)  # fmt: skip


def test_a_nested_map_becomes_json_text():
    values = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))
    assert [json.loads(v) for v in cast_column(values, pa.string()).to_pylist()] == [[["a", 1]]]


def test_nanoseconds_within_lists_are_cut_too():
    ns = pa.array([[1_999], None], pa.list_(pa.timestamp("ns")))
    kind = delta_type(ns.type)
    assert cast_column(ns, kind) == pa.array([[datetime(1970, 1, 1, 0, 0, 0, 1)], None], kind)


def test_a_chunked_and_a_sliced_column_keep_their_rows():
    chunked = pa.chunked_array([[1], [2, 3]], pa.uint8()).slice(1)
    assert cast_column(chunked, pa.int16()) == pa.array([2, 3], pa.int16())
    assert cast_column(pa.chunked_array([], pa.uint8()), pa.int16()) == pa.array([], pa.int16())


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (pa.array([1, None]), ["1", None]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.chunked_array([[True], [False]]), ["true", "false"]),
        (pa.array([date(2024, 1, 2)]), ["2024-01-02"]),
        (pa.array([b"\xc3\xa4"]), ["ä"]),
    ],
)
def test_labels_become_text(labels, texts):
    assert labels_as_text(labels, "kind", "t").to_pylist() == texts


@pytest.mark.parametrize("labels", [[["a"]], [{"a": 1}], [b"\xff"]])
def test_what_is_no_label_is_refused(labels):
    message = (
        r"^Column 'kind' of t holds (list|struct|binary).*, which is no label. Expected text or"
    )
    with pytest.raises(SchemaError, match=message):
        labels_as_text(pa.array(labels), "kind", "t")


# -- what the vectors are -------------------------------------------------------------------------

CHUNKED = Fingerprint("ü/m", 4, "space", "recipe", unit=False, chunking="256/32")


@pytest.mark.parametrize("fingerprint", [FINGERPRINT, CHUNKED])
def test_a_fingerprint_comes_back_from_a_table_and_from_a_file(fingerprint, uri):
    schema = table_schema([], fingerprint)
    table = Table.create(uri, schema, note())
    assert Fingerprint.of(table.schema) == Fingerprint.of(Table.open(uri).schema) == fingerprint
    write_rows(table.filesystem, "rows.parquet", schema.empty_table())
    assert Fingerprint.of(table.file_schema("rows.parquet")) == fingerprint
    assert Fingerprint.of(pq.read_schema(f"{uri}/rows.parquet")) == fingerprint


def test_a_schema_without_a_whole_fingerprint_has_none(full_schema):
    field = full_schema.field("embedding")
    some = {k: v for k, v in field.metadata.items() if k != b"embatch.space"}
    assert Fingerprint.of(pa.schema([("id", pa.string())])) is None
    assert Fingerprint.of(pa.schema([field.with_metadata(None)])) is None
    assert Fingerprint.of(pa.schema([field.with_metadata(some)])) is None
    assert Fingerprint.of(pa.schema([field.with_metadata({**field.metadata, "other": "1"})])) == FINGERPRINT  # fmt: skip


def test_a_table_has_the_columns_of_its_design():
    names = "id content_hash row_hash text label n_tokens truncated embedding embedded_at".split()
    label = pa.field("label", pa.string())
    assert table_schema([label], FINGERPRINT).names == names
    assert table_schema([label], FINGERPRINT, with_text=False).names == [n for n in names if n != "text"]  # fmt: skip
    passages = [field.name for field in PASSAGE_FIELDS]
    assert table_schema([label], CHUNKED).names == ["id", *passages, *names[1:]]
    assert table_schema([], FINGERPRINT).field("embedding").type == pa.list_(pa.float32(), 4)


def test_a_table_without_texts_says_what_it_is():
    assert textless_kind(table_schema([], FINGERPRINT)) is None
    bare = table_schema([], FINGERPRINT, with_text=False)
    assert textless_kind(bare) == "a table embedded with --no-text"
    images = table_schema([], FINGERPRINT, modality="image")
    assert textless_kind(images) == "a table of images"
    words = pa.schema([("rank", pa.int64()), ("norm", pa.float32()), FINGERPRINT.field])
    assert textless_kind(words) == "a table of words"


# -- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 3)), r"\(n, dim\) float32, not \(2, 3\) float64"),
        (np.zeros(3, np.float32), r"\(n, dim\) float32, not \(3,\) float32"),
        (np.array([[np.nan]], np.float32), "not finite"),
        (np.array([[np.inf]], np.float32), "not finite"),
    ],
)
def test_what_are_no_vectors_is_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        vector_column(vectors)


def test_a_vector_that_float16_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="not finite"), np.errstate(over="ignore"):
        vector_column(np.array([[1e6]], np.float32), half=True)


def test_half_rounds_to_float16_and_stays_float32():
    vectors = np.array([[0.1, -0.3]], np.float32)
    expected = vectors.astype(np.float16).astype(np.float32)
    column_ = vector_column(vectors, half=True)
    assert column_.type == pa.list_(pa.float32(), 2)
    np.testing.assert_array_equal(vectors_of(column_), expected)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float64())]
)  # fmt: skip
def test_vectors_come_back_from_any_list_and_from_a_slice(kind):
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    lists = vector_column(vectors).cast(kind)
    for start, n in ((0, 5), (1, 3), (4, 1)):
        held = vectors_of(lists.slice(start, n))
        np.testing.assert_array_equal(held, vectors[start : start + n])
        assert held.dtype == np.float32
    chunked = pa.chunked_array([lists.slice(3), lists.slice(0, 2)])
    np.testing.assert_array_equal(vectors_of(chunked), vectors[[3, 4, 0, 1]])


def test_no_vectors_keep_their_dim():
    assert vectors_of(vector_column(np.zeros((0, 3), np.float32))).shape == (0, 3)
    assert vectors_of(pa.array([], pa.list_(pa.float32()))).shape == (0, 0)
    assert vectors_of(pa.chunked_array([], pa.list_(pa.float32(), 3))).shape == (0, 3)


@pytest.mark.parametrize("lists", [[[1.0], None], [[1.0], [1.0, 2.0]], [None, None]])
def test_vectors_that_are_null_or_of_several_lengths_are_refused(lists):
    with pytest.raises(ValueError, match="nulls or vectors of several lengths"):
        vectors_of(pa.array(lists, pa.list_(pa.float32())))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights": "w2"}, "its weights are others; "),
        (
            {"settings": [{"rope": {"theta": 5}, "window": 4}, "mean"]},
            "theta is 5, was 1; window is 4, was at its default; ",
        ),
        ({"settings": [{"rope": {"theta": 1}}, "cls"]}, 'settings is "cls", was "mean"; '),
        ({"unit": False}, "unit length is False, was True; "),
        ({}, ""),
    ],
)
def test_what_differs_between_two_models_of_one_name(changes, expected):
    ingredients = {"weights": "w", "settings": [{"rope": {"theta": 1}}, "mean"]}
    held = Fingerprint("m", 2, "s1", "r", ingredients=ingredients)
    changed = {key: value for key, value in changes.items() if key != "unit"}
    unit = changes.get("unit", True)
    other = Fingerprint("m", 2, "s2", "r", unit=unit, ingredients=ingredients | changed)
    assert what_differs(held, other) == f"{expected}its space is s2, was s1"
    assert held.is_comparable_with(other) is (expected == "")
    old = Fingerprint("m", 2, "s1", "r")
    assert what_differs(old, other).endswith(
        "what went into the first was not written down yet; its space is s2, was s1"
    )
    assert not old.is_comparable_with(Fingerprint("m", 2, "s2", "r"))
