import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from schemas.delta.fragments import (
    ROW_GROUP_ROWS,
    Fragment,
    is_made_by,
    new_name,
    write_rows,
    write_tables,
)
from schemas.delta.store import LOG_RETENTION, Refused, StoreError, Table
from schemas.delta.versions import restore, vacuum
from schemas.tables.embeddings import Fingerprint
from schemas.vectors import vector_column

from ..conftest import FINGERPRINT, SCHEMA, append_foreign, ids_in, note, rows_of, write


def files_of(table):
    return [(file.name, file.n_rows) for file in table.files()]


def log_of(uri, version=-1):
    """The actions of one version, as the log has them."""
    path = sorted(Path(uri, "_delta_log").glob("*.json"))[version]
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- open and create ------------------------------------------------------------------------------


def test_where_there_is_nothing_there_is_no_table(uri):
    assert Table.open(uri) is None
    os.mkdir(uri)
    assert Table.open(uri) is None


def test_a_new_table_is_empty_and_its_first_commit_carries_the_note(uri):
    made = Table.create(uri, SCHEMA, note(state="claim"))
    opened = Table.open(uri)
    for table in (made, opened):
        assert (table.version, table.files()) == (0, [])
        assert (table.read().num_rows, table.read().column_names) == (0, ["id", "embedding"])
        assert next(table.history())["note"]["state"] == "claim"
        assert Fingerprint.of(table.schema) == FINGERPRINT


def test_the_log_of_a_table_is_kept_for_years(uri):
    Table.create(uri, SCHEMA, note())
    (metadata,) = [action["metaData"] for action in log_of(uri) if "metaData" in action]
    assert metadata["configuration"] == {"delta.logRetentionDuration": LOG_RETENTION}


def test_a_folder_with_other_files_is_not_made_a_table(uri):
    os.mkdir(uri)
    Path(uri, "notes.txt").touch()
    with pytest.raises(StoreError, match=r"is no table and not empty \(it holds notes.txt\)"):
        Table.create(uri, SCHEMA, note())
    assert os.listdir(uri) == ["notes.txt"]


def test_a_file_is_no_place_for_a_table(uri):
    Path(uri).touch()
    with pytest.raises(StoreError, match="is a file. TABLE is a folder"):
        Table.create(uri, SCHEMA, note())


MISREAD = ["a%20b", "a%25b", "a%2fb", "a%C3%A4", "deep%20er/b", "a\\b", "a\tb", "a\x7f"]
MISREAD_URIS = [*MISREAD, "a#b", "a?b", "a ", "deeper/../b", "a//b"]


@pytest.mark.parametrize(
    ("scheme", "name"),
    [("", name) for name in MISREAD] + [("file://", name) for name in MISREAD_URIS],
)
def test_names_that_delta_reads_as_others_are_refused_before_anything_is_written(
    tmp_path, scheme, name
):
    place = f"{scheme}{tmp_path}/{name}"
    for attempt in (Table.open, lambda uri: Table.create(uri, SCHEMA, note())):
        with pytest.raises(StoreError, match="would mix the table up .* Rename that folder, or"):
            attempt(place)
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_folder_that_delta_reads_as_another_is_refused(tmp_path):
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a%20b")
    for place in (f"{tmp_path}/link/table", f"file://{tmp_path}/link/table"):
        with pytest.raises(StoreError, match=r"takes '%20' in /.*/a%20b/table"):
            Table.create(place, SCHEMA, note())


def test_names_that_delta_reads_as_others_are_refused_in_buckets_too():
    for name in MISREAD_URIS:
        with pytest.raises(StoreError, match="would mix the table up with another"):
            Table.open(f"s3://bucket/{name}")


def test_a_relative_table_in_a_folder_that_delta_reads_as_another_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a%20b").mkdir()
    monkeypatch.chdir(tmp_path / "a%20b")
    with pytest.raises(StoreError, match="takes '%20'"):
        Table.open("table")


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("name", ["a b", "100%", "a%zz", "a+b", "ä 日", "a=b;c", "[a]{b}*"])
def test_a_table_of_another_odd_name_lies_there_and_nowhere_else(tmp_path, scheme, name):
    made = Table.create(f"{scheme}{tmp_path}/{name}", SCHEMA, note())
    made.commit(note(), add=[write(made, "first.parquet", ["a", "b"])])
    assert ids_in(Table.open(made.uri)) == ["a", "b"]
    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(tmp_path / name)) == ["_delta_log", "first.parquet"]


@pytest.mark.parametrize("name", ["a#b", "a?b", "a "])
def test_signs_of_uris_are_plain_letters_in_paths(tmp_path, name):
    made = Table.create(f"{tmp_path}/{name}", SCHEMA, note())
    made.commit(note(), add=[write(made, "first.parquet", ["a"])])
    assert ids_in(Table.open(made.uri)) == ["a"]
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_is_not_opened_as_a_table(uri, scheme):
    Path(uri).write_text("x")
    try:
        assert Table.open(f"{scheme}{uri}") is None
    except StoreError as error:
        assert uri in str(error)  # noqa: PT017 - either is an answer, a traceback is none


def test_an_empty_folder_becomes_a_table(uri):
    os.mkdir(uri)
    assert Table.create(uri, SCHEMA, note()).files() == []


def test_a_folder_of_somebody_elses_parquet_files_stays_theirs(uri):
    os.mkdir(uri)
    Path(uri, "theirs.parquet").touch()
    with pytest.raises(StoreError, match="not empty .it holds theirs.parquet"):
        Table.create(uri, SCHEMA, note())


def test_of_two_that_make_a_table_the_second_is_refused(table, uri):
    with pytest.raises(Refused, match="was made by somebody else just now"):
        Table.create(uri, SCHEMA, note("run-2"))
    assert ids_in(Table.open(uri)) == ["a", "b"]


def test_a_schema_that_delta_refuses_is_one_message(uri):
    schema = pa.schema(
        [("id", pa.string()), ("c", pa.struct([("A", pa.int8()), ("a", pa.int8())]))]
    )
    with pytest.raises(StoreError, match="Cannot make a table at .*Duplicate field name"):
        Table.create(uri, schema, note())


def test_an_unknown_version_is_one_message(table, uri):
    assert Table.open(uri, version=0).files() == []
    with pytest.raises(StoreError, match=f"Cannot open {uri}"):
        Table.open(uri, version=9)


def test_a_broken_log_is_one_message(table, uri):
    Path(uri, "_delta_log", f"{0:020}.json").write_text("{")
    with pytest.raises(StoreError, match=f"Cannot open {uri}"):
        Table.open(uri)


def test_a_table_with_deletion_vectors_is_refused_by_name(table, uri):
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors"],
    }
    Path(uri, "_delta_log", f"{2:020}.json").write_text(json.dumps({"protocol": protocol}))
    with pytest.raises(StoreError, match="uses deletionVectors, which embatch cannot read"):
        Table.open(uri)


@pytest.mark.parametrize("name", ["a b", "größe", "a#b", "a?b", "a%b"])
def test_a_table_lies_in_the_folder_that_was_named(tmp_path, name):
    uri = str(tmp_path / name)
    table = Table.create(uri, SCHEMA, note())
    table.commit(note(), add=[write(table, "rows.parquet", ["a"])])
    assert ids_in(Table.open(uri)) == ["a"]
    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(uri)) == ["_delta_log", "rows.parquet"]


def test_a_file_uri_is_the_same_place_as_its_path(table, uri):
    same = Table.open(f"file://{uri}")
    same.commit(note(), add=[write(same, "second.parquet", ["c"])])
    assert ids_in(Table.open(uri)) == ["a", "b", "c"]


# -- commits --------------------------------------------------------------------------------------


def test_a_commit_adds_and_removes_in_one_version(table, uri):
    first = table.files()
    assert first == [Fragment("first.parquet", Path(uri, "first.parquet").stat().st_size, 2)]
    table.commit(note(), add=[write(table, "second.parquet", ["b", "c"])], remove=first)
    for seen in (table, Table.open(uri)):
        assert (seen.version, ids_in(seen)) == (2, ["b", "c"])
        assert files_of(seen) == [("second.parquet", 2)]
    assert ids_in(Table.open(uri, version=1)) == ["a", "b"]


def test_a_commit_of_nothing_is_a_version_with_a_note(table, uri):
    before = datetime.now(UTC)
    table.commit({**note(state="done"), "rows_read": 7})
    newest, *older = Table.open(uri).history()
    assert {k: v for k, v in newest["note"].items() if k != "time"} == {**note(state="done"), "rows_read": 7}  # fmt: skip
    assert before <= datetime.fromisoformat(newest["note"]["time"]) <= datetime.now(UTC)
    assert [commit["version"] for commit in (newest, *older)] == [2, 1, 0]
    assert len(list(table.history(1))) == 1
    assert ids_in(table) == ["a", "b"]


def test_a_foreign_commit_has_no_note(table, uri):
    append_foreign(uri, ["c"])
    commits = list(Table.open(uri).history())
    assert ["note" in commit for commit in commits] == [False, True, True]


def test_a_foreign_file_with_an_odd_name_is_read_and_removed(table, uri):
    table.commit(note(), add=[write(table, "part 1=x%20ä.parquet", ["c"])])
    assert ids_in(table) == ["a", "b", "c"]
    odd = [file for file in table.files() if file.n_rows == 1]
    assert [file.name for file in odd] == ["part 1=x%20ä.parquet"]
    assert table.read_file(odd[0].name, ["id"])["id"].to_pylist() == ["c"]
    table.commit(note(), remove=odd)
    assert ids_in(Table.open(uri)) == ["a", "b"]


def test_a_handle_that_lags_behind_is_refused_and_changes_nothing(table, uri):
    stale = Table.open(uri)
    table.commit(note(), add=[write(table, "second.parquet", ["c"])])
    lost = write(stale, "lost.parquet", ["d"])
    with pytest.raises(Refused, match=f"Somebody else wrote version 2 of {uri}"):
        stale.commit(note("run-2"), add=[lost], remove=stale.files())
    assert (Table.open(uri).version, ids_in(Table.open(uri))) == (2, ["a", "b", "c"])
    assert stale.version == 1


@pytest.mark.parametrize(
    "write_more",
    [
        lambda t: t.commit(note("run-2")),
        lambda t: t.overwrite(note("run-2"), SCHEMA, []),
        lambda t: t.add_columns(note("run-2"), [pa.field("n", pa.int8())]),
        lambda t: t.describe(note("run-2"), {"embatch.model": '"other"'}),
        lambda t: restore(t, note("run-2"), 0),
    ],
    ids=["commit", "overwrite", "add_columns", "describe", "restore"],
)
def test_after_a_foreign_append_every_write_is_refused(table, uri, write_more):
    append_foreign(uri, ["c"])
    with pytest.raises(Refused, match="Somebody else wrote version 2"):
        write_more(table)
    opened = Table.open(uri)
    assert (opened.version, ids_in(opened), opened.schema) == (2, ["a", "b", "c"], table.schema)


def test_a_commit_whose_answer_got_lost_is_recognised_as_ours(table, uri, monkeypatch):
    commit = DeltaTable.create_write_transaction

    def commit_and_lose_the_answer(*args, **kwargs):
        commit(*args, **kwargs)
        raise CommitFailedError("connection reset")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit_and_lose_the_answer)
    table.commit(note(), add=[write(table, "second.parquet", ["c"])])
    monkeypatch.undo()
    assert (table.version, ids_in(table)) == (2, ["a", "b", "c"])
    table.commit(note(state="done"))
    assert Table.open(uri).version == 3


def test_a_log_that_cannot_be_written_is_no_refusal(table, uri, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", fail)
    with pytest.raises(StoreError, match=f"Cannot write to {uri}: disk full") as caught:
        table.commit(note())
    assert caught.type is StoreError
    assert table.version == 1


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        (lambda f: Fragment("missing.parquet", f.size_bytes, 1), "missing.parquet should have .* share"),
        (lambda f: Fragment(f.name, f.size_bytes + 1, 1), r"should have \d+ bytes and has \d+"),
        (lambda f: Fragment(f.name, f.size_bytes, 2), "second.parquet holds 1 rows, not 2"),
    ],
    ids=["missing", "size", "rows"],
)  # fmt: skip
def test_a_file_that_is_not_as_reported_commits_nothing(table, uri, fragment, message):
    good, bad = write(table, "good.parquet", ["c"]), write(table, "second.parquet", ["d"])
    for commit in (
        lambda add: table.commit(note(), add=add, remove=table.files()),
        lambda add: table.overwrite(note(), SCHEMA, add),
    ):
        with pytest.raises(StoreError, match=message):
            commit([good, fragment(bad)])
    assert (Table.open(uri).version, ids_in(Table.open(uri))) == (1, ["a", "b"])


def test_many_commits_and_a_checkpoint_stay_readable(table, uri):
    for i in range(12):
        table.commit(note(), add=[write(table, f"{i}.parquet", [str(i)])])
    table.checkpoint()
    opened = Table.open(uri)
    assert (opened.version, len(opened.files()), len(list(opened.history()))) == (13, 13, 14)
    assert {file.n_rows for file in opened.files()} == {1, 2}
    assert Fingerprint.of(opened.schema) == FINGERPRINT
    opened.commit(note(), remove=opened.files())
    assert ids_in(opened) == []


# -- columns --------------------------------------------------------------------------------------


def test_a_new_column_is_null_in_older_rows(table, uri):
    table.add_columns(note(state="claim"), [pa.field("n", pa.int64())])
    assert (table.version, table.schema.names) == (2, ["id", "embedding", "n"])
    rows = rows_of(["c"]).append_column("n", pa.array([7]))
    table.commit(note(), add=[write_rows(table.filesystem, "second.parquet", rows)])
    read = Table.open(uri).read(["id", "n"])
    assert sorted(zip(*read.to_pydict().values(), strict=True)) == [("a", None), ("b", None), ("c", 7)]  # fmt: skip
    assert Fingerprint.of(Table.open(uri).schema) == FINGERPRINT
    assert [commit["note"]["state"] for commit in table.history(2)] == ["wave", "claim"]


def test_describe_replaces_what_the_vectors_are_and_keeps_the_rows(table, uri):
    other = Fingerprint("other", 4, "space-1", "recipe-2", unit=False)
    table.describe(note(state="claim"), other.metadata())
    assert Fingerprint.of(table.schema) == Fingerprint.of(Table.open(uri).schema) == other
    assert Fingerprint.of(table.file_schema("first.parquet")) == FINGERPRINT
    assert ids_in(Table.open(uri)) == ["a", "b"]


OTHER = Fingerprint("other", 2, "space-2", "recipe-2")
OTHER_SCHEMA = pa.schema([pa.field("id", pa.string()), OTHER.field, pa.field("n", pa.int8())])


def overwrite(table):
    vectors = vector_column(np.ones((1, 2), np.float32))
    rows = pa.table([["z"], vectors, pa.array([1], pa.int8())], schema=OTHER_SCHEMA)
    added = [write_rows(table.filesystem, "other.parquet", rows)]
    table.overwrite(note("run-2"), OTHER_SCHEMA, added)


def test_an_overwrite_changes_rows_and_columns_in_one_version(table, uri):
    overwrite(table)
    for seen in (table, Table.open(uri)):
        assert (seen.version, files_of(seen)) == (2, [("other.parquet", 1)])
        assert seen.schema.names == ["id", "embedding", "n"]
        assert Fingerprint.of(seen.schema) == OTHER
        assert seen.read().to_pylist() == [{"id": "z", "embedding": [1.0, 1.0], "n": 1}]
    table.commit(note(), remove=table.files())
    assert Table.open(uri).read().num_rows == 0


# -- reading --------------------------------------------------------------------------------------


def test_one_file_is_read_in_its_order_and_columns_that_it_lacks_are_left_out(table):
    assert table.read_file("first.parquet")["id"].to_pylist() == ["a", "b"]
    assert table.read_file("first.parquet", ["id", "n"]).column_names == ["id"]
    assert table.read_file("first.parquet", []).column_names == []


def test_the_rows_of_a_foreign_file_without_statistics_are_counted(table, uri):
    path = Path(uri, "_delta_log", f"{2:020}.json")
    add = {
        "path": "second.parquet",
        "partitionValues": {},
        "modificationTime": 0,
        "dataChange": True,
    }
    size = write(table, "second.parquet", ["c"]).size_bytes
    path.write_text(json.dumps({"add": {**add, "size": size}}))
    assert files_of(Table.open(uri)) == [("first.parquet", 2), ("second.parquet", 1)]


# -- restore and vacuum ---------------------------------------------------------------------------


def age(path, hours):
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_restore_brings_an_older_version_s_rows_back(table, uri):
    table.commit(note(), add=[write(table, "second.parquet", ["c"])], remove=table.files())
    restore(table, note(state="restored"), 1)
    assert (table.version, files_of(table)) == (3, [("first.parquet", 2)])
    restore(table, note(state="restored"), 0)
    assert (Table.open(uri).version, ids_in(Table.open(uri))) == (4, [])
    restore(table, note(state="restored"), 2)
    assert ids_in(Table.open(uri)) == ["c"]
    assert next(table.history(1))["note"]["state"] == "restored"


def test_restore_goes_back_across_an_overwrite(table, uri):
    overwrite(table)
    restore(table, note(state="restored"), 1)
    for seen in (table, Table.open(uri)):
        assert (seen.version, ids_in(seen)) == (3, ["a", "b"])
        assert seen.schema.names == ["id", "embedding"]
        assert Fingerprint.of(seen.schema) == FINGERPRINT
    restore(table, note(state="restored"), 2)
    assert Table.open(uri).read().to_pylist() == [{"id": "z", "embedding": [1.0, 1.0], "n": 1}]


def test_restore_goes_back_to_what_the_vectors_were(table, uri):
    table.describe(note(), Fingerprint("other", 4, "space-1", "recipe-2").metadata())
    restore(table, note(), 1)
    assert Fingerprint.of(Table.open(uri).schema) == FINGERPRINT
    assert ids_in(Table.open(uri)) == ["a", "b"]


def test_restore_of_an_unknown_version_is_one_message(table, uri):
    with pytest.raises(StoreError, match=f"Cannot open {uri}"):
        restore(table, note(), 7)


def test_restore_says_what_vacuum_took_and_changes_nothing(table, uri):
    table.commit(note(), add=[write(table, "second.parquet", ["c"])], remove=table.files())
    assert vacuum(table, 0, dry_run=False) == ["first.parquet"]
    version = table.version
    with pytest.raises(StoreError, match=f"Version 1 of {uri} cannot come back: vacuum took first.parquet"):  # fmt: skip
        restore(table, note(), 1)
    assert (Table.open(uri).version, ids_in(Table.open(uri))) == (max(version, Table.open(uri).version), ["c"])  # fmt: skip


def test_vacuum_keeps_young_files_that_nobody_committed(table, uri):
    for name, hours in (("young.parquet", 23), ("old.parquet", 25)):
        write(table, name, ["x"])
        age(Path(uri, name), hours)
    assert vacuum(table, 0, dry_run=True) == ["old.parquet"]
    assert Path(uri, "old.parquet").exists()
    assert vacuum(table, 0, dry_run=False) == ["old.parquet"]
    assert sorted(path.name for path in Path(uri).glob("*.parquet")) == ["first.parquet", "young.parquet"]  # fmt: skip
    assert ids_in(Table.open(uri)) == ["a", "b"]


def test_vacuum_keeps_what_a_recent_version_holds(table, uri):
    age(Path(uri, "first.parquet"), 1000)
    table.commit(note(), add=[write(table, "second.parquet", ["c"])], remove=table.files())
    assert vacuum(table, 168, dry_run=False) == []
    assert ids_in(Table.open(uri, version=1)) == ["a", "b"]
    assert vacuum(table, 0, dry_run=False) == ["first.parquet"]
    assert ids_in(Table.open(uri)) == ["c"]


def test_vacuum_of_half_an_hour_keeps_what_was_removed_a_minute_ago(table, uri):
    table.commit(note(), remove=table.files())
    assert vacuum(table, 0.5, dry_run=True) == []


def test_a_run_goes_on_after_its_own_vacuum(table, uri):
    table.commit(note(), add=[write(table, "second.parquet", ["c"])], remove=table.files())
    vacuum(table, 0, dry_run=False)
    table.commit(note(state="released"))
    assert next(Table.open(uri).history(1))["note"]["state"] == "released"


# -- files ----------------------------------------------------------------------------------------


def test_a_file_is_what_the_design_says(tmp_path):
    n = 30_000
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    vectors = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    rows = pa.table([pa.array(["x"] * n), vector_column(vectors)], schema=SCHEMA)
    fragment = write_rows(fs, "rows.parquet", rows)
    path = tmp_path / "rows.parquet"
    assert fragment == Fragment("rows.parquet", path.stat().st_size, n)
    with pq.ParquetFile(path) as parquet:
        assert parquet.schema_arrow.field("embedding").type == pa.list_(pa.float32(), 4)
        assert Fingerprint.of(parquet.schema_arrow) == FINGERPRINT
        metadata = parquet.metadata
        assert [metadata.row_group(i).num_rows for i in range(2)] == [25_000, 5_000]
        text, vector = (metadata.row_group(0).column(i) for i in range(2))
        assert (text.compression, vector.compression) == ("ZSTD", "ZSTD")
        assert "BYTE_STREAM_SPLIT" in vector.encodings
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(vector.encodings)
        assert "RLE_DICTIONARY" in text.encodings
        assert (text.has_column_index, text.has_offset_index) == (True, True)
        assert parquet.read() == rows


def test_a_file_without_vectors_and_one_without_rows_are_written(tmp_path):
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert write_rows(fs, "ids.parquet", pa.table({"id": ["a"]})).n_rows == 1
    assert write_rows(fs, "none.parquet", SCHEMA.empty_table()).n_rows == 0
    assert pq.read_table(tmp_path / "none.parquet").schema == SCHEMA


def test_half_a_file_is_not_left_behind(tmp_path):
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def tables():
        yield pa.concat_tables([rows_of(["a"])] * ROW_GROUP_ROWS)
        assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_tables(fs, "rows.parquet", SCHEMA, tables())
    assert list(tmp_path.iterdir()) == []


def test_a_file_s_name_says_who_made_it_and_never_comes_twice():
    one, other = new_name("run-1", "00001"), new_name("run-1", "00001")
    assert one != other
    assert is_made_by(one, "run-1")
    assert not is_made_by(one, "run-2")
    assert not is_made_by(new_name("run-1", "kept"), "run-1")


def test_duckdb_and_polars_read_what_we_commit(table, uri):
    import duckdb
    import polars as pl

    rows = duckdb.from_arrow(DeltaTable(uri).to_pyarrow_dataset())
    assert rows.select("id").order("id").fetchall() == [("a",), ("b",)]
    assert pl.read_delta(uri, use_pyarrow=True)["id"].sort().to_list() == ["a", "b"]
    # Polars' own reader knows either lists or arrays: it takes all columns but the vectors.
    assert pl.scan_delta(uri).select("id").collect()["id"].sort().to_list() == ["a", "b"]


def test_views_that_a_foreign_tool_wrote_are_read_as_plain_types(uri):
    schema = pa.schema([("id", pa.string()), ("tags", pa.list_(pa.string()))])
    made = Table.create(uri, schema, note())
    views = pa.schema([("id", pa.string_view()), ("tags", pa.list_(pa.string_view()))])
    rows = pa.table([["a", "b"], [["x"], None]], schema=schema).cast(views)
    made.commit(note(), add=[write_rows(made.filesystem, "rows.parquet", rows)])
    assert made.file_schema("rows.parquet").equals(schema)
    assert made.read().take([1, 0]).to_pylist() == [
        {"id": "b", "tags": None},
        {"id": "a", "tags": ["x"]},
    ]


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"x" * len(data)])
def test_a_damaged_file_is_named(uri, damage):
    table = Table.create(uri, SCHEMA, note())
    file = write(table, "a.parquet", ["1", "2"])
    table.commit(note(), add=[file])
    path = Path(uri, "a.parquet")
    path.write_bytes(damage(path.read_bytes()))
    for read in (table.read, lambda: table.file_schema("a.parquet")):
        with pytest.raises(StoreError, match=rf"Cannot read a.parquet of {uri}: .*Parquet"):
            read()
