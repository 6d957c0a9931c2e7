"""Refreshes of a small corpus: what is due is done, what is not is left, and all of it is written down."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs import refresh
from jobs.embed import run as run_embed
from jobs.refreshing.corpus_file import read_corpus
from jobs.restore import RestoreConfig
from jobs.restore import run as restore
from jobs.sync import model_switch
from jobs.sync.config import EmbedConfig
from schemas.delta import claim
from schemas.delta.claim import TableBusy
from schemas.delta.store import Table
from schemas.tables.failures import FailureLog
from schemas.vectors import vectors_of
from tests.support.corpora import declare, model_file, row, states, table, write_rows
from tests.support.corpora import refresh as run

FOLLOW_UPS = """
[neighbours.near]
base = "articles"
k = 3
[project.map]
table = "articles"
method = "pca"
[evaluate.labels]
table = "articles"
label_column = "label"
[report.page]
tables = ["articles", "near", "map"]
"""
pytestmark = pytest.mark.usefixtures("few_rows_here")


def test_a_refresh_does_all_and_the_next_one_nothing(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS, 'history = "history.html"')
    first = run(path)
    assert states(first) == {
        "embed articles": "done",
        "neighbours near": "done",
        "project map": "done",
        "evaluate labels": "done",
        "report page": "done",
    }
    embedded, near, *_ = first.steps
    assert (embedded.rows, embedded.new, embedded.changed, embedded.vanished, embedded.failed) == (
        40,
        40,
        0,
        0,
        0,
    )
    assert near.rows == 40
    assert 0 < first.steps[3].figures["knn_accuracy@10"] <= 1
    assert not first.failed
    versions = {name: table(tmp_path, name).version for name in ("near", "map")}
    page = os.stat(tmp_path / "page.html").st_mtime_ns
    second = run(path)
    assert set(states(second).values()) == {"current"}
    assert versions == {name: table(tmp_path, name).version for name in ("near", "map")}
    assert os.stat(tmp_path / "page.html").st_mtime_ns == page


def test_follow_ups_are_made_anew_as_far_as_their_inputs_changed(tmp_path):
    other = """
    [embed.questions]
    source = "questions.txt"
    lines = true
    model = "words.txt"
    [neighbours.answers]
    base = "articles"
    queries = "questions"
    """
    path = declare(tmp_path, FOLLOW_UPS + other)
    (tmp_path / "questions.txt").write_text("sea\nlaw\n")
    run(path)
    (tmp_path / "questions.txt").write_text("sea\nlaw\nteam\n")
    assert {name for name, state in states(run(path)).items() if state == "done"} == {
        "embed questions",
        "neighbours answers",
    }
    path.write_text(path.read_text().replace("k = 3", "k = 4"))
    assert {name for name, state in states(run(path)).items() if state == "done"} == {
        "neighbours near",
        "report page",
    }


def test_what_was_changed_by_hand_is_made_good(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS)
    run(path)
    (tmp_path / "page.html").unlink()
    near = table(tmp_path, "near")
    near.overwrite({"run": "by-hand"}, near.schema, [])
    done = {name for name, state in states(run(path)).items() if state == "done"}
    assert done == {"neighbours near", "report page"}
    assert sum(file.n_rows for file in table(tmp_path, "near").files()) == 120


def test_counts_and_drift_are_those_of_the_change(tmp_path):
    path = declare(tmp_path, "max_failures = 1.0\n" + FOLLOW_UPS)
    run(path)
    before = {"embedding": means(tmp_path), "near": neighbours(tmp_path)}
    rows = [row(i) for i in range(3, 40)] + [row(40)]  # three go, one comes
    rows[0] = row(3, words=["goal", "match"])  # one has another text
    rows += [{"id": "bad", "text": "  ", "label": "x"}]
    write_rows(tmp_path, rows)
    summary = run(path)
    embedded, near = summary.steps[:2]
    assert (embedded.new, embedded.changed, embedded.vanished, embedded.failed) == (1, 1, 3, 1)
    assert embedded.new_failures == 1
    shift = np.linalg.norm(means(tmp_path) - before["embedding"])
    assert embedded.centroid_shift == pytest.approx(shift, abs=1e-6)
    after = neighbours(tmp_path)
    both = before["near"].keys() & after.keys()
    changed = sum(before["near"][name] != after[name] for name in both)
    assert 0 < changed < len(both)
    assert near.neighbours_changed == pytest.approx(changed / len(both))
    text = summary.text()
    assert re.search(r"embed articles +done +1 +1 +3 +1 ", text)
    assert "embed articles: the mean vector moved by 0." in text
    assert "neighbours near: " in text
    assert "1 new failures" in text
    again = run(path).steps[0]
    assert (again.state, again.failed, again.new_failures) == ("current", 1, 0)


def test_too_many_failures_are_a_failed_step_that_holds_nothing_up(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS)
    run(path)
    empty = [{"id": f"e{i}", "text": " ", "label": "x"} for i in range(20)]
    write_rows(tmp_path, [*(row(i) for i in range(41)), *empty])
    summary = run(path)
    step = summary.steps[0]
    assert (step.state, step.new, step.failed, step.new_failures) == ("failed", 1, 20, 20)
    assert "20 rows failed that did not before, 20.0% of those tried" in step.message
    assert [one.state for one in summary.steps[1:]] == ["done"] * 4
    assert summary.failed
    assert not run(path).failed  # it is known by now


def means(folder):
    return vectors_of(table(folder, "articles").read(["embedding"])["embedding"]).mean(axis=0)


def neighbours(folder):
    found = {}
    for one in table(folder, "near").read().to_pylist():
        found.setdefault(one["id"], []).append(one["neighbour_id"])
    return found


def test_a_failing_step_holds_up_those_that_need_it_and_no_other(tmp_path, capsys):
    other = '[embed.second]\nsource = "gone.jsonl"\nmodel = "words.txt"\n'
    other += '[neighbours.of-second]\nbase = "second"\n[neighbours.near]\nbase = "articles"\n'
    path = declare(tmp_path, other)
    summary = run(path)
    assert states(summary) == {
        "embed articles": "done",
        "embed second": "failed",
        "neighbours of-second": "skipped",
        "neighbours near": "done",
    }
    assert "gone.jsonl" in summary.steps[1].message
    assert summary.steps[2].message == "embed second did not succeed."
    assert refresh.main([str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["failed"] is True
    assert [step["state"] for step in told["steps"]] == ["current", "failed", "skipped", "current"]


def test_our_own_mistake_in_one_step_does_not_cost_the_night(tmp_path, monkeypatch, capsys):
    path = declare(tmp_path, FOLLOW_UPS)

    def broken(*_):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("jobs.neighbours.neighbour_rows", broken)
    told = {step.title: step for step in run(path).steps}
    assert told["neighbours near"].message == "RuntimeError: a mistake"
    assert (told["project map"].state, told["report page"].state) == ("done", "skipped")
    assert "Traceback" in capsys.readouterr().err


def test_a_submitted_job_wants_to_know_where_its_tables_stay(tmp_path, monkeypatch):
    path = declare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(
        ValueError, match=r"corpus.toml is relative, .* tables would be lost. Give its"
    ):
        run("corpus.toml")
    assert not run(path).failed


def test_a_dry_run_says_what_is_due_and_writes_nothing(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS)
    names = sorted(tmp_path.rglob("*"))
    assert set(states(run(path, dry_run=True)).values()) == {"due"}
    assert sorted(tmp_path.rglob("*")) == names
    run(path)
    write_rows(tmp_path, [row(i) for i in range(41)])
    summary = run(path, dry_run=True)
    assert set(states(summary).values()) == {"due"}
    assert summary.steps[0].new == 1
    run(path)
    assert set(states(run(path, dry_run=True)).values()) == {"current"}


# -- another model ---------------------------------------------------------------------------


def test_another_model_builds_its_space_beside_the_table_and_switches_at_once(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS)
    write_rows(tmp_path, [*(row(i) for i in range(40)), {"id": "e", "text": "xyz", "label": "x"}])
    run(path)
    old = table(tmp_path, "articles")
    assert FailureLog(old.uri).rows["id"].to_pylist() == ["e"]
    model_file(tmp_path / "words.txt", seed=1, dim=6)
    seen = Watcher(old.uri)
    with seen:
        summary = run(path)
    told = {step.title: step for step in summary.steps}
    assert told["embed articles"].message == "All vectors are new, of words.txt."
    assert (told["embed articles"].new, told["embed articles"].changed) == (0, 40)
    assert set(states(summary).values()) == {"done"}
    assert seen.dims == [{8}, {6}]
    now = table(tmp_path, "articles")
    assert sorted(now.read(["id"])["id"].to_pylist()) == [f"d{i:05}" for i in range(40)]
    assert FailureLog(now.uri).rows["id"].to_pylist() == ["e"]
    assert sorted(os.listdir(tmp_path / "tables")) == [
        "articles",
        "articles.failures",
        "map",
        "near",
        "refreshes",
    ]
    assert set(states(run(path)).values()) == {"current"}
    assert DeltaTable(now.uri, version=old.version).to_pyarrow_table().num_rows == 40


class Watcher(threading.Thread):
    """Opens every version of a table; `dims` are the lengths of the vectors that it saw, in turn."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.uri, self.dims, self.over = uri, [], threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        version = DeltaTable(self.uri).version()
        while True:
            last_turn = self.over.is_set()
            while version <= DeltaTable(self.uri).version():
                rows = DeltaTable(self.uri, version=version).to_pyarrow_table(columns=["embedding"])
                dims = {len(vector) for vector in rows["embedding"].to_pylist()}
                if self.dims[-1:] != [dims]:
                    self.dims.append(dims)
                version += 1
            if last_turn:
                return
            time.sleep(0.01)


def test_a_restored_table_is_switched_again(tmp_path):
    path = declare(tmp_path)
    run(path)
    version = table(tmp_path, "articles").version
    model_file(tmp_path / "words.txt", seed=1)
    run(path)
    anew = means(tmp_path)
    restore(RestoreConfig(str(tmp_path / "tables" / "articles"), version=version))
    assert not np.allclose(means(tmp_path), anew)
    assert run(path).steps[0].message == "All vectors are new, of words.txt."
    assert np.allclose(means(tmp_path), anew)


class Died(BaseException):
    pass


def die(*_, **__):
    raise Died


class Dying:
    def fullmatch(self, _):
        raise Died


@pytest.mark.parametrize("at", ["embedded", "copied", "failures", "switched", "dropping"])
def test_a_switch_that_dies_on_its_way_is_made_good(tmp_path, monkeypatch, at):
    path = declare(tmp_path)
    write_rows(tmp_path, [*(row(i) for i in range(40)), {"id": "e", "text": "xyz", "label": "x"}])
    run(path)
    model_file(tmp_path / "words.txt", seed=1, dim=6)

    with monkeypatch.context() as patch:
        keep = FailureLog.keep
        if at == "embedded":
            patch.setattr(model_switch, "_switch", die)
        elif at == "copied":
            patch.setattr(Table, "overwrite", die)
        elif at == "failures":  # of the table itself
            patch.setattr(
                FailureLog, "keep", lambda log, *a: keep(log, *a) if ".next" in log.uri else die()
            )
        elif at == "switched":
            patch.setattr(model_switch, "clear", die)
        else:  # between the log and the files
            patch.setattr("schemas.delta.versions.OURS", Dying())
        with pytest.raises(Died), contextlib.chdir(tmp_path):
            run_embed(dataclasses.replace(read_corpus(path).steps[0].config, replace=True))
    held = table(tmp_path, "articles").read(["id", "embedding"])
    assert sorted(held["id"].to_pylist()) == [f"d{i:05}" for i in range(40)]
    assert {len(v) for v in held["embedding"].to_pylist()} in ({8}, {6})
    assert run(path).steps[0].state in ("done", "current")
    held = table(tmp_path, "articles").read(["embedding"])
    assert {len(v) for v in held["embedding"].to_pylist()} == {6}
    assert len(held) == 40
    assert FailureLog(str(tmp_path / "tables" / "articles")).rows["id"].to_pylist() == ["e"]
    assert not list((tmp_path / "tables").glob("*.next*"))


def test_a_model_given_up_before_its_switch_leaves_nothing(tmp_path):
    path = declare(tmp_path)
    run(path)
    beside = str(tmp_path / "tables" / "articles.next")
    model_file(tmp_path / "other.txt", seed=2, dim=5)
    half = EmbedConfig(
        str(tmp_path / "articles.jsonl"), beside, str(tmp_path / "other.txt"), limit=10
    )
    run_embed(half)
    model_file(tmp_path / "words.txt", seed=1, dim=6)
    assert run(path).steps[0].changed == 40
    assert not os.path.exists(beside)
    run_embed(half)
    assert run(path).steps[0].state == "current"  # the old model after all
    assert not os.path.exists(beside)


def test_an_empty_mount_does_not_empty_a_table_by_way_of_a_new_model(tmp_path):
    path = declare(tmp_path)
    run(path)
    model_file(tmp_path / "words.txt", seed=1)
    write_rows(tmp_path, [row(i) for i in range(10)])
    step = run(path).steps[0]
    assert step.state == "failed"
    assert re.search(r"lacks 30 of the 40 ids .*force_prune", step.message)
    assert len(table(tmp_path, "articles").read(["id"])) == 40
    path.write_text(path.read_text().replace("prune = true", "prune = true\nforce_prune = true"))
    step = run(path).steps[0]
    assert (step.changed, step.vanished) == (10, 30)
    assert len(table(tmp_path, "articles").read(["id"])) == 10


def test_a_foreign_table_beside_is_not_touched(tmp_path):
    path = declare(tmp_path)
    run(path)
    beside = str(tmp_path / "tables" / "articles.next")
    write_deltalake(beside, pa.table({"a": [1]}))
    step = run(path).steps[0]
    assert step.state == "failed"
    assert "articles.next is a table, but not one of embatch" in step.message
    assert DeltaTable(beside).to_pyarrow_table().num_rows == 1


# -- several at once, kills, signals ---------------------------------------------------------


def test_a_second_refresh_leaves_or_waits(tmp_path):
    path = declare(tmp_path)
    run(path)
    held = table(tmp_path, "refreshes")
    note = {**claim.identity("another"), "command": "refresh"}
    with claim.hold(held, note, wait=False):
        with pytest.raises(TableBusy, match=r"refreshes is being written by run another on "):
            run(path)
        waiting = threading.Thread(target=run, args=(path,), kwargs={"wait": True}, daemon=True)
        waiting.start()
        waiting.join(3)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    assert len({one["refresh"] for one in table(tmp_path, "refreshes").read().to_pylist()}) == 2


def test_a_claim_is_renewed_while_a_step_takes_long(tmp_path, monkeypatch):
    path = declare(tmp_path)
    run(path)
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.1)
    held = table(tmp_path, "refreshes")
    note = {**claim.identity("another"), "command": "refresh"}
    with claim.renew_by_uri(held.uri, {}, note):
        time.sleep(1)
    notes = [commit.get("note", {}) for commit in table(tmp_path, "refreshes").history()]
    assert sum(one.get("run") == "another" for one in notes) >= 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_refresh_that_is_stopped_or_killed_is_made_good(tmp_path, signum):
    path = declare(tmp_path, FOLLOW_UPS)
    slow = "import jobs.sync.loop, time; old = jobs.sync.loop.Sync._finish\n"
    slow += "def finish(*a):\n    print('embedded', flush=True); time.sleep(3); return old(*a)\n"
    slow += "jobs.sync.loop.Sync._finish = finish\nimport jobs.refresh; raise SystemExit("
    slow += f"jobs.refresh.main([{str(path)!r}]))"
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signum)
        code = child.wait(60)
    assert code == (-signal.SIGKILL if signum == signal.SIGKILL else 128 + signal.SIGTERM)
    summary = run(path)
    assert not summary.failed
    assert len(table(tmp_path, "articles").read(["id"])) == 40
    assert set(states(run(path)).values()) == {"current"}


# -- for months ------------------------------------------------------------------------------


def test_old_versions_give_their_disk_back_after_keep_days(tmp_path):
    path = declare(tmp_path, settings="keep_days = 0")
    run(path)
    files = set((tmp_path / "tables" / "articles").glob("*.parquet"))
    model_file(tmp_path / "words.txt", seed=1)
    run(path)
    left = set((tmp_path / "tables" / "articles").glob("*.parquet"))
    assert len(left) == 1
    assert not left & files


def test_the_page_shows_every_step_and_escapes(tmp_path):
    path = declare(tmp_path, FOLLOW_UPS, 'history = "history.html"')
    run(path)
    path.write_text(
        path.read_text() + '[embed.b]\nsource = "<script>alert(1)</script>"\nmodel = "words.txt"\n'
    )
    assert run(path).failed
    page = (tmp_path / "history.html").read_text()
    assert "The last 2 refreshes; 1 of them with a step that failed." in page
    assert page.count("<td>embed articles</td>") == 2
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_table_of_refreshes_has_a_row_for_each_step_of_each_refresh(tmp_path):
    path = declare(tmp_path)
    for _ in range(3):
        run(path)
    rows = table(tmp_path, "refreshes").read().to_pylist()
    assert [row["state"] for row in sorted(rows, key=lambda row: row["started"])] == [
        "done",
        "current",
        "current",
    ]
