"""The log of a run, and its metrics as a real Prometheus scrapes them."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from jobs.embed import run as embed
from jobs.sync.config import EmbedConfig
from jobs.sync.embedding import FEW_ROWS
from tests.support.hash_model import HashModel

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 120


def source(folder, n, bad=()):
    rows = ({"id": f"d{i}", "text": f"text {i}{' POISON' if i in bad else ''}"} for i in range(n))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def config(folder, n, **options):
    told = {"id_column": "id", "text_column": "text", "max_failures": 1.0, **options}
    bad = told.pop("bad", ())
    return EmbedConfig(source(folder, n, bad), str(folder / "table"), "hash", **told)


def test_the_log_has_a_line_for_each_event_with_the_runs_id(tmp_path, few_rows_here):
    log = str(tmp_path / "log.jsonl")
    first = embed(config(tmp_path, 30, log=log), HashModel())
    second = embed(config(tmp_path, 30, log=log), HashModel())
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    assert [(line["run"], line["event"]) for line in lines] == [
        (first.run, "plan"),
        (first.run, "wave"),
        (first.run, "end"),
        (second.run, "plan"),
        (second.run, "end"),
    ]
    assert lines[0]["due"] == 30
    assert lines[1]["rows"] == 30
    assert (lines[2]["state"], lines[2]["embedded"], lines[4]["unchanged"]) == ("done", 30, 30)
    assert {line["table"] for line in lines} == {str(tmp_path / "table")}
    assert all(line["time"] for line in lines)


def test_the_log_tells_why_a_run_ended(tmp_path, few_rows_here, monkeypatch):
    log = str(tmp_path / "log.jsonl")

    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("jobs.sync.commits.Waves.commit", broken)
    with pytest.raises(OSError, match="No space left"):
        embed(config(tmp_path, 30, log=log), HashModel())
    last = json.loads(Path(log).read_text().splitlines()[-1])
    assert (last["event"], last["state"]) == ("end", "failed")
    assert "No space left on device" in last["reason"]


def test_the_dashboard_is_one_that_grafana_takes():
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    told = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    dashboard = models.Dashboard.from_json(told)
    assert [panel.title for panel in dashboard.panels] == [one["title"] for one in told["panels"]]
    assert len({panel.id_val for panel in dashboard.panels}) == len(dashboard.panels)
    places = [panel.grid_pos for panel in dashboard.panels]
    squares = [
        (x, y)
        for place in places
        for x in range(place.x, place.x + place.w)
        for y in range(place.y, place.y + place.h)
    ]
    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Ray that exports metrics; gives its address and the endpoint's port."""
    import ray.cluster_utils

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    port = free_port()
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "metrics_export_port": port,
            "object_store_memory": 100 << 20,
        },
    )
    yield cluster.address, port
    cluster.shutdown()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def prometheus(tmp_path, cluster):
    """A Prometheus that scrapes the cluster; gives a function that asks it."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (Debian's package prometheus)")
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "scrape_configs": [
                    {
                        "job_name": "ray",
                        "scrape_interval": "1s",
                        "static_configs": [{"targets": [f"127.0.0.1:{cluster[1]}"]}],
                    }
                ]
            }
        )
    )
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml"]
    command += [f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]

    def ask(query):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        yield ask
        process.terminate()


def wait_for(ask, query):
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        try:
            if found := ask(query):
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"nothing came for {query}")


@pytest.mark.slow
def test_prometheus_scrapes_what_the_dashboard_shows(tmp_path, cluster, prometheus):
    n = 4 * FEW_ROWS
    asked = vars(config(tmp_path, n, address=cluster[0], bad={5})) | {"wait": False}
    path = tmp_path / "run.json"
    told = {"embed": asked, "model": {"poison": "POISON", "seconds_a_row": 8e-3}}
    told |= {"run": {"wave_seconds": 1.0}, "settings": {"group_rows": 1500}, "faults": {}}
    path.write_text(json.dumps(told))
    with subprocess.Popen([sys.executable, "-m", "tests.faults.driver", str(path)]) as run:
        dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
        queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
        assert len(queries) >= 7
        for query in queries:
            query = query.replace("$table", ".*").replace("$__rate_interval", "10s")
            found = wait_for(prometheus, query)
            assert found[0]["value"], query
        tags = wait_for(prometheus, "ray_embatch_queue_rows")[0]["metric"]
        assert (tags["table"], tags["model"]) == (str(tmp_path / "table"), "hash")
        failed = wait_for(prometheus, "ray_embatch_failures_total")[0]["metric"]
        assert failed["stage"] == "embed"
        assert run.wait(PATIENCE_SECONDS) == 0
    assert os.path.isdir(tmp_path / "table")
