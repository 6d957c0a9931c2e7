"""When a run counts as failed, what it says of its rows, and what it refuses to take out of a table."""

import json
import time

import pytest

from jobs.embed import run
from jobs.runs import runs_of
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from jobs.sync.summary import TooManyFailures
from schemas.delta import claim
from schemas.delta.store import Refused, Table
from tests.support.hash_model import HashModel
from tests.support.tables import jsonl, reasons

pytestmark = pytest.mark.usefixtures("few_rows_here")
BROKEN_LINE = "{not json\n"


def rows(n, text="story {}", start=0):
    return [{"id": f"n{i}", "text": text.format(i)} for i in range(start, start + n)]


def embed(source, table, **options):
    options = {"id_column": "id", "json": True} | options
    return run(EmbedConfig(str(source), str(table), "hash", **options), HashModel(poison="bad"))


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table"


def test_a_first_run_in_which_every_row_fails_has_failed(tmp_path, table):
    source = jsonl(tmp_path / "a.jsonl", rows(5, "bad {}"))
    for _ in range(2):  # also when they are known
        with pytest.raises(
            TooManyFailures, match=r"No row could be embedded.*embatch failures"
        ) as e:
            embed(source, table)
        assert (e.value.summary.rows_read, e.value.summary.failed) == (5, 5)
    assert embed(source, table, max_failures=1.0).failed == 5  # as was asked for


def test_one_bad_line_on_a_quiet_night_is_a_warning(tmp_path, table):
    source = jsonl(tmp_path / "a.jsonl", rows(40))
    embed(source, table)
    source.write_text(source.read_text() + BROKEN_LINE)
    summary = embed(source, table)
    assert (summary.unchanged, summary.failed) == (40, 1)
    assert summary.warnings == ["of the rows that failed, 1 did not before"]
    again = embed(source, table)
    assert (again.unchanged, again.failed, again.warnings) == (40, 1, [])
    source.write_text(source.read_text() + BROKEN_LINE)
    with pytest.raises(TooManyFailures, match=r"1 rows failed .* more than --max-failures 0\b"):
        embed(source, table, max_failures=0.0)


def test_two_hundred_of_a_thousand_are_too_many_and_what_was_good_stays(tmp_path, table):
    source = jsonl(tmp_path / "a.jsonl", rows(800) + rows(200, "bad {}", 800))
    with pytest.raises(TooManyFailures, match=r"200 rows failed.*20.0% of those tried") as error:
        embed(source, table)
    assert (error.value.summary.embedded, error.value.summary.failed) == (800, 200)
    again = embed(source, table)
    assert (again.unchanged, again.failed) == (800, 200)


def test_failures_that_have_moved_are_no_new_ones_and_stand_where_they_are(tmp_path, table):
    bad = rows(30, "bad {}") + [{"id": None, "text": "x"}] * 30
    source = jsonl(tmp_path / "a.jsonl", bad + rows(200, start=100))
    embed(source, table, max_failures=0.5)
    jsonl(source, rows(5, start=400) + bad + rows(200, start=100))
    summary = embed(source, table, max_failures=0.0)
    assert (summary.embedded, summary.failed, summary.warnings) == (5, 60, [])
    assert [position for position, *_ in reasons(table)] == list(range(5, 65))


def test_a_source_is_one_however_it_is_spelled(tmp_path, table, monkeypatch):
    source = jsonl(tmp_path / "a.jsonl", rows(3))
    source.write_text(source.read_text() + BROKEN_LINE)
    monkeypatch.chdir(tmp_path)
    for spelled in ("a.jsonl", "./a.jsonl", str(source), f"file://{source}"):
        assert embed(spelled, table).failed == 1
        assert [reason for _, _, reason in reasons(table)] == [
            "line 4 is not a JSON object: Expecting property name enclosed in double quotes at character 1"
        ]
    jsonl(source, rows(3))
    embed("a.jsonl", table)
    assert reasons(table) == []


def test_a_row_whose_text_is_emptied_leaves_the_table_and_is_not_deleted(tmp_path, table):
    source = jsonl(tmp_path / "a.jsonl", rows(3))
    embed(source, table)
    jsonl(source, [{"id": "n0", "text": ""}, *rows(2, start=1)])
    summary = embed(source, table, prune=True)
    assert (summary.failed, summary.deleted, summary.withdrawn) == (1, 0, 1)
    assert "1  taken out of the table: what the source holds now failed" in summary.text()
    assert Table.open(str(table)).read(["id"])["id"].to_pylist() == ["n1", "n2"]
    assert runs_of(Table.open(str(table)), 1)[0]["withdrawn"] == 1
    jsonl(source, rows(3))
    assert (embed(source, table).embedded, reasons(table)) == (1, [])


def test_a_source_that_turns_unreadable_empties_no_table(tmp_path, table):
    source = jsonl(tmp_path / "a.jsonl", rows(200))
    embed(source, table)
    version = Table.open(str(table)).version
    jsonl(source, [*rows(140), *rows(60, "", 140)])
    for _ in range(2):
        with pytest.raises(
            SyncError, match=r"60 of the 200 rows .* \(60: text is empty\).*Nothing"
        ):
            embed(source, table)
    held = Table.open(str(table))
    assert (len(held.read(["id"])), reasons(table)) == (200, [])
    assert all(c["note"]["state"] != "wave" for c in held.history(held.version - version))
    assert embed(source, table, max_failures=1.0).withdrawn == 60


def test_what_is_left_out_is_said_in_every_form(tmp_path, table):
    source = tmp_path / "source"
    source.mkdir()
    jsonl(source / "a.jsonl", rows(3))
    for name in ("b.heic", "c.heic", "d.svg", "e"):
        (source / name).write_text("something")
    left_out = {".heic": 2, ".svg": 1, "none": 1}
    dry = embed(source, table, dry_run=True)
    assert (dry.files_left_out, embed(source, table).files_left_out) == (left_out, left_out)
    log = tmp_path / "log.jsonl"
    summary = embed(source, table, log=str(log))
    assert "4  files left out: 2 .heic, 1 .svg, 1 none" in summary.text()
    assert json.loads(summary.json())["files_left_out"] == left_out
    assert json.loads(log.read_text().splitlines()[-1])["files_left_out"] == left_out
    assert next(Table.open(str(table)).history())["note"]["files_left_out"] == left_out


def test_a_claim_is_renewed_while_a_source_is_read_for_long(tmp_path, table, monkeypatch):
    source = jsonl(tmp_path / "a.jsonl", rows(3))
    embed(source, table)
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.1)

    def slow_scan(*given, scan=None):
        time.sleep(0.5)
        return scan(*given)

    from jobs.sync import planning

    scan = planning.scan_piece
    monkeypatch.setattr(planning, "scan_piece", lambda *given: slow_scan(*given, scan=scan))
    before = Table.open(str(table)).version
    assert embed(source, table).unchanged == 3
    notes = [commit["note"] for commit in Table.open(str(table)).history()]
    states = [note["state"] for note in notes[: Table.open(str(table)).version - before]]
    assert states[0] == "done"
    assert states.count("claim") >= 3
    assert len({note["run"] for note in notes[: len(states)]}) == 1


def test_who_is_overtaken_while_reading_is_told(tmp_path, table, monkeypatch):
    embed(jsonl(tmp_path / "a.jsonl", rows(3)), table)
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.05)
    mine, theirs = Table.open(str(table)), Table.open(str(table))

    def read_for_long():
        with claim.renew_by_handle(mine, claim.identity("run")):
            theirs.commit(claim.identity("other"))
            time.sleep(0.3)

    with pytest.raises(Refused, match="Somebody else wrote"):
        read_for_long()
