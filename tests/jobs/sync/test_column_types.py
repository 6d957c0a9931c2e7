"""A column of any Arrow type comes into the table as a plain one, or as text."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.delta.fragments import write_rows
from schemas.delta.store import Table
from sources import Piece, SourceOptions, open_source
from sources.prepare import prepare
from tests.support.stored import stored

SV, BV = pa.string_view(), pa.binary_view()
NOTE = {"run": "run-1", "host": "here", "pid": 1, "started": 1, "state": "claim"}


def run_ends(values, kind=SV):
    return pa.RunEndEncodedArray.from_arrays(range(1, len(values) + 1), pa.array(values, kind))


def extension(values, kind):
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def struct(array):
    return pa.StructArray.from_arrays([array], ["a"])


def lists(array):
    """Lists of one item each."""
    return pa.ListArray.from_arrays(range(len(array) + 1), array)


def union(kind="sparse"):
    children = [pa.array([1, 0, 2], pa.int8()), pa.array(["", "x", ""], SV)]
    types = pa.array([0, 1, 0], pa.int8())
    if kind == "sparse":
        return pa.UnionArray.from_sparse(types, children)
    return pa.UnionArray.from_dense(types, pa.array([0, 1, 2], pa.int32()), children)


DECIMALS = [Decimal("1.50"), None, Decimal("2.00")]
UUIDS = [b"0" * 16, None, b"1" * 16]
LONG = "longer than a view holds in itself"
# the column, the type that the table has for it, the values there
KINDS = {
    "views": (pa.array(["a", None, LONG], SV), pa.string(), ["a", None, LONG]),
    "byte views": (pa.array([b"\xff", None, b"b"], BV), pa.binary(), [b"\xff", None, b"b"]),
    "lists of views": (pa.array([["a"], None, [None, LONG]], pa.list_(SV)), pa.list_(pa.string()), [["a"], None, [None, LONG]]),
    "long lists of views": (pa.array([["a"], None, []], pa.large_list(BV)), pa.list_(pa.binary()), [[b"a"], None, []]),
    "pairs of views": (pa.array([["a", "b"], None, ["c", None]], pa.list_(SV, 2)), pa.list_(pa.string()), [["a", "b"], None, ["c", None]]),
    "structs of views": (pa.array([{"a": "x"}, None, {"a": None}], pa.struct([("a", SV)])), pa.struct([("a", pa.string())]), [{"a": "x"}, None, {"a": None}]),
    "maps of views": (pa.array([[("k", "v")], None, []], pa.map_(SV, SV)), pa.map_(pa.string(), pa.string()), [[("k", "v")], None, []]),
    "dictionary of views": (pa.DictionaryArray.from_arrays(pa.array([0, None, 0], pa.int8()), pa.array(["x"], SV)), pa.string(), ["x", None, "x"]),
    "structs of dictionaries": (struct(pa.array(["x", None, "y"]).dictionary_encode()), pa.struct([("a", pa.string())]), [{"a": "x"}, {"a": None}, {"a": "y"}]),
    "run ends": (run_ends(["a", None, "b"], pa.string()), pa.string(), ["a", None, "b"]),
    "run ends of views": (run_ends(["a", None, "b"]), pa.string(), ["a", None, "b"]),
    "lists of run ends": (lists(run_ends(["a", None, "b"])), pa.list_(pa.string()), [["a"], [None], ["b"]]),
    "list views": (pa.array([[1], None, [2, None]], pa.list_view(pa.int8())), pa.list_(pa.int8()), [[1], None, [2, None]]),
    "large list views": (pa.array([["a"], None, [None]], pa.large_list_view(SV)), pa.list_(pa.string()), [["a"], None, [None]]),
    "structs of list views": (pa.array([{"a": [1]}, None, {"a": None}], pa.struct([("a", pa.list_view(pa.int8()))])), pa.struct([("a", pa.list_(pa.int8()))]), [{"a": [1]}, None, {"a": None}]),
    "fixed bytes": (pa.array([b"ab", None, b"cd"], pa.binary(2)), pa.binary(), [b"ab", None, b"cd"]),
    **{str(kind): (pa.array(DECIMALS, kind), pa.decimal128(5, 2), DECIMALS) for kind in (pa.decimal32(5, 2), pa.decimal64(5, 2))},
    "wide decimals": (pa.array(DECIMALS, pa.decimal256(50, 2)), pa.string(), ["1.50", None, "2.00"]),
    "halves": (pa.array([np.float16(1.5), None, np.float16(2)], pa.float16()), pa.float32(), [1.5, None, 2.0]),
    "lists of halves": (pa.array([[np.float16(1.5)], None, []], pa.list_(pa.float16())), pa.list_(pa.float32()), [[1.5], None, []]),
    "intervals": (pa.array([(1, 2, 3), None, (0, 0, 4)], pa.month_day_nano_interval()), pa.string(), ["MonthDayNano(months=1, days=2, nanoseconds=3)", None, "MonthDayNano(months=0, days=0, nanoseconds=4)"]),
    "structs of intervals": (struct(pa.array([(1, 2, 3), None, None], pa.month_day_nano_interval())), pa.struct([("a", pa.string())]), [{"a": "MonthDayNano(months=1, days=2, nanoseconds=3)"}, {"a": None}, {"a": None}]),
    "uuids": (extension(UUIDS, pa.uuid()), pa.binary(), UUIDS),
    "lists of uuids": (lists(extension(UUIDS, pa.uuid())), pa.list_(pa.binary()), [[b"0" * 16], [None], [b"1" * 16]]),
    "json": (extension(['{"a": 1}', None, "2"], pa.json_()), pa.string(), ['{"a": 1}', None, "2"]),
    "json in views": (extension(['{"a": 1}', None, "2"], pa.json_(SV)), pa.string(), ['{"a": 1}', None, "2"]),
    "bytes as booleans": (extension([1, None, 0], pa.bool8()), pa.int8(), [1, None, 0]),
    "opaque": (extension([b"x", None, b"y"], pa.opaque(BV, "geometry", "somebody")), pa.binary(), [b"x", None, b"y"]),
    "tensors": (extension([[1, 2], None, [3, 4]], pa.fixed_shape_tensor(pa.int8(), [2])), pa.list_(pa.int8()), [[1, 2], None, [3, 4]]),
    "sparse unions": (union(), pa.string(), ["1", "x", "2"]),
    "dense unions": (union("dense"), pa.string(), ["1", "x", "2"]),
    "structs of unions": (struct(union()), pa.struct([("a", pa.string())]), [{"a": "1"}, {"a": "x"}, {"a": "2"}]),
    "nothing": (pa.nulls(3), pa.string(), [None] * 3),
    "lists of nothing": (pa.array([[None], None, []], pa.list_(pa.null())), pa.list_(pa.string()), [[None], None, []]),
}  # fmt: skip


@dataclass
class InMemory:
    """Rows that are Arrow's already, as those of `datasets` are."""

    table: pa.Table
    options: SourceOptions

    def pieces(self):
        return [Piece(("memory",), self.table.nbytes)]

    def read(self, piece):
        yield prepare(self.table, self.options, "memory", range(len(self.table)))


@pytest.mark.parametrize(("column", "kind", "values"), KINDS.values(), ids=KINDS)
def test_a_column_of_any_type_comes_into_a_committed_table(tmp_path, column, kind, values):
    table = pa.table({"text": ["one", "two", "three"], "c": pa.chunked_array([column])})
    try:
        pq.write_table(table, tmp_path / "a.parquet")
        source = open_source(SourceOptions(str(tmp_path / "a.parquet")))
    except pa.ArrowNotImplementedError:
        source = InMemory(table, SourceOptions("memory", ("text",)))
    rows = stored(source)
    made = Table.create(str(tmp_path / "table"), rows.schema, NOTE)
    made.commit(NOTE, add=[write_rows(made.filesystem, "rows.parquet", rows)])
    held = Table.open(str(tmp_path / "table")).read()["c"]
    assert held.type == kind
    assert held.to_pylist() == values
    assert len(rows.filter(pa.array([True, False, True]))) == 2


@pytest.mark.parametrize("name", [name for name in KINDS if "views" in name])
def test_a_row_hash_is_of_the_values_not_of_how_they_are_laid_out(name):
    column, kind, values = KINDS[name]
    tables = [pa.table({"text": ["1", "2", "3"], "c": c}) for c in (column, pa.array(values, kind))]
    options = SourceOptions("x", ("text",))
    views, plain = (prepare(table, options, "x", range(3)).table["row_hash"] for table in tables)
    assert views == plain
