"""Runs that are too small for a Ray of their own; each in a process that has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from jobs.sync.embedding import FEW_ROWS
from tests.support.hash_model import vector_of

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import json, sys
from jobs.embed import run
from jobs.sync.config import EmbedConfig
from tests.support.hash_model import HashModel
source, table, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = EmbedConfig(source, table, "hash", id_column="id", json=True, **options.pop("config", {}))
summary = run(config, HashModel(**options))
print(json.dumps(json.loads(summary.json()) | {"ray": "ray" in sys.modules}))
"""


@pytest.fixture
def embed(tmp_path):
    def run(n, *, words="text", **options):
        source = tmp_path / "rows.jsonl"
        rows = [json.dumps({"id": i, "text": f"{words} {i}"}) for i in range(n)]
        source.write_text("\n".join(rows))
        command = [sys.executable, "-c", RUN, source, tmp_path / "table", json.dumps(options)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_few_rows_are_embedded_without_ray(embed, tmp_path):
    first = embed(FEW_ROWS)
    assert (first["embedded"], first["ray"], first["precision"]) == (FEW_ROWS, False, "fp32")
    second = embed(FEW_ROWS, words="other text")
    assert (second["replaced"], second["ray"]) == (FEW_ROWS, False)
    rows = DeltaTable(tmp_path / "table").to_pyarrow_table().sort_by("id").to_pylist()
    assert len({row["id"] for row in rows}) == FEW_ROWS
    for row in rows[:5]:
        assert row["embedding"] == pytest.approx(vector_of(row["text"]).tolist(), abs=1e-6)


def test_a_row_that_fails_is_a_failure_here_too(embed):
    summary = embed(20, poison="text 7", config={"max_failures": 0.1})
    assert (summary["embedded"], summary["failed"], summary["ray"]) == (19, 1, False)
    assert list(summary["failures"]) == ["RuntimeError: cannot embed 'text 7'"]


@pytest.mark.slow
def test_two_actors_that_were_asked_for_get_their_ray(embed):
    summary = embed(20, config={"actors": 2})
    assert (summary["embedded"], summary["ray"]) == (20, True)
