"""A source that changes between the two times that a run reads it."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sources.folder import FolderSource
from sources.formats import parquet
from tests.faults.runs import Child, embed

pytestmark = pytest.mark.usefixtures("few_rows_here")


def line(name, text, label):
    return json.dumps({"id": name, "text": text, "label": label}) + "\n"


def rows_of(uri, *columns):
    rows = DeltaTable(str(uri)).to_pyarrow_table(columns=list(columns)).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


@pytest.fixture
def source(tmp_path):
    """Files `a` and `b` of three rows each; rows 4 and 5 share their text."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(line(f"{i}", f"text {i}", "old") for i in range(3)))
    write_b(folder, "old")
    return folder


def write_b(folder, word):
    texts = [f"{word} text 3", f"{word} shared", f"{word} shared"]
    rows = [line(f"{i}", text, "old") for i, text in enumerate(texts, start=3)]
    (folder / "b.jsonl").write_text("".join(rows))


def run_while(tmp_path, source, change, name="a.jsonl"):
    """A run in which a file of the source takes the change after it was planned; its summary."""
    (tmp_path / "by").write_text(change)
    files = {"file": str(source / name), "by": str(tmp_path / "by")}
    fault = {"source": {**files, "phase": "work", "at": 1}}
    with Child(tmp_path, source, tmp_path / "table", faults=fault, max_failures=1.0) as child:
        return child.summary()


def test_rows_that_move_while_a_run_reads_stay_as_they_are(tmp_path, source):
    table = tmp_path / "table"
    embed(source, table)
    before = rows_of(table, "id", "text")
    write_b(source, "new")
    one_row_more = line("9", "more", "old") + (source / "b.jsonl").read_text()
    summary = run_while(tmp_path, source, one_row_more, "b.jsonl")
    assert (summary["rows_read"], summary["unchanged"], summary["failed"]) == (6, 3, 3)
    assert rows_of(table, "id", "text") == before
    reason = "the source changed while the run went on; the next run takes it"
    failures = rows_of(f"{table}.failures", "id", "content_hash", "stage", "position", "reason")
    assert failures == [(None, None, "changed", position, reason) for position in (0, 1, 2)]
    after = embed(source, table)
    assert (after.unchanged, after.replaced, after.embedded, after.failed) == (3, 3, 1, 0)
    assert [text for _, text in rows_of(table, "id", "text")] == [
        *("text 0", "text 1", "text 2"),
        *("new text 3", "new shared", "new shared", "more"),
    ]


def test_a_file_that_loses_a_row_while_a_run_reads_moves_no_row_of_another(tmp_path, source):
    table = tmp_path / "table"
    embed(source, table)
    write_b(source, "new")
    one_row_less = "".join(line(f"{i}", f"text {i}", "old") for i in range(1, 3))
    summary = run_while(tmp_path, source, one_row_less)
    assert (summary["rows_read"], summary["unchanged"], summary["replaced"]) == (6, 3, 3)
    assert embed(source, table).unchanged == 5


def test_a_label_that_changes_while_a_run_reads_comes_with_the_next(tmp_path, source):
    table = tmp_path / "table"

    def label_all(label):
        return "".join(line(f"{i}", f"text {i}", label) for i in range(3))

    embed(source, table)
    (source / "a.jsonl").write_text(label_all("new"))
    summary = run_while(tmp_path, source, label_all("newest"))
    assert (summary["unchanged"], summary["updated"], summary["failed"]) == (3, 0, 3)
    assert {label for _, label in rows_of(table, "id", "label")} == {"old"}
    (source / "a.jsonl").write_text(label_all("new"))  # back to what was planned
    assert embed(source, table).updated == 3
    assert rows_of(table, "id", "label")[:3] == [("0", "new"), ("1", "new"), ("2", "new")]


def test_a_row_that_is_healed_leaves_the_failures_also_while_a_file_is_broken(tmp_path, source):
    table = tmp_path / "table"
    (source / "b.jsonl").write_text(line("8", "POISON", "old") + line("9", "POISON too", "old"))
    embed(source, table, max_failures=1.0)
    assert [name for name, *_ in rows_of(f"{table}.failures", "id")] == ["8", "9"]
    (source / "b.jsonl").write_text(line("8", "healed", "old") + line("9", "POISON too", "old"))
    (source / "c.jsonl.gz").write_bytes(gzip.compress(b"cut off")[:12])
    embed(source, table, max_failures=1.0)
    assert ("8", "healed") in rows_of(table, "id", "text")
    failures = rows_of(f"{table}.failures", "stage", "id")
    assert failures == [("embed", "9"), ("file", None)]


def test_failures_of_a_file_that_is_gone_are_over_also_while_another_is_broken(tmp_path, source):
    table = tmp_path / "table"
    (source / "c.jsonl").write_text(line("7", "POISON", "old") + "no JSON\n")
    (source / "d.jsonl.gz").write_bytes(gzip.compress(b"cut off")[:12])
    embed(source, table, max_failures=1.0)
    assert [name for (name,) in rows_of(f"{table}.failures", "source_file")] == [
        *("c.jsonl", "c.jsonl", "d.jsonl.gz")
    ]
    for name in ("c.jsonl", "d.jsonl.gz"):
        (source / name).unlink()
    (source / "e.jsonl.gz").write_bytes(gzip.compress(b"cut off")[:12])
    embed(source, table, max_failures=1.0)
    assert rows_of(f"{table}.failures", "source_file", "stage") == [("e.jsonl.gz", "file")]


def test_a_broken_file_has_one_failure_also_if_its_parts_failed_one_by_one(
    tmp_path, source, monkeypatch
):
    """A Parquet file is cut into parts by its footer, and then it breaks before they are read."""
    monkeypatch.setattr(parquet, "PIECE_ROWS", 2)
    table, path = tmp_path / "table", source / "c.parquet"
    rows = pa.table({"id": list("wxyz"), "text": list("wxyz"), "label": ["old"] * 4})
    pq.write_table(rows, path, row_group_size=2)

    def broken_meanwhile(self):
        pieces = whole(self)
        path.write_bytes(b"cut off")
        return pieces

    whole = FolderSource.pieces
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "pieces", broken_meanwhile)
        embed(source, table, max_failures=1.0)
    failures = f"{table}.failures"
    assert rows_of(failures, "source_file", "position", "stage") == [
        ("c.parquet", 0, "file"),
        ("c.parquet", 2, "file"),
    ]
    embed(source, table, max_failures=1.0)
    assert rows_of(failures, "source_file", "position", "stage") == [("c.parquet", 0, "file")]
