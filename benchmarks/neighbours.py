"""Time of exact nearest neighbours among a set of vectors, by embatch and by faiss's exact index.

    python -m benchmarks.neighbours
    python -m benchmarks.neighbours --quick --json
    python -m benchmarks.neighbours --rows 1000000 --queries 10000 --rounds 1

Unit vectors lie around 200 centres, like those of texts of as many topics. Both engines use all cores,
take turns, and run in processes of their own; a ratio is the median over rounds. `exact` is the share of
neighbours that both engines find; where they differ, faiss's float32 sums have swapped two neighbours at
nearly the same distance.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.corpora import ROOT, SEED
from benchmarks.record import PeakMemory, append

DIM, K, CENTRES = 384, 10, 200
ENGINES = ("faiss", "embatch")


def vectors(n: int) -> np.ndarray:
    """Random vectors around CENTRES centres, (n, DIM) float32, unit rows."""
    chance = np.random.default_rng(SEED)
    centres = chance.standard_normal((CENTRES, DIM), np.float32)
    rows = np.empty((n, DIM), np.float32)
    for start in range(0, n, 65_536):
        part = rows[start : start + 65_536]
        part[:] = 0.5 * centres[chance.integers(0, CENTRES, len(part))]
        part += chance.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def run_engine(engine: str, n: int, n_queries: int, out: str) -> dict[str, Any]:
    """Time an engine in this process, and write the neighbours' indices, (queries, K) int64, to `out`.

    Args:
        engine: One of ENGINES.
        n: Number of vectors.
        n_queries: Number of vectors whose neighbours are looked for; 0 is all, without themselves.
        out: File to write.
    """
    from actors.engine.hardware import cores, setup_for
    from benchmarks.ceiling import matmul_ceiling

    base = vectors(n)
    queries = base[:n_queries].copy() if n_queries else None
    if engine == "faiss":
        import faiss

        faiss.omp_set_num_threads(cores())
        started = time.perf_counter()
        index = faiss.IndexFlatIP(DIM)
        index.add(base)
        _, indices = index.search(base if queries is None else queries, K + (queries is None))
        seconds = time.perf_counter() - started
        if queries is None:  # each row without itself
            own = indices == np.arange(n)[:, None]
            own[~own.any(axis=1), -1] = True
            indices = indices[~own].reshape(n, K)
        answer: dict[str, Any] = {"seconds": seconds}
    else:
        import torch

        from jobs.analysis.nearest import nearest

        torch.set_num_threads(cores())
        started = time.perf_counter()
        indices = nearest(base, K, queries).indices
        seconds = time.perf_counter() - started
        products = n * (n + 1) / 2 if queries is None else n * len(queries)
        ceiling = matmul_ceiling(setup_for("cpu", "fp32", cores(), packed=True), (DIM, 2048))
        answer = {"seconds": seconds, "gemm_share": 2 * DIM * products / ceiling / seconds}
    np.save(out, indices)
    return answer


def measure(n: int, n_queries: int, rounds: int, out: str) -> dict[str, Any]:
    """Compare the engines over some rounds; arguments as of `run_engine`, with `out` a folder."""
    answers: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    found = {}
    for turn in range(rounds):
        for engine in ENGINES if turn % 2 == 0 else ENGINES[::-1]:
            print(f"{turn + 1}/{rounds} {engine}", file=sys.stderr, flush=True)
            asked = json.dumps([engine, n, n_queries, f"{out}/{engine}.npy"])
            command = [sys.executable, "-m", "benchmarks.neighbours", "--child", asked]
            with (
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
                PeakMemory(process.pid, 0.5) as memory,
            ):
                output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{engine} failed with {process.returncode}; see above.")
            answer = json.loads(output.splitlines()[-1])
            answers[engine].append(answer | {"peak_memory_mb": memory.peak_mb})
            found[engine] = np.load(f"{out}/{engine}.npy")
    seconds = {engine: [answer["seconds"] for answer in answers[engine]] for engine in ENGINES}
    return {
        "rows": n,
        "queries": n_queries or n,
        "dim": DIM,
        "k": K,
        "seconds": {engine: round(median(seconds[engine]), 2) for engine in ENGINES},
        "ratio": round(median(a / b for a, b in zip(*seconds.values(), strict=True)), 3),
        "exact": round(float((found["faiss"] == found["embatch"]).mean()), 6),
        "gemm_share": round(median(a["gemm_share"] for a in answers["embatch"]), 3),
        "peak_memory_mb": {
            engine: round(max(a["peak_memory_mb"] for a in answers[engine]), 1)
            for engine in ENGINES
        },
    }


def main() -> int:
    """Measure, print the result and append it to the results."""
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument(
        "--queries", type=int, default=0, help="default: all rows, without themselves"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one round")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_engine(*arguments.child)))
        return 0
    if arguments.quick:
        arguments.rows, arguments.rounds = 50_000, 1
    with tempfile.TemporaryDirectory() as out:
        result = measure(arguments.rows, arguments.queries, arguments.rounds, out)
    append("neighbours", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
