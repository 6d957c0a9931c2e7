"""Who holds a table, told from its history alone."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta

import psutil
import pytest
from deltalake import write_deltalake

from schemas.delta import claim, store
from schemas.delta.claim import DEAD_AFTER, LOOK_BACK, TableBusy
from schemas.delta.store import StoreError, Table

from ..conftest import append_foreign, ids_in, rows_of


def a_run(name="other", **changed):
    """What a run of this process, alive, says of itself."""
    return {**claim.identity(name), **changed}


def elsewhere(name="other"):
    return a_run(name, host=f"not-{socket.gethostname()}")


def commit(table, note, state="claim"):
    table.commit({**note, "state": state})


def commit_ago(table, note, monkeypatch, ago):
    then = store.now() - ago
    with monkeypatch.context() as patch:
        patch.setattr(store, "now", lambda: then)
        commit(table, note)


def held_by(uri, run="me"):
    note = claim.holder(Table.open(uri), run)
    return note and note["run"]


@pytest.fixture
def table(table):
    """A table that nobody holds."""
    table.commit({**a_run("first"), "state": "done"})
    return table


@pytest.fixture
def dead():
    """The note of a run whose process is gone."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = psutil.Process(child.pid).create_time()
    child.communicate(b"\n")
    after_boot = round(began - psutil.boot_time(), 2)
    return a_run("dead", pid=child.pid, started=int(began), after_boot=after_boot)


def test_an_identity_names_this_process():
    began = psutil.Process().create_time()
    assert claim.identity("r") == {
        **{"run": "r", "host": socket.gethostname(), "pid": os.getpid()},
        **{"started": int(began), "after_boot": round(began - psutil.boot_time(), 2)},
    }


@pytest.mark.parametrize("state", ["claim", "wave", "compacted"])
def test_a_run_that_is_at_work_holds_the_table(table, uri, state):
    commit(table, a_run(), state)
    assert held_by(uri) == "other"
    assert held_by(uri, run="other") is None  # one's own claim is no hindrance


@pytest.mark.parametrize("state", ["done", "failed", "stopped", "released", "restored"])
def test_a_run_that_has_ended_holds_nothing(table, uri, state):
    commit(table, a_run())
    commit(table, a_run(), state)
    assert held_by(uri) is None


def test_a_table_without_a_claim_is_free(uri):
    write_deltalake(uri, rows_of(["a"]))
    assert held_by(uri) is None


def test_a_dead_process_holds_nothing(table, uri, dead):
    commit(table, dead)
    assert held_by(uri) is None


def test_a_process_that_took_a_dead_one_s_number_is_not_it(table, uri):
    commit(table, a_run(started=1, after_boot=1.0))
    assert held_by(uri) is None


@pytest.mark.parametrize("clocks", [("boot_time",), ("boot_time", "create_time")])
def test_a_clock_that_is_set_anew_makes_no_run_dead(table, uri, monkeypatch, clocks):
    commit(table, a_run())
    for owner, name in ((psutil, "boot_time"), (psutil.Process, "create_time")):
        if name in clocks:
            true = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *given, true=true: true(*given) + 300)
    assert held_by(uri) == "other"


def test_on_another_host_only_silence_is_death(table, uri, monkeypatch):
    commit_ago(table, elsewhere(), monkeypatch, DEAD_AFTER - timedelta(minutes=1))
    assert held_by(uri) == "other"
    commit_ago(table, elsewhere(), monkeypatch, DEAD_AFTER + timedelta(minutes=1))
    assert held_by(uri) is None
    commit(table, elsewhere())
    assert held_by(uri) == "other"


def test_foreign_commits_in_between_do_not_hide_a_claim(table, uri):
    commit(table, a_run())
    append_foreign(uri, ["c"])
    append_foreign(uri, ["d"])
    assert held_by(uri) == "other"


def test_more_foreign_commits_than_are_looked_at_hide_it(table, uri, monkeypatch):
    monkeypatch.setattr(claim, "LOOK_BACK", 2)
    commit(table, a_run())
    append_foreign(uri, ["c"])
    append_foreign(uri, ["d"])
    assert held_by(uri) is None
    assert LOOK_BACK == 50


def test_take_writes_a_claim_one_version_on(table, uri):
    mine = a_run("me")
    taken = claim.take(table, mine, wait=False)
    assert (taken, taken.version) == (table, 3)
    last = next(Table.open(uri).history(1))["note"]
    assert {k: v for k, v in last.items() if k != "time"} == {**mine, "state": "claim"}


def test_a_held_table_is_not_taken_and_the_message_says_whose_it_is(table, uri):
    commit(table, elsewhere())
    message = rf"Table {uri} is being written by run other on not-.*\(process {os.getpid()}, last sign of life .*--wait"  # fmt: skip
    with pytest.raises(TableBusy, match=message):
        claim.take(Table.open(uri), a_run("me"), wait=False)
    assert Table.open(uri).version == 3


def test_take_waits_until_the_claim_is_given_up(table, uri):
    commit(table, a_run())
    timer = threading.Timer(0.5, claim.release, [uri, {}, a_run(), "released"])
    timer.start()
    taken = claim.take(Table.open(uri), a_run("me"), wait=True, poll_seconds=0.05)
    timer.join()
    states = [(c["note"]["run"], c["note"]["state"]) for c in taken.history(3)]
    assert states == [("me", "claim"), ("other", "released"), ("other", "claim")]
    taken.commit({**a_run("me"), "state": "done"})


def test_a_stale_table_is_opened_again(table, uri):
    stale = Table.open(uri)
    append_foreign(uri, ["c"])
    taken = claim.take(stale, a_run("me"), wait=False)
    assert (taken.version, ids_in(taken)) == (4, ["a", "b", "c"])


def test_of_two_takers_at_once_one_wins(table, uri):
    opened = [Table.open(uri) for _ in range(4)]
    barrier, outcomes = threading.Barrier(len(opened)), {}

    def race(number):
        barrier.wait()
        try:
            claim.take(opened[number], a_run(f"run-{number}"), wait=False)
            outcomes[number] = "took"
        except TableBusy:
            outcomes[number] = "busy"

    threads = [threading.Thread(target=race, args=[i]) for i in range(len(opened))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.values()) == ["busy", "busy", "busy", "took"]
    assert Table.open(uri).version == 3


def test_release_gives_up_one_s_own_claim(table, uri):
    mine = a_run("me")
    claim.take(table, mine, wait=False)
    claim.release(uri, {}, mine, "failed")
    assert next(Table.open(uri).history(1))["note"]["state"] == "failed"
    claim.release(uri, {}, mine, "failed")  # once
    assert Table.open(uri).version == 4


def test_release_leaves_another_run_s_claim(table, uri):
    commit(table, a_run())
    claim.release(uri, {}, a_run("me"), "failed")
    assert held_by(uri) == "other"


def test_release_finds_its_claim_under_foreign_commits(table, uri):
    mine = a_run("other")
    commit(table, mine)
    append_foreign(uri, ["c"])
    claim.release(uri, {}, mine, "failed")
    assert held_by(uri) is None


def test_release_of_what_is_gone_is_silent(tmp_path):
    claim.release(str(tmp_path / "nothing"), {}, a_run("me"), "failed")


def test_a_held_table_is_free_again_also_after_an_error(table, uri):
    @contextlib.contextmanager
    def failing():
        with claim.hold(table, a_run("me"), wait=False) as held:
            assert (held_by(uri, run="you"), held.version) == ("me", 3)
            yield
            raise StoreError("mine")

    with pytest.raises(StoreError, match="mine"), failing():
        pass
    assert held_by(uri, run="you") is None
    assert next(Table.open(uri).history(1))["note"]["state"] == "released"
