"""Files are written anew: small ones joined, old rows replaced where they lay, and no row is elsewhere."""

import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from jobs.runtime.signals import Stopped, StopSignal
from schemas.delta import rewriting
from schemas.delta.claim import holder
from schemas.delta.fragments import is_made_by, new_name, write_rows
from schemas.delta.rewriting import MANY_SMALL_FILES, _shares, compact, rewrite
from schemas.delta.store import Refused, StoreError, Table

from ..conftest import FINGERPRINT, SCHEMA, append_foreign, ids_in, note, rows_of, write

IDS = [f"row {number:03}" for number in range(MANY_SMALL_FILES + 8)]
ALL = [*IDS, "a", "b"]  # other files are of other programs, and come last


@pytest.fixture
def many(table):
    """A table of many files of one row each, before one of the ids a and b."""
    table.commit(note(), add=[write(table, new_name("run-1", "00000"), [name]) for name in IDS])
    return table


@pytest.fixture
def in_parts(many, monkeypatch):
    """Fourteen files are joined into one, which is committed at once."""
    size = max(file.size_bytes for file in many.files()[:-1])
    monkeypatch.setattr(rewriting, "COMPACTED_BYTES", int(14.5 * size))
    monkeypatch.setattr(rewriting, "RENEW_SECONDS", 0.0)
    return many


def compacted(table):
    """How many files each commit has joined, oldest first."""
    told = [commit["note"] for commit in table.history() if "note" in commit]
    return [one["n_files"] for one in reversed(told) if one["state"] == "compacted"]


def test_names_sort_as_they_were_made_and_a_file_takes_another_s_place():
    names = [new_name("run-1", "00000") for _ in range(100)]
    assert names == sorted(set(names))
    instead = new_name("run-2", "kept", names[7])
    assert sorted([*names, instead]).index(instead) in (7, 8)


def test_small_files_are_joined_in_their_order(many):
    before = many.version
    assert compact(many, note()) == len(IDS) + 1
    assert len(many.files()) == 1
    assert many.read()["id"].to_pylist() == ALL
    assert many.version == before + 1
    assert compacted(many) == [len(IDS) + 1]


def test_a_few_small_files_are_left_alone(table):
    before = table.version
    assert compact(table, note()) == 0
    assert table.version == before


def test_files_of_another_recipe_stay_apart(many):
    anew = replace(FINGERPRINT, recipe="recipe-2").metadata()
    schema = SCHEMA.set(1, SCHEMA.field("embedding").with_metadata(anew))
    for name in ("y", "z"):
        rows = rows_of([name]).cast(schema)
        file = write_rows(many.filesystem, new_name("run-2", "00000"), rows)
        many.commit(note(), add=[file])
    assert compact(many, note()) == len(IDS) + 3
    recipes = [many.file_schema(file.name) for file in many.files()]
    assert recipes == [SCHEMA, schema]
    assert ids_in(many) == sorted([*ALL, "y", "z"])


def test_what_takes_long_is_committed_in_parts_that_hold_the_claim(in_parts):
    before = in_parts.version
    assert compact(in_parts, note()) == len(IDS) + 1
    parts = compacted(in_parts)
    assert parts == [14, 14, 13]
    assert in_parts.version == before + len(parts)
    for version in range(before, in_parts.version + 1):
        assert ids_in(Table.open(in_parts.uri, version=version)) == sorted(ALL)
    assert in_parts.read()["id"].to_pylist() == ALL
    assert holder(in_parts, "another run")["run"] == "run-1"


def test_a_rival_s_rows_end_it_and_what_was_joined_stays(in_parts, monkeypatch):
    write_tables, turns = rewriting.write_tables, iter(range(100))

    def disturbed(*args):
        if next(turns) == 2:
            append_foreign(in_parts.uri, ["rival"])
        return write_tables(*args)

    monkeypatch.setattr(rewriting, "write_tables", disturbed)
    with pytest.raises(Refused):
        compact(in_parts, note())
    newest = Table.open(in_parts.uri)
    assert len(compacted(newest)) == 2
    assert ids_in(newest) == sorted([*ALL, "rival"])


def test_a_signal_ends_it_after_the_files_at_hand(in_parts, monkeypatch):
    monkeypatch.setattr(rewriting, "RENEW_SECONDS", 1e6)
    stop = StopSignal()
    stop.signum = signal.SIGTERM
    with pytest.raises(Stopped):
        compact(in_parts, note(), stop.check)
    assert compacted(in_parts) == [14]
    assert ids_in(in_parts) == sorted(ALL)
    stop.signum = None
    monkeypatch.setattr(rewriting, "MANY_SMALL_FILES", 0)
    assert compact(in_parts, note(), stop.check) == 28
    assert ids_in(in_parts) == sorted(ALL)


def test_work_is_done_ahead_in_order_and_an_error_is_raised_in_its_turn():
    assert list(rewriting._prefetch(str, range(50), 4)) == [str(number) for number in range(50)]

    def fails(number):
        if number == 20:
            raise OSError("the 20th")
        return number

    results = rewriting._prefetch(fails, range(50), 4)
    assert [next(results) for _ in range(20)] == list(range(20))
    with pytest.raises(OSError, match="the 20th"):
        next(results)


@pytest.fixture
def three(table):
    """The table's files, of ids ab, cdef and gh."""
    files = [write(table, f"{index}.parquet", ids) for index, ids in enumerate(("cdef", "gh"), 8)]
    table.commit(note(), add=files)
    return dict(zip(("cdef", "gh", "ab"), table.files(), strict=True))


def ids_of(table, file):
    return "".join(table.read_file(file.name)["id"].to_pylist())


def test_new_rows_lie_where_the_old_ones_lay(table, three):
    gone = {three["ab"]: np.array([0]), three["cdef"]: np.array([1, 3]), three["gh"]: np.arange(2)}
    made = [write(table, new_name("run-2", "00001"), ids) for ids in ("x", "yz")]
    written, joined = rewrite(table, "run-2", gone, made)
    assert [ids_of(table, file) for file in written] == ["bx", "cey", "z"]
    assert [file.n_rows for file in written] == [2, 3, 1]
    assert joined == made


def test_new_rows_take_the_place_of_a_whole_file(table):
    old = write(table, new_name("run-1", "00001"), "gh")
    table.commit(note(), add=[old])
    made = [write(table, new_name("run-2", "00001"), "xy")]
    (file,), joined = rewrite(table, "run-2", {old: np.arange(2)}, made)
    assert (ids_of(table, file), joined) == ("xy", made)
    assert file.name[:20] == old.name[:20]


def test_shares_are_by_weight_and_divide_no_document():
    rows = rows_of("abcdefghij")
    parts = ["".join(part["id"].to_pylist()) for part in _shares(rows, [3, 1, 1])]
    assert parts == ["abcdef", "gh", "ij"]
    passages = rows.append_column("parent_id", pa.array(list("1122223344")))
    parts = ["".join(part["id"].to_pylist()) for part in _shares(passages, [1, 1, 1, 1])]
    assert parts == ["ab", "cdef", "gh", "ij"]
    assert [len(part) for part in _shares(rows.slice(0, 0), [1, 1])] == [0, 0]


def test_without_new_rows_files_are_only_cut(table, three):
    written, joined = rewrite(table, "run-2", {three["cdef"]: np.array([0])}, [])
    assert [ids_of(table, file) for file in written] == ["def"]
    assert joined == []


def test_files_of_another_recipe_take_no_new_rows(table, three):
    anew = replace(FINGERPRINT, recipe="recipe-2").metadata()
    schema = SCHEMA.set(1, SCHEMA.field("embedding").with_metadata(anew))
    made = [write_rows(table.filesystem, new_name("run-2", "00001"), rows_of("x").cast(schema))]
    written, joined = rewrite(table, "run-2", {three["ab"]: np.array([0])}, made)
    assert [ids_of(table, file) for file in written] == ["x", "b"]
    assert joined == []


def test_more_new_rows_than_fit_in_memory_stay_apart(table, three, monkeypatch):
    made = [write(table, new_name("run-2", "00001"), ids) for ids in "xy"]
    monkeypatch.setattr(rewriting, "MERGED_BYTES", made[0].size_bytes)
    written, joined = rewrite(table, "run-2", {three["ab"]: np.array([0])}, made)
    assert [ids_of(table, file) for file in written] == ["x", "y", "b"]
    assert joined == []


def test_files_joined_of_one_run_alone_are_still_its_own(many):
    compact(many, note())
    (mixed,) = many.files()  # a and b were another program's
    assert not is_made_by(mixed.name, "run-1")
    many.overwrite(note(), SCHEMA, [write(many, new_name("run-1", "0"), [name]) for name in IDS])
    compact(many, note())
    (mine,) = many.files()
    assert is_made_by(mine.name, "run-1")


def test_a_new_file_that_is_not_as_reported_is_one_message(table, three):
    made = write(table, new_name("run-2", "00001"), "x")
    wrong = replace(made, size_bytes=made.size_bytes + 1)
    with pytest.raises(StoreError, match="all of them share"):
        rewrite(table, "run-2", {three["ab"]: np.array([0])}, [wrong])
