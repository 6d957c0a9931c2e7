"""Peak memory of a whole run, driver and workers, at N rows and at 4 N.

    python -m benchmarks.memory --rows 50000

Embeds short texts with a model that is a hash, so that what is measured is everything but the
model. Memory is the proportional set size (shared pages shared out) summed over the driver, its
workers and Ray's own processes, sampled every half second. About three minutes on two cores.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory.jsonl"
TIMES = 4
ALLOWED = 1.15
SAMPLE_SECONDS = 0.5
ROLES = ("driver", "workers", "ray")


def corpus(path: Path, n_rows: int) -> None:
    """Write n short texts as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n_rows):
            text = f"short text number {i} about subject {i % 97} and object {i % 89}"
            file.write(json.dumps({"id": i, "text": text, "label": i % 7}) + "\n")


def memory_mb(driver: psutil.Process) -> dict[str, float]:
    """Proportional set size of a run's processes by role, MB."""
    found = dict.fromkeys(ROLES, 0.0)
    for process in [driver, *driver.children(recursive=True)]:
        try:
            size = process.memory_full_info().pss / 1e6
            line = " ".join(process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        role = "driver" if process.pid == driver.pid else "ray"
        found["workers" if line.startswith("ray::Map") else role] += size
    return found


def measure(n_rows: int, folder: Path) -> dict[str, float]:
    """One run in a child process: seconds and peaks, MB."""
    source = folder / f"{n_rows}.jsonl"
    corpus(source, n_rows)
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--child",
        str(source),
        str(folder / f"table-{n_rows}"),
    ]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
    ) as child:
        driver, peaks, together = psutil.Process(child.pid), dict.fromkeys(ROLES, 0.0), 0.0
        while child.poll() is None:
            now = memory_mb(driver)
            peaks = {role: max(peaks[role], now[role]) for role in ROLES}
            together = max(together, sum(now.values()))
            time.sleep(SAMPLE_SECONDS)
        assert child.stdout is not None  # it is a pipe
        summary = json.loads(child.stdout.read().splitlines()[-1])
    if summary["embedded"] != n_rows:
        raise RuntimeError(f"expected {n_rows} rows to be embedded: {summary}")
    return {
        "rows": n_rows,
        "seconds": round(time.monotonic() - started, 1),
        "rows_per_second": summary["rows_per_second"],
        "peak_mb": round(together, 1),
        **{f"peak_{role}_mb": round(peaks[role], 1) for role in ROLES},
    }


def embed(source: str, table: str) -> None:
    """The child: embed with a hash for a model."""
    from jobs.embed import EmbedConfig, run
    from jobs.outcome import EmbedSummary
    from tests.hash_model import HashModel

    config = EmbedConfig(source, table, model="hash", id_column="id", json=True)
    summary = run(config, HashModel(dim=384))
    assert isinstance(summary, EmbedSummary)  # no dry run was asked for
    print(summary.json())


def main() -> int:
    """Measure, print, append; returns 1 if memory grew by more than ALLOWED."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the smaller run")
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "TABLE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        embed(*arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(n, Path(folder)) for n in (arguments.rows, TIMES * arguments.rows)]
    ratio = runs[1]["peak_mb"] / runs[0]["peak_mb"]
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("ray", "pyarrow", "deltalake")},
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "runs": runs,
        "peak_ratio": round(ratio, 3),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    for run in runs:
        print(run)
    print(f"{TIMES} times the rows take {ratio:.2f} times the memory (at most {ALLOWED} allowed)")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
