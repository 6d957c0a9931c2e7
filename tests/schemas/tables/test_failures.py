import numpy as np
import pyarrow as pa
import pytest

from schemas.delta.store import Refused, Table
from schemas.keys import hex_of, id_hashes
from schemas.plan import KNOWN_CONFLICT, KNOWN_EMBED
from schemas.tables.failures import FAILURES, MANY_FILES, FailureLog, failure_key, identities

from ..conftest import note

HASHES = hex_of(WORDS := np.array([[1, 2], [3, 4]], "<u8")).to_pylist()


def failure(number, **changed):
    return {
        "id": f"id-{number}",
        "content_hash": HASHES[0],
        "recipe": "recipe-1",
        "source": "corpus",
        "source_file": "a.jsonl",
        "position": number,
        "stage": "embed",
        "reason": "too odd",
        "run": "run-1",
    } | changed


@pytest.fixture
def log(uri):
    return FailureLog(uri)


def told(log):
    """The rows of a log, without their time and in the order of the source."""
    return log.rows.sort_by("position").drop_columns("failed_at").to_pylist()


def test_a_table_without_failures_has_no_failures_table(log, uri):
    assert (len(log.rows), log.rows.schema, log.seen.tolist()) == (0, FAILURES, [])
    assert log.add([], note()) == 0
    log.keep(np.zeros(0, bool), note())
    assert Table.open(f"{uri}.failures") is None


def test_what_is_added_is_committed_at_once_and_seen_by_another_log(log, uri):
    added = [failure(0), failure(1, id=None, content_hash=None, recipe=None, stage="read")]
    assert log.add(added, note()) == 2
    for seen_by in (log, FailureLog(uri), FailureLog(f"{uri}/")):
        assert told(seen_by) == added
        assert seen_by.rows.schema == FAILURES
    assert (log.seen.tolist(), FailureLog(uri).seen.tolist()) == ([True, True], [False, False])
    assert next(Table.open(f"{uri}.failures").history(1))["note"]["run"] == "run-1"


def test_the_same_failure_twice_is_one_row(log, uri):
    assert log.add([failure(0), failure(0)], note()) == 1
    assert log.add([failure(0), failure(1)], note()) == 1
    assert told(log) == told(FailureLog(uri)) == [failure(0), failure(1)]


def test_a_failure_of_another_night_is_only_marked_as_seen(log, uri):
    log.add([failure(0), failure(1)], note())
    second = FailureLog(uri)
    version = second.table.version
    assert second.add([failure(1, run="run-2")], note("run-2")) == 0
    assert second.seen.tolist() == [p == 1 for p in second.rows["position"].to_pylist()]
    assert told(second) == [failure(0), failure(1)]
    assert Table.open(f"{uri}.failures").version == version


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "other"},
        {"id": None},
        {"content_hash": HASHES[1]},
        {"recipe": "recipe-2"},
        {"source": "other"},
        {"source_file": "b.jsonl"},
        {"stage": "id"},
        {"reason": "other"},
        {"position": 9},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_failure_is_another_if_anything_but_its_run_differs(log, changed):
    assert log.add([failure(0), failure(0, **changed)], note()) == 2


def test_a_failure_on_another_night_is_the_same_by_its_content_else_by_its_file():
    row, nameless = failure(0), failure(0, id=None, content_hash=None)
    assert failure_key(row) == failure_key(failure(9) | {"id": "id-0", "source_file": "b.jsonl"})
    assert failure_key(nameless) == failure_key(nameless | {"position": 9, "reason": "line 9"})
    others = [{"content_hash": HASHES[1]}, {"id": "b"}, {"stage": "read"}, {"recipe": "r"}]
    assert all(failure_key(row | other) != failure_key(row) for other in others)
    assert failure_key(nameless | {"source_file": "b.jsonl"}) != failure_key(nameless)


def test_identities_do_not_depend_on_run_or_time():
    rows = pa.Table.from_pylist([failure(0), failure(0, run="run-2"), failure(1)], FAILURES)
    one, same, other = identities(rows)
    assert one == same != other
    assert identities(FAILURES.empty_table()).shape == (0,)


def test_what_is_not_kept_goes(log, uri):
    log.add([failure(0)], note())
    log.add([failure(1), failure(2)], note())
    log.keep(np.array([True, False, True]), note())
    assert told(log) == told(FailureLog(uri)) == [failure(0), failure(2)]
    assert log.seen.tolist() == [True, True]
    assert log.add([failure(1)], note()) == 1  # and may come back
    log.keep(np.zeros(3, bool), note())
    assert told(log) == told(FailureLog(uri)) == []
    assert log.add([failure(1)], note()) == 1


def test_a_failure_that_stands_there_twice_is_known_as_repeated(log):
    log.add([failure(0), failure(1)], note())
    assert log.repeated.tolist() == [False, False]
    log.table.commit(note(), add=[log._write(log.rows.slice(1), note())])
    again = FailureLog(log.uri.removesuffix(".failures"))
    assert sum(again.repeated) == 1
    assert told(again)[1:] == [failure(1), failure(1)]


def test_all_kept_is_no_commit(log):
    log.add([failure(0)], note())
    version = log.table.version
    log.keep(np.ones(1, bool), note())
    assert log.table.version == version


def test_many_small_files_become_one(log, uri):
    added = [failure(i) for i in range(MANY_FILES + 1)]
    for one in added:
        log.add([one], note())
    log.keep(np.ones(len(added), bool), note())
    assert [file.n_rows for file in Table.open(f"{uri}.failures").files()] == [len(added)]
    assert told(FailureLog(uri)) == added


def test_a_log_that_lags_behind_is_refused(log, uri):
    log.add([failure(0)], note())
    stale = FailureLog(uri)
    log.add([failure(1)], note())
    with pytest.raises(Refused, match=r"Somebody else wrote version \d of .*\.failures"):
        stale.add([failure(2)], note("run-2"))
    assert told(FailureLog(uri)) == [failure(0), failure(1)]


def test_keys_are_of_failures_that_a_plan_must_know(log):
    log.add(
        [
            failure(0, stage="read"),
            failure(1, id="a"),
            failure(2, id="b", recipe="recipe-2"),
            failure(3, id="c", stage="id", recipe=None, content_hash=HASHES[1]),
            failure(4, stage="file", id=None, content_hash=None),
        ],
        note(),
    )
    keys = log.keys("recipe-1")
    assert keys["position"].tolist() == [1, 3]
    assert keys["row"].tolist() == [KNOWN_EMBED, KNOWN_CONFLICT]
    assert keys["content"].tolist() == WORDS.tolist()
    assert keys["id"].tolist() == id_hashes(pa.array(["a", "c"])).tolist()
    assert log.keys("recipe-2")["position"].tolist() == [2, 3]


def test_keys_may_be_those_that_this_run_has_met(log, uri):
    log.add([failure(0), failure(1), failure(2)], note())
    met = set()
    again = FailureLog(uri, seen=met)
    assert again.keys("recipe-1", only_seen=True)["position"].tolist() == []
    again.add([failure(1), failure(2)], note("run-2"))
    assert again.keys("recipe-1", only_seen=True)["position"].tolist() == [1, 2]
    assert FailureLog(uri, seen=met).seen.tolist() == [False, True, True]


def test_no_failures_are_no_keys(log):
    assert log.keys("recipe-1").shape == (0,)
    assert log.keys("recipe-1", only_seen=True).shape == (0,)
