"""A table after many small changes: as few files, each of one part of the source."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from schemas.plan import make_plan
from schemas.store import Table
from tests.fault_runs import embed
from tests.hash_model import vector_of
from tests.tables import jsonl

pytestmark = pytest.mark.usefixtures("few_rows_here")
N_FILES, ROWS, NIGHTS = 8, 60, 6


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of a few rows, and groups of a few of them."""
    monkeypatch.setattr("jobs.cluster.SMALLEST_WINDOW", 30)
    monkeypatch.setitem(make_plan.__kwdefaults__, "wave_rows", 8)


def test_rows_that_change_all_over_the_source_stay_in_their_place(tmp_path):
    chance = random.Random(0)
    source, table = tmp_path / "source", tmp_path / "table"
    source.mkdir()
    names = [f"{file}-{row:02}" for file in range(N_FILES) for row in range(ROWS)]
    texts = {name: f"text of {name}" for name in names}
    for night in range(NIGHTS):
        for name in chance.sample(sorted(texts), len(texts) // 20 if night else 0):
            texts[name] = f"text of {name} in night {night}"
        for file in range(N_FILES):
            rows = [{"id": n, "text": t} for n, t in texts.items() if n.startswith(f"{file}-")]
            jsonl(source / f"{file}.jsonl", rows)
        summary = embed(source, table)
        changed = (summary.replaced, summary.unchanged)
        assert changed == ((24, len(texts) - 24) if night else (0, 0))
    held = Table.open(str(table))
    parts = [held.read_file(file.name, ["id", "text", "embedding"]) for file in held.files()]
    for at, part in enumerate(parts):  # a group is of two or three files
        assert {abs(int(name[0]) - at) for name in part["id"].to_pylist()} <= {0, 1, 2}
    rows = pa.concat_tables(parts).to_pylist()
    assert {row["id"]: row["text"] for row in rows} == texts
    assert len(rows) == len(texts)
    assert all(row["embedding"] == vector_of(row["text"]).tolist() for row in rows)
    versions = [DeltaTable(str(table), version=v) for v in range(held.version)]
    committed = {Path(uri).name for each in versions for uri in each.file_uris()}
    assert {path.name for path in table.glob("*.parquet")} == committed  # nothing is left behind
