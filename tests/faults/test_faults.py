"""Kills, rivals and foreign writers: whatever ends a run or gets in its way, the table stays true.

Runs that are to die live in processes of their own (`tests.faults.driver`); the others share this one's
Ray. While they write, a reader opens every version and compares it with the states that are allowed.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from jobs import vacuum
from schemas.delta.claim import TableBusy
from tests.faults.runs import KILLED, PATIENCE_SECONDS, POISON, Child, embed, version_of
from tests.support.hash_model import vector_of

pytestmark = pytest.mark.slow  # `make faults` meets all of these, and more, in less time
MANY, FEW = 20_000, 3_000


# -- the corpus, before and after ------------------------------------------------------------


def old_row(i):
    return f"text {i} of the corpus{f' {POISON}' if i % 500 == 7 else ''}", f"label {i % 7}"


def new_row(i, n):
    """A row of the changed corpus, None where it is gone."""
    text, label = old_row(i)
    if i >= n:
        text = f"text {i} is new{f' {POISON}' if i % 90 == 0 else ''}"
        return (f"shared by many {i % 3}" if i % 40 == 3 else text), label
    if i % 13 == 0:
        return None
    if i % 5 == 1:
        return f"text {i} again{f' {POISON}' if i % 250 == 1 else ''}", label
    if i % 1000 == 7:
        return f"text {i} healed", label
    return text, ("another label" if i % 5 == 2 else label)


def write_source(folder, rows):
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"id": f"d{i:06}", "text": row[0], "label": row[1]}) + "\n"
        for i, row in enumerate(rows)
        if row
    ]
    for part in range(4):
        (folder / f"{part}.jsonl").write_text("".join(lines[part::4]))
    return {f"d{i:06}": row for i, row in enumerate(rows) if row}


# -- what a table must hold ------------------------------------------------------------------


def contents(uri):
    """All but the time of embedding, sorted by id."""
    table = DeltaTable(str(uri)).to_pyarrow_table()
    return table.drop(["embedded_at"]).sort_by("id").combine_chunks()


def failed_ids(uri):
    uri = f"{uri}.failures"
    if not DeltaTable.is_deltatable(uri):
        return []
    return DeltaTable(uri).to_pyarrow_table(columns=["id"])["id"].to_pylist()


def failed(uri):
    """Each failure's id, content, stage and reason, sorted."""
    names = ["id", "content_hash", "stage", "reason"]
    rows = DeltaTable(f"{uri}.failures").to_pyarrow_table(columns=names).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def states(table):
    """What a row is known by: id to (label, content_hash)."""
    columns = [table[name].to_pylist() for name in ("id", "label", "content_hash")]
    return {row: (label, content) for row, label, content in zip(*columns, strict=True)}


@dataclass(frozen=True)
class World:
    """A corpus before and after, and the tables that are made of each from nothing."""

    n: int
    folder: Path
    rows: dict
    old: dict
    new: dict
    largest_wave: int

    @property
    def source(self):
        return self.folder / "source"

    def copy(self, tmp_path, name="base"):
        """A table of its own for a test: `base` holds the old corpus, `scratch` the new one."""
        table = tmp_path / "table"
        shutil.copytree(self.folder / name, table)
        shutil.copytree(self.folder / f"{name}.failures", f"{table}.failures")
        return table

    def check(self, table, summary=None):
        """The table is the one made from nothing; the summary accounts for every row."""
        want, held = contents(self.folder / "scratch"), contents(table)
        assert held["id"].to_pylist() == want["id"].to_pylist()
        assert held.equals(want)
        assert failed(table) == failed(self.folder / "scratch")
        if summary is not None:
            self.check_counts(table, summary)

    def check_sum(self, summary):
        parts = ("unchanged", "embedded", "replaced", "updated", "duplicates", "failed")
        assert summary["rows_read"] == len(self.rows) == sum(summary[part] for part in parts)

    def check_counts(self, table, summary):
        self.check_sum(summary)
        assert summary["failed"] == len(failed(table))


def largest_wave(table):
    """Rows that the largest of a table's commits added."""
    notes = [json.loads(commit["embatch"]) for commit in DeltaTable(str(table)).history()]
    return max(note.get("n_added", 0) for note in notes)


def make_world(folder, n):
    source = folder / "source"
    write_source(source, [old_row(i) for i in range(n)])
    embed(source, folder / "base")
    rows = write_source(source, [new_row(i, n) for i in range(n + n // 5)])
    summary = embed(source, folder / "scratch", seconds_a_row=2.0 / n, wave_seconds=0.1)
    old, new = contents(folder / "base"), contents(folder / "scratch")
    world = World(n, folder, rows, states(old), states(new), largest_wave(folder / "scratch"))
    bad = sorted(row for row, (text, _) in rows.items() if POISON in text)
    assert [row for row, *_ in failed(folder / "scratch")] == bad
    assert all(
        reason.endswith(f"cannot embed {POISON!r}") for *_, reason in failed(folder / "scratch")
    )
    assert new["id"].to_pylist() == sorted(rows.keys() - set(bad))
    assert [(new["text"][i].as_py(), new["label"][i].as_py()) for i in range(0, len(new), 97)] == [
        rows[row.as_py()] for row in new["id"][::97]
    ]
    vectors = new["embedding"].combine_chunks().flatten().to_numpy().reshape(len(new), -1)
    assert np.array_equal(vectors, np.stack([vector_of(text) for text in new["text"].to_pylist()]))
    world.check_counts(folder / "scratch", vars(summary))
    return world


@pytest.fixture(scope="module")
def many(local_ray, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("many"), MANY)


@pytest.fixture(scope="module")
def few(local_ray, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("few"), FEW)


class Reader(threading.Thread):
    """Opens every version of a table as it comes, and notes what no reader may see."""

    def __init__(self, table, world):
        super().__init__(daemon=True)
        self.uri, self.world = str(table), world
        self.stay = world.old.keys() & world.rows.keys() if table.exists() else set()
        self.wrong, self.first = [], max(0, version_of(table))
        self.n_versions = 0
        self.over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.join()
        if kind is None:
            assert self.wrong == []
            assert self.n_versions > 1

    def run(self):
        last_turn = False
        while not last_turn:
            last_turn = self.over.is_set()
            try:
                newest = version_of(self.uri)
                while (version := self.first + self.n_versions) <= newest:
                    self.look(version)
                    self.n_versions += 1
            except Exception as error:
                self.wrong.append(f"after {self.n_versions} versions: {error!r}")
                return
            time.sleep(0.02)

    def look(self, version):
        columns = ["id", "label", "content_hash"]
        rows = DeltaTable(self.uri, version=version).to_pyarrow_table(columns=columns)
        seen = states(rows)
        if len(seen) != len(rows):
            self.wrong.append(f"version {version}: {len(rows) - len(seen)} ids twice")
        old, new = self.world.old, self.world.new
        strange = [
            row
            for row, state in seen.items()
            if state not in (old.get(row), new.get(row)) and not row.startswith("foreign-")
        ]
        lost = self.stay - seen.keys()
        lost -= set(failed_ids(self.uri)) if lost else set()
        for what, ids in (("neither old nor new", strange), ("lost", sorted(lost))):
            if ids:
                self.wrong.append(f"version {version}: {len(ids)} {what}, as {ids[:3]}")


# -- kills -----------------------------------------------------------------------------------


def at_commit(table, at, when):
    return {"table": table, "at": at, "when": when}


def random_kill(seed):
    """A kill around a commit, or the seconds after the first wave or the claim."""
    rng = random.Random(seed)
    if seed % 2:
        return rng.choice(["claim", "wave"]), rng.uniform(0, 4)
    table = rng.choice(["main", "failures"])
    return at_commit(
        table, rng.randint(1, 4 if table == "main" else 2), rng.choice(["before", "after"])
    )


def kill_a_run(tmp_path, world, table, kill):
    """Start a run and kill it; returns whether it was still at work."""
    before = max(0, version_of(table))
    hook = kill if isinstance(kill, dict) else None
    with Child(tmp_path, world.source, table, faults={"commit": hook} if hook else {}) as child:
        if hook is None:
            since, seconds = kill
            child.wait_for(lambda: version_of(table) >= before + (2 if since == "wave" else 1))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
            child.kill()
        code = child.wait(PATIENCE_SECONDS)
        assert code in ((KILLED,) if hook else (KILLED, 0)), child.complained.read_text()
        sys.stderr.write(f"killed: {code == KILLED}, {kill}\n")
        return code == KILLED


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kill", "begun"),
    [(("wave", 0.3), True)]
    + [pytest.param(random_kill(s), s % 3 > 0, marks=SLOW, id=f"seed{s}") for s in range(10)],
)
def test_a_killed_run_is_made_good_by_the_next(tmp_path, many, kill, begun):
    table = many.copy(tmp_path) if begun else tmp_path / "table"
    with Reader(table, many):
        kill_a_run(tmp_path, many, table, kill)
        again = embed(many.source, table)
    many.check(table, vars(again))
    third = embed(many.source, table)
    assert third.unchanged + third.failed == third.rows_read


@SLOW
def test_a_run_killed_again_and_again_comes_to_its_end(tmp_path, many):
    table, rng = many.copy(tmp_path), random.Random(7)
    with Reader(table, many):
        kills = [
            at_commit("main", rng.randint(1, 3), rng.choice(["before", "after"])) for _ in range(6)
        ]
        for kill in kills:
            kill_a_run(tmp_path, many, table, kill)
        again = embed(many.source, table)
    many.check(table, vars(again))


@pytest.mark.parametrize(
    ("since", "seconds"),
    [("wave", 0.0), pytest.param("worker", 1.5, marks=SLOW)]
    + [
        pytest.param(
            ("wave", "worker")[s % 2], random.Random(s).uniform(0, 3), marks=SLOW, id=f"seed{s}"
        )
        for s in range(10)
    ],
)
def test_a_killed_worker_costs_no_row(tmp_path, many, since, seconds):
    table = many.copy(tmp_path)
    before = version_of(table)
    with Reader(table, many), Child(tmp_path, many.source, table) as child:
        if since == "wave":
            child.wait_for(lambda: version_of(table) >= before + 2)
        else:
            child.wait_for(child.workers)
        time.sleep(seconds)
        victims = child.workers()
        for victim in victims:
            victim.kill()
        sys.stderr.write(f"killed {len(victims)} workers\n")
        summary = child.summary()
    many.check(table, summary)


@SLOW
def test_a_ray_that_does_not_start_is_told_in_one_message(tmp_path, few):
    with Child(tmp_path, few.source, tmp_path / "table") as child:
        child.wait_for(lambda: child.processes("raylet"))
        for raylet in child.processes("raylet"):
            raylet.kill()
        assert child.wait(PATIENCE_SECONDS) == 1
        said = child.complained.read_text()
    assert "embatch: Ray did not start: " in said
    assert "Traceback" not in said


def test_a_first_run_comes_in_waves(many):
    assert many.largest_wave < 0.75 * len(many.new)


# -- rivals ----------------------------------------------------------------------------------


def test_a_second_run_leaves_or_waits_and_then_has_nothing_to_do(tmp_path, few):
    table, source = few.copy(tmp_path), few.source
    before = version_of(table)
    with Reader(table, few), Child(tmp_path, source, table) as first:
        first.wait_for(lambda: version_of(table) > before)
        message = rf"being written by run \S+ on {socket.gethostname()} \(process {first.pid}, "
        with pytest.raises(TableBusy, match=message + r".*\. Wait for it with --wait"):
            embed(source, table)
        second = embed(source, table, wait=True)
        done = first.summary()
    few.check(table, done)
    few.check(table, vars(second))
    assert (second.embedded, second.replaced, second.updated, second.deleted) == (0, 0, 0, 0)
    assert (done["replans"], second.replans) == (0, 0)


@SLOW
def test_the_fence_alone_keeps_two_runs_apart(tmp_path, few):
    table, source = few.copy(tmp_path), few.source
    with (
        Reader(table, few),
        Child(tmp_path, source, table, claims=False) as left,
        Child(tmp_path, source, table, claims=False) as right,
    ):
        summaries = [left.summary(), right.summary()]
    few.check(table)
    assert sum(summary["replans"] for summary in summaries) >= 1
    for summary in summaries:
        few.check_sum(summary)


# -- foreign writers -------------------------------------------------------------------------


@contextlib.contextmanager
def disturbed(few, table, **options):
    """A run in a thread, at the moment of its first wave; gives the future of its summary."""
    before = version_of(table)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            embed, few.source, table, seconds_a_row=2e-3, wave_seconds=0.1, **options
        )
        give_up = time.monotonic() + PATIENCE_SECONDS
        while version_of(table) < before + 2 and not future.done():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield future


def insist(write):
    """A foreign write, again where the run was faster."""
    for _ in range(50):
        with contextlib.suppress(DeltaError):
            return write()
    return write()


def foreign_append(table):
    rows = DeltaTable(str(table)).to_pyarrow_table().slice(0, 5)
    at = rows.schema.get_field_index("id")
    rows = rows.set_column(at, "id", [[f"foreign-{i}" for i in range(5)]])
    insist(lambda: write_deltalake(str(table), rows, mode="append"))


def test_a_foreign_append_is_kept_and_the_run_plans_again(tmp_path, few):
    table = few.copy(tmp_path)
    with Reader(table, few), disturbed(few, table, prune=False) as future:
        foreign_append(table)
        summary = future.result()
    assert summary.replans >= 1
    held, want = states(contents(table)), dict(few.new)
    want |= {row: state for row, state in few.old.items() if row not in few.rows}
    strange = {row for row in held if row.startswith("foreign-")}
    assert strange == {f"foreign-{i}" for i in range(5)}
    assert {row: held[row] for row in held.keys() - strange} == want
    assert len(contents(table)) == len(held)
    few.check_counts(table, vars(summary))


@pytest.mark.slow
def test_rows_that_others_delete_come_back(tmp_path, few):
    table = few.copy(tmp_path)
    with disturbed(few, table) as future:
        mine = "id in ('d000003', 'd000004', 'd000005', 'd000006')"
        insist(lambda: DeltaTable(str(table)).delete(mine))
        assert not future.done()
        summary = future.result()
    assert summary.replans >= 1
    few.check(table, vars(summary))


# -- claims and leftovers --------------------------------------------------------------------


def claim_of(table, host, age):
    """Another run's claim, as its commit would look."""
    said = (datetime.now(UTC) - age).isoformat()
    note = {
        "run": "r-elsewhere",
        "host": host,
        "pid": 1,
        "started": 0,
        "state": "wave",
        "time": said,
    }
    handle = DeltaTable(str(table))
    properties = CommitProperties(custom_metadata={"embatch": json.dumps(note)})
    handle.create_write_transaction(
        [], mode="append", schema=handle.schema(), commit_properties=properties
    )


def test_the_claim_of_a_killed_run_holds_nobody_up(tmp_path, few):
    table, source = few.copy(tmp_path, "scratch"), few.source
    last_words = at_commit("main", 1, "after")
    with Child(tmp_path, source, table, faults={"commit": last_words}) as child:
        assert child.wait(PATIENCE_SECONDS) == KILLED
    last = json.loads(DeltaTable(str(table)).history(1)[0]["embatch"])
    assert (last["state"], last["pid"]) == ("claim", child.pid)
    assert embed(source, table).unchanged == len(few.new)


def test_only_a_fresh_claim_of_another_host_counts(tmp_path, few):
    table, source = few.copy(tmp_path, "scratch"), few.source
    claim_of(table, "another-host", timedelta(minutes=9))
    with pytest.raises(TableBusy, match=r"run r-elsewhere on another-host \(process 1, "):
        embed(source, table)
    claim_of(table, "another-host", timedelta(minutes=11))
    assert embed(source, table).unchanged == len(few.new)


def test_a_pid_that_another_process_has_by_now_is_no_sign_of_life(tmp_path, few):
    table, source = few.copy(tmp_path, "scratch"), few.source
    claim_of(table, socket.gethostname(), timedelta(seconds=1))  # pid 1 lives, but began later
    assert embed(source, table).unchanged == len(few.new)


@pytest.mark.slow
def test_orphans_of_a_run_killed_between_failures_and_rows_go_after_a_day(tmp_path, many):
    table = many.copy(tmp_path)
    with Reader(table, many):
        assert kill_a_run(tmp_path, many, table, at_commit("failures", 2, "after"))
        summary = embed(many.source, table)
    many.check(table, vars(summary))
    known = {
        Path(name).name
        for version in range(version_of(table) + 1)
        for name in DeltaTable(str(table), version=version).file_uris()
    }
    orphans = sorted(files_in(table) - known)
    assert orphans
    sweep = vacuum.VacuumConfig(str(table), hours=0)
    vacuum.run(sweep)
    left = files_in(table)
    assert set(orphans) <= left
    day_ago = time.time() - timedelta(hours=25).total_seconds()
    os.utime(table / orphans[0], (day_ago, day_ago))
    vacuum.run(sweep)
    assert left - files_in(table) == {orphans[0]}
    many.check(table)


def files_in(table):
    return {path.name for path in table.glob("*.parquet")}
