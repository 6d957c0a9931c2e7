"""Peak memory of a whole run, driver and workers, at N rows and at 4 N.

    python -m benchmarks.memory --rows 50000

Embeds short texts with a hash function in the place of a model, so that all but the model is measured.
Memory is the proportional set size (a shared page is divided among its processes), summed over the driver,
its workers and Ray's own processes, sampled every half second. About three minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import ROLES, ROOT, PeakMemory, append

TIMES = 4
ALLOWED = 1.15
HASH = "hash"  # name of the hash function that stands for a model
DIM = 384


class Run(NamedTuple):
    """A run in a process of its own.

    Attributes:
        summary: Summary that `embatch embed --json` prints.
        seconds: Time from the start of the process to its end.
        memory: Peak memory of the run.
    """

    summary: dict[str, Any]
    seconds: float
    memory: PeakMemory


def write_corpus(path: Path, n_rows: int) -> None:
    """Write n short texts as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n_rows):
            text = f"short text number {i} about subject {i % 97} and object {i % 89}"
            file.write(json.dumps({"id": i, "text": text, "label": i % 7}) + "\n")


def run_embed(
    source: Path,
    table: Path,
    model: str = HASH,
    seconds_a_row: float = 0.0,
    *,
    with_ray: bool = False,
) -> Run:
    """Embed a source of JSON lines with ids in a child process, and measure its time and memory.

    Args:
        source: File or folder of the source.
        table: Folder of the table.
        model: Name of a model, as `embatch embed --model` takes it, or HASH.
        seconds_a_row: Time that HASH sleeps for each row, like a model that computes.
        with_ray: True to start Ray even if the run would not start it for so few rows.

    Raises:
        RuntimeError: The run failed; its messages are on stderr.
    """
    asked = {
        "source": str(source),
        "table": str(table),
        "model": model,
        "seconds_a_row": seconds_a_row,
        "with_ray": with_ray,
    }
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = time.monotonic()
    with (
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.memory", "--child", json.dumps(asked)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
        PeakMemory(child.pid) as memory,
    ):
        output, _ = child.communicate()
        seconds = time.monotonic() - started
    if child.returncode:
        raise RuntimeError(f"The run over {source} failed with {child.returncode}; see above.")
    return Run(json.loads(output.splitlines()[-1]), seconds, memory)


def measure(n_rows: int, folder: Path, model: str = HASH) -> dict[str, float]:
    """Measure a run over n rows into a new table: its seconds, and its peak memory in MB."""
    source = folder / f"{n_rows}.jsonl"
    write_corpus(source, n_rows)
    run = run_embed(source, folder / f"table-{n_rows}", model)
    if run.summary["embedded"] != n_rows:
        raise RuntimeError(f"expected {n_rows} rows to be embedded: {run.summary}")
    return {
        "rows": n_rows,
        "seconds": round(run.seconds, 1),
        "rows_per_second": run.summary["rows_per_second"],
        "peak_mb": round(run.memory.peak_mb, 1),
        **{f"peak_{role}_mb": round(run.memory.peak_by_role_mb[role], 1) for role in ROLES},
    }


def embed(source: str, table: str, model: str, seconds_a_row: float, with_ray: bool) -> None:
    """Embed in this process and print the summary; the arguments are those of `run_embed`."""
    from jobs.embed import run
    from jobs.runtime.native_stderr import hide_native_noise
    from jobs.runtime.ray_cluster import cluster
    from jobs.sync.config import EmbedConfig
    from jobs.sync.summary import EmbedSummary
    from tests.support.hash_model import HashModel

    config = EmbedConfig(source, table, model=model, id_column="id", json=True)
    hosted = HashModel(dim=DIM, seconds_a_row=seconds_a_row) if model == HASH else None
    with hide_native_noise(), cluster(None, verbose=False) as ray_cluster:
        if with_ray:
            ray_cluster.nodes()  # waits for it; the run finds it
        summary = run(config, hosted)
    assert isinstance(summary, EmbedSummary)  # no dry run was asked for
    print(summary.json())


def main() -> int:
    """Measure, print the result and append it to the results; returns 1 if memory grew by more than ALLOWED."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the smaller run")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        embed(**arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(n, Path(folder)) for n in (arguments.rows, TIMES * arguments.rows)]
    ratio = runs[1]["peak_mb"] / runs[0]["peak_mb"]
    append("memory", {"runs": runs, "peak_ratio": round(ratio, 3)})
    for run in runs:
        print(run)
    print(f"{TIMES} times the rows take {ratio:.2f} times the memory (at most {ALLOWED} allowed)")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
