"""Every row of a source is in the table, in the failures, a duplicate or left out: once, and said."""

import gzip
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.images.pixels import Preprocess
from jobs.embed import run
from jobs.sync.config import EmbedConfig
from schemas.delta.store import Table
from schemas.tables.failures import FAILURES
from sources.formats import parquet
from tests.support.generated_sources import FILES, KINDS, POISON, Account, Row, account
from tests.support.hash_model import HashModel

pytestmark = pytest.mark.usefixtures("few_rows_here")
PIXELS = Preprocess((4, 4), (), 0, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SLOW = pytest.mark.slow
EXAMPLES = int(os.environ.get("EMBATCH_EXAMPLES", "100"))


class Absent(HashModel):
    """A model that must not be asked for."""

    def load(self, *given, **named):
        raise AssertionError("nothing was due, and a model was loaded")


class World:
    """A source of one kind in a folder, its table, and what must be in it."""

    def __init__(self, folder, kind, with_ids):
        self.folder, self.kind, self.with_ids = Path(folder), KINDS[kind], with_ids
        self.source, self.table = self.folder / "source", self.folder / "table"
        self.before = Account()
        self.left_out = {}

    def write(self, files, n_others, is_broken):
        for path in sorted(self.source.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        contents = self.kind.write(files)
        for name, content in contents.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.left_out = {}
        if not self.kind.options.keys() & {"labels", "lines"}:
            for number in range(n_others):
                (self.source / f"other {number}.html").write_text("no source")
            self.left_out = {".html": n_others} if n_others and self.kind.counts_others else {}
        self.broken = self.kind.broken if is_broken else None
        if self.broken:
            (self.source / self.broken).write_bytes(gzip.compress(b"cut off")[:12])
        return bool(contents)

    def spelled(self, how):
        """SOURCE in one of the ways in which one may write it."""
        path = self.source / "classes.txt" if self.kind.options.get("labels") else self.source
        return [
            str(path),
            os.path.relpath(path),
            f"{self.folder}/./{path.relative_to(self.folder)}",
        ][how]

    def sync(self, files, how, model=HashModel, *, prune):
        config = EmbedConfig(
            self.spelled(how),
            str(self.table),
            "hash",
            id_column="id" if self.with_ids and "text_column" in self.kind.options else "",
            max_failures=1.0,
            prune=prune,
            force_prune=prune,
            json=True,
            **self.kind.options,
        )
        poisoned = model(poison=POISON, preprocess=PIXELS if self.kind.is_image else None)
        summary = run(config, poisoned)
        items = self.kind.items(files, self.with_ids)
        want = account(items, self.before, prune=prune, broken=self.broken)
        self.check(summary, want)
        self.before = want

    def check(self, summary, want):
        said = json.loads(summary.json())
        assert {name: said[name] for name in want.counts} == dict(want.counts)
        assert said["files_left_out"] == self.left_out
        assert self.held() == want.table
        failures = self.failures()
        stages = [row["stage"] for row in failures]
        places = [(row["source_file"], row["position"]) for row in failures]
        assert dict(zip(places, stages, strict=True)) == {at: f[0] for at, f in want.failed.items()}
        assert len(places) == len(want.failed), "an address stands there twice"
        assert {row["source"] for row in failures} <= {os.path.abspath(self.spelled(0))}
        withdrawn = {row["id"] for row in failures if row["stage"] in ("embed", "decode")}
        assert not withdrawn & want.table.keys()

    def held(self):
        found = Table.open(str(self.table))
        if self.kind.is_image:
            sure = {
                path.relative_to(self.source).as_posix(): path for path in self.source.rglob("*")
            }
            return {
                name: (sure[name].read_bytes() if name in sure else self.before.table[name][0], ())
                for name in found.read(["id"])["id"].to_pylist()
            }
        others = [name for name in self.kind.others if name in found.schema.names]
        held = {}
        for row in found.read().to_pylist():
            parts, _ = held.get(row.get("parent_id", row["id"]), ((), ()))
            parts = (*parts, (row.get("start", 0), row["text"]))
            held[row.get("parent_id", row["id"])] = parts, tuple(row[name] for name in others)
        assert "parent_id" in found.schema.names or all(len(p) == 1 for p, _ in held.values())
        return {i: (" ".join(t for _, t in sorted(p)), other) for i, (p, other) in held.items()}

    def failures(self):
        table = Table.open(f"{self.table}.failures")
        return table.read(FAILURES.names).to_pylist() if table else []


STATES = st.tuples(
    FILES,
    st.integers(0, 2),
    st.sampled_from([False, False, True]),
    st.integers(0, 2),
    st.booleans(),
)


def live(kind, with_ids, states, **named):
    """A first run, a second one of the same, and both again after each edit."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, kind, with_ids)
        world.source.mkdir()
        for files, n_others, is_broken, how, prune in states:
            if not world.write(files, n_others, is_broken):
                continue
            if not any(True for _ in world.kind.items(files, with_ids)):
                continue  # a source of no rows may have no columns
            world.sync(files, how, prune=prune, **named)
            world.sync(files, (how + 1) % 3, Absent, prune=prune)


@pytest.mark.parametrize(
    "kind",
    ["parquet", pytest.param("jsonl", marks=SLOW), pytest.param("passages", marks=SLOW)],
)
def test_workers_of_ray_leave_the_same_account(kind, monkeypatch, through_ray):
    monkeypatch.setattr(parquet, "PIECE_ROWS", 3)
    rows = [
        [
            Row("a", "sea", "x"),
            Row("b", "", "x"),
            Row("b", "storm at sea", "x"),
            Row("c", None, "y"),
        ],
        [
            Row("a", "ship", "x"),
            Row("c", f"{POISON} 1", "x"),
            Row("7", "sea", "x"),
            Row(None, "sea", "x"),
        ],
    ]
    edited = [
        [Row("a", " ", "x"), Row("b", "storm at sea", "y"), Row("c", "healed", "x")],
        [Row("7", f"{POISON} 1", "x"), Row("d\u2028e", "sea", "x"), Row("d\u2028e", "sea", "x")],
    ]
    for with_ids in (True, False):
        live(kind, with_ids, [(rows, 1, False, 0, True), (edited, 0, False, 1, True)])


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=-(-EXAMPLES // len(KINDS)),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_table_failures_duplicates_and_what_is_left_out_are_the_source(kind, monkeypatch, data):
    monkeypatch.setattr(parquet, "PIECE_ROWS", 3)  # a file of a few rows has several parts
    with_ids = data.draw(st.sampled_from(KINDS[kind].with_ids), "ids")
    live(kind, with_ids, data.draw(st.lists(STATES, min_size=1, max_size=2), "states"))
