"""Several nodes on one machine: actors spread, a node that comes is used, one that dies costs a retry."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from schemas.delta.store import Table
from tests.support.hash_model import vector_of

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240


@pytest.fixture
def nodes():
    """A cluster with a head and one other node, two cores each; gives the cluster."""
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=dict(room))
    cluster.room = room
    cluster.add_node(**room)
    yield cluster
    cluster.shutdown()


class Run(subprocess.Popen):
    """An embedding of n rows on a cluster, in a process of its own."""

    def __init__(self, folder, cluster, n, *, seconds_a_row):
        self.n, self.table = n, str(folder / "table")
        rows = ({"id": f"d{i:05}", "text": f"text {i}"} for i in range(n))
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = {"source": str(folder / "rows.jsonl"), "table": self.table, "model": "hash"}
        asked |= {"text_column": "text", "id_column": "id"}
        asked |= {"address": cluster.address, "shared_filesystem": True}
        path = folder / "run.json"
        model = {"seconds_a_row": seconds_a_row}
        told = {"embed": asked, "model": model, "run": {"wave_seconds": 1.0}}
        path.write_text(json.dumps({**told, "settings": {"group_rows": 1500}, "faults": {}}))
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            super().__init__(
                [sys.executable, "-m", "tests.faults.driver", str(path)], stdout=out, stderr=err
            )

    def hosts(self):
        """Nodes on which a model is at work, by the sessions of their workers' raylets."""
        import psutil

        found = set()
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if command and command[0].startswith("ray::MapWorker"):
                    found.add(process.ppid())
            except psutil.Error:
                continue
        return found

    def wait_until(self, condition):
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.poll() is None, self.err.read_text()
            assert time.monotonic() < give_up, self.err.read_text()
            time.sleep(0.2)

    def summary(self):
        assert self.wait(PATIENCE_SECONDS) == 0, self.err.read_text()
        return json.loads(self.out.read_text().splitlines()[-1])

    def check(self):
        """Every row is there once, with its vector."""
        rows = Table.open(self.table).read(["id", "text", "embedding"]).sort_by("id").to_pylist()
        assert [row["id"] for row in rows] == [f"d{i:05}" for i in range(self.n)]
        for row in rows[::97]:
            assert np.array_equal(np.array(row["embedding"], np.float32), vector_of(row["text"]))


def has_rows(run):
    table = Table.open(run.table) if os.path.isdir(run.table) else None
    return table is not None and bool(table.files())


def test_actors_spread_over_the_nodes(tmp_path, nodes):
    with Run(tmp_path, nodes, 8000, seconds_a_row=2e-3) as run:
        run.wait_until(lambda: len(run.hosts()) == 2)
        summary = run.summary()
    assert summary["embedded"] == 8000
    run.check()


def test_a_node_that_is_added_is_used(tmp_path, nodes):
    with Run(tmp_path, nodes, 20_000, seconds_a_row=4e-3) as run:
        run.wait_until(lambda: len(run.hosts()) == 2)
        nodes.add_node(**nodes.room)
        run.wait_until(lambda: len(run.hosts()) == 3)
        summary = run.summary()
    assert summary["embedded"] == 20_000
    run.check()


def test_a_node_that_dies_costs_a_retry_and_nothing_else(tmp_path, nodes):
    with Run(tmp_path, nodes, 12_000, seconds_a_row=2e-3) as run:
        run.wait_until(lambda: has_rows(run) and len(run.hosts()) == 2)
        nodes.remove_node(list(nodes.worker_nodes)[0], allow_graceful=False)
        summary = run.summary()
    assert summary["embedded"] == 12_000
    assert summary["replans"] == 0
    run.check()
