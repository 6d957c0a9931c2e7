"""A table after many small changes: as few files, each of one part of the source."""

import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from actors.worker import canary
from jobs.embed import run
from jobs.runtime.signals import Stopped, StopSignal
from jobs.sync.commits import Waves
from jobs.sync.config import EmbedConfig
from schemas.delta.store import Table
from schemas.plan import make_plan
from tests.support.hash_model import HashModel, vector_of
from tests.support.tables import jsonl

pytestmark = pytest.mark.usefixtures("few_rows_here")
N_FILES, ROWS, NIGHTS, N_CHANGES = 8, 60, 6, 24


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of a few rows, and groups of a few files."""
    monkeypatch.setattr("jobs.runtime.ray_cluster.SMALLEST_WINDOW", 30)
    monkeypatch.setitem(make_plan.__kwdefaults__, "wave_rows", 8)


class Counted(HashModel):
    """Counts the texts that are embedded."""

    def load(self, *given, **named):
        encoder = super().load(*given, **named)
        forward = encoder.forward

        def counted(ids):
            counted.n += len(ids)
            return forward(ids)

        counted.n = 0
        encoder.forward = counted
        Counted.last = counted
        return encoder


class Corpus:
    """A folder of files, of which some rows in each night get another text."""

    def __init__(self, folder):
        self.source, self.table = folder / "source", folder / "table"
        self.source.mkdir()
        names = [f"{file}-{row:02}" for file in range(N_FILES) for row in range(ROWS)]
        self.texts = {name: f"text of {name}" for name in names}
        self.chance = random.Random(0)

    def change(self, night):
        for name in self.chance.sample(sorted(self.texts), N_CHANGES):
            self.texts[name] = f"text of {name} in night {night}"

    def embed(self, model=None, *, stop=None, wave_seconds=30.0, **options):
        for file in range(N_FILES):
            mine = (item for item in self.texts.items() if item[0].startswith(f"{file}-"))
            jsonl(self.source / f"{file}.jsonl", [{"id": n, "text": t} for n, t in mine])
        config = EmbedConfig(str(self.source), str(self.table), "hash", id_column="id", json=True)
        model = model or HashModel()
        return run(replace(config, **options), model, stop=stop, wave_seconds=wave_seconds)

    def check(self):
        rows = Table.open(str(self.table)).read(["id", "text", "embedding"]).to_pylist()
        assert {row["id"]: row["text"] for row in rows} == self.texts
        assert len(rows) == len(self.texts)
        assert all(row["embedding"] == vector_of(row["text"]).tolist() for row in rows)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


@pytest.mark.parametrize(("portion_bytes", "commits_a_night"), [(2 << 30, 1), (1, 3)])
def test_rows_that_change_all_over_the_source_stay_in_their_place(
    corpus, monkeypatch, portion_bytes, commits_a_night
):
    monkeypatch.setattr("jobs.sync.commits.PORTION_BYTES", portion_bytes)
    corpus.embed()
    for night in range(1, NIGHTS):
        corpus.change(night)
        summary = corpus.embed()
        assert (summary.replaced, summary.unchanged) == (N_CHANGES, N_FILES * ROWS - N_CHANGES)
        assert summary.waves == commits_a_night
    corpus.check()
    held = Table.open(str(corpus.table))
    files = [held.read_file(file.name, ["id"])["id"].to_pylist() for file in held.files()]
    assert len(files) == N_FILES
    for at, ids in enumerate(files):  # a group is of two or three files
        assert {abs(int(name[0]) - at) for name in ids} <= {0, 1, 2}
    versions = [DeltaTable(str(corpus.table), version=v) for v in range(held.version)]
    committed = {Path(uri).name for version in versions for uri in version.file_uris()}
    assert {path.name for path in corpus.table.glob("*.parquet")} == committed


def test_a_signal_comes_through_while_much_is_rewritten(corpus, monkeypatch):
    monkeypatch.setattr("jobs.sync.commits.PORTION_BYTES", 1)
    corpus.embed()
    corpus.change(1)
    stop, commit = StopSignal(), Waves._commit

    def signalled(self, groups):
        stop.signum = signal.SIGTERM
        commit(self, groups)

    monkeypatch.setattr(Waves, "_commit", signalled)
    with pytest.raises(Stopped):
        corpus.embed(stop=stop)
    monkeypatch.undo()
    summary = corpus.embed()
    assert 0 < summary.replaced < N_CHANGES
    corpus.check()


def test_passages_of_a_document_stay_together(corpus):
    chunks = {"chunk_tokens": 2, "chunk_overlap": 0}
    corpus.embed(**chunks)
    assert len(Table.open(str(corpus.table)).read()) == 2 * len(corpus.texts)
    for night in range(1, NIGHTS):
        corpus.change(night)
        summary = corpus.embed(**chunks)
        assert (summary.replaced, summary.deleted) == (N_CHANGES, 0)
        held = Table.open(str(corpus.table))
        assert len(held.files()) == N_FILES
        parents = [set(held.read_file(file.name)["parent_id"].to_pylist()) for file in held.files()]
        assert sum(map(len, parents)) == len(set.union(*parents)) == len(corpus.texts)
    assert corpus.embed(**chunks).unchanged == len(corpus.texts)


def test_replace_embeds_each_text_once_also_where_rows_stay(corpus):
    corpus.embed()
    del corpus.texts["0-00"]  # without --prune its row stays
    corpus.texts["1-00"] = corpus.texts["7-00"]  # one of the two is copied by a second plan
    summary = corpus.embed(Counted(), replace=True)
    assert Counted.last.n == len(corpus.texts) - 1 + len(canary.texts())
    assert summary.replaced == len(corpus.texts)
    table = Table.open(str(corpus.table)).read(["id", "text"]).to_pylist()
    assert sorted(row["id"] for row in table) == ["0-00", *sorted(corpus.texts)]


def test_an_error_right_after_a_commit_commits_nothing_twice(corpus, monkeypatch):
    def broken(*_):
        raise OSError("No space left on device")

    corpus.embed()
    for row in range(10):
        del corpus.texts[f"0-{row:02}"]
        corpus.texts[f"7-{row + ROWS:02}"] = f"a new text {row}"
    with monkeypatch.context() as patch:
        patch.setattr("jobs.sync.events.Events.wave", broken)
        with pytest.raises(OSError, match="No space left"):
            corpus.embed(wave_seconds=0.0, prune=True)
    ids = Table.open(str(corpus.table)).read(["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(corpus.texts)
    corpus.embed(prune=True)
    corpus.check()
