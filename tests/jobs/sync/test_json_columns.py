"""What is stored of a cell of JSON depends on the cell and its column's type, not on its neighbours."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.embed import run
from jobs.sync.config import EmbedConfig
from schemas.cells import json_type
from schemas.columns import SchemaError, common_schema, source_columns
from sources import SourceOptions, open_source
from sources.formats import jsonl
from sources.rows import with_types
from tests.support.hash_model import HashModel
from tests.support.stored import stored

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**53 + 1, 2**63, -(2**63), 2**70])
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "two", "2", '"two"', "ä"])
)
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("ab"), v, max_size=2),
    max_leaves=4,
)
# Columns of one kind, and of all kinds.
columns = st.sampled_from(
    [values, scalars, st.integers(-3, 3) | st.floats(allow_nan=False), st.text(max_size=3) | st.integers(-3, 3)]
).flatmap(lambda cells: st.lists(cells, min_size=1, max_size=8))  # fmt: skip
cuts = st.lists(st.integers(0, 8), max_size=3)


def write(folder, cells, cuts=()):
    """Rows with the cells in column `x`, those after each cut in a file of their own."""
    folder.mkdir(parents=True)
    rows = [{"id": f"{n:02}", "text": f"row {n}", "x": cell} for n, cell in enumerate(cells)]
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for n, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        lines = "".join(json.dumps(row) + "\n" for row in rows[start:stop])
        (folder / f"{n}.jsonl").write_text(lines)
    return open_source(SourceOptions(str(folder), ("text",), id_column="id"))


def as_stored(cell, kind):
    """What a cell is in a column, worked out here once more."""
    if cell is None:
        return None
    if pa.types.is_string(kind):
        return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, sort_keys=True)  # fmt: skip
    if pa.types.is_list(kind):
        return [as_stored(item, kind.value_type) for item in cell]
    if pa.types.is_struct(kind):
        return {field.name: as_stored(cell.get(field.name), field.type) for field in kind}
    return float(cell) if pa.types.is_floating(kind) else cell


def cells_of(table):
    return table["x"].to_pylist() if "x" in table.column_names else None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(columns, cuts, st.integers(1, 4), st.integers(1, 8))
@example(["two", 2, "three", 2.0, True, [1, 2.5], {"a": None}], [1, 3], 2, 4)
@example([1, 2.5, 2**53 + 1, 2], [1, 2], 1, 2)
def test_any_parting_of_the_rows_stores_the_same_cells(
    monkeypatch, cells, cuts, stretch_rows, first_night
):
    with TemporaryDirectory() as folder, monkeypatch.context() as patch:
        whole = stored(write(Path(folder, "whole"), cells))
        patch.setattr(jsonl, "MAX_ROWS", stretch_rows)
        assert stored(write(Path(folder, "parted"), cells, cuts)) == whole
        if (found := cells_of(whole)) is not None:
            assert found == [as_stored(cell, whole.schema.field("x").type) for cell in cells]
        before = stored(write(Path(folder, "before"), cells[:first_night]))
        try:
            after = stored(write(Path(folder, "after"), cells, cuts), before.schema)
        except SchemaError:  # the column's type has no place for what came, and the run says so
            assert cells_of(before) is not None
            assert before.schema.field("x").type != whole.schema.field("x").type
            return
        if (held := cells_of(before)) is not None:
            assert cells_of(after)[:first_night] == held
            kind = before.schema.field("x").type
            assert cells_of(after) == [as_stored(cell, kind) for cell in cells]


@given(columns, st.integers(0, 8))
def test_the_type_of_values_is_the_common_type_of_their_parts(cells, at):
    parts = (pa.schema([("x", json_type(part))]) for part in (cells[:at], cells[at:]))
    assert common_schema(parts).field("x").type == json_type(cells)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([None, None], pa.null()),
        ([True, None], pa.bool_()),
        ([1, -(2**63), 2**63 - 1], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([2**63], pa.string()),
        ([1, True], pa.string()),
        ([1, "a"], pa.string()),
        ([[1], [2.5], []], pa.list_(pa.float64())),
        ([[1], ["a"]], pa.string()),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([{"a": 1}, {"a": "x"}], pa.string()),
        ([{"a": 1}, [1]], pa.string()),
    ],
    ids=str,
)
def test_types(cells, kind):
    assert json_type(cells) == kind
    assert json_type(cells[::-1]) == kind or pa.types.is_struct(kind)


def test_numbers_that_are_none_and_nests_without_end_are_stored(tmp_path):
    deep: list = []
    for _ in range(90):
        deep = [deep]
    cells = [float("nan"), float("-inf"), "x", deep]
    table = stored(write(tmp_path / "a", cells))
    assert table["x"].to_pylist() == ["NaN", "-Infinity", "x", "[" * 91 + "]" * 91]
    assert stored(write(tmp_path / "b", [deep]))["x"].to_pylist() == ["[" * 91 + "]" * 91]


def test_a_column_of_json_and_of_parquet_is_one_column(tmp_path):
    folder = tmp_path / "a"
    write(folder, [2, "two", 2.0, True])

    def held(**columns):
        for name, cells in columns.items():
            names = [f"{name}0", f"{name}1"]
            rows = pa.table({"id": names, "text": names, "x": cells})
            pq.write_table(rows, folder / f"{name}.parquet")
        table = stored(open_source(SourceOptions(str(folder), ("text",), id_column="id")))
        return dict(zip(table["id"].to_pylist(), table["x"].to_pylist(), strict=True))

    texts = {
        "00": "2", "01": "two", "02": "2.0", "03": "true",
        "a0": "2", "a1": "3", "b0": "2.0", "b1": "0.1", "c0": "true", "c1": "false",
    }  # fmt: skip
    assert held(a=[2, 3], b=[2.0, 0.1], c=[True, False]) == texts
    data = {name: text.encode() for name, text in texts.items()}
    assert held(d=[b"2", b"\xff"]) == {**data, "d0": b"2", "d1": b"\xff"}


def test_bytes_in_a_table_of_text_are_text_where_they_can_be(tmp_path):
    for name, cells in {"a": [2, 3], "b": [b"ok", b"\xff"], "c": [b"ok", b"a"]}.items():
        rows = pa.table({"text": [f"{name}0", f"{name}1"], "x": cells})
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    source = open_source(SourceOptions(str(tmp_path), ("text",)))
    assert stored(source)["x"].to_pylist() == [b"2", b"3", b"ok", b"\xff", b"ok", b"a"]
    text = pa.schema([("x", pa.string())])
    assert stored(source, text)["x"].to_pylist() == ["2", "3", "ok", "b'\\xff'", "ok", "a"]


def test_whole_numbers_that_a_double_cannot_hold_are_rounded_and_told(tmp_path):
    for name, cell in {"a": 2**53 + 1, "b": 0.5}.items():
        pq.write_table(pa.table({"text": [name], "n": [cell]}), tmp_path / f"{name}.parquet")
    assert stored(open_source(SourceOptions(str(tmp_path))))["n"].to_pylist() == [2.0**53, 0.5]
    schemas = [pa.schema([("n", kind)]) for kind in (pa.int64(), pa.float64())]
    (warning,) = source_columns(schemas)[1]
    assert warning.startswith("column 'n' holds whole numbers here and fractions there: it becomes")
    assert source_columns([pa.schema([("n", pa.int32())]), schemas[1]])[1] == []


def test_a_cell_that_a_file_got_since_its_types_were_decided_is_null(tmp_path):
    source = write(tmp_path / "a", [1, "two"])
    (piece,) = source.pieces()
    (rows,) = with_types(source, {"x": pa.int64()}).read(piece)
    assert rows.table["x"].to_pylist() == [1, None]


def test_the_name_of_a_column_does_not_depend_on_which_others_a_stretch_has(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_ROWS", 1)
    lines = ['{"text": "a", "id": 1, "source_id": "x"}', '{"text": "b", "source_id": "y"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = stored(open_source(SourceOptions(str(tmp_path), ("text",))))
    assert table.select(["source_id", "source_source_id"]).to_pylist() == [
        {"source_id": 1, "source_source_id": "x"},
        {"source_id": None, "source_source_id": "y"},
    ]


# -- nights ---------------------------------------------------------------------------------------


def night(tmp_path, *cells):
    source = tmp_path / "a.jsonl"
    rows = [{"id": str(n), "text": f"row {n}", "label": cell} for n, cell in enumerate(cells)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = run(
        EmbedConfig(str(source), str(tmp_path / "table"), "hash", id_column="id"), HashModel()
    )
    rows = DeltaTable(tmp_path / "table").to_pyarrow_table().sort_by("id")
    return summary, rows["label"].to_pylist()


def test_a_file_that_grows_changes_no_label_of_a_row_that_was_there(tmp_path):
    assert night(tmp_path, "one", "two")[1] == ["one", "two"]
    summary, labels = night(tmp_path, "one", "two", 3, 4.0, [5, "x"])
    assert (summary.unchanged, summary.updated, summary.embedded) == (2, 0, 3)
    assert labels == ["one", "two", "3", "4.0", '[5, "x"]']


def test_a_type_that_the_table_cannot_hold_stops_the_run_before_it_changes_anything(tmp_path):
    assert night(tmp_path, 1, 2)[1] == [1, 2]
    version = DeltaTable(tmp_path / "table").version()
    message = (
        "Column 'label' is string in the source and int64 in the table.*--columns.*another TABLE"
    )
    with pytest.raises(SchemaError, match=message):
        night(tmp_path, 1, 2, "three", 4)
    table = DeltaTable(tmp_path / "table")
    assert sorted(table.to_pyarrow_table()["label"].to_pylist()) == [1, 2]
    assert table.version() <= version + 2  # the claim, and its end
