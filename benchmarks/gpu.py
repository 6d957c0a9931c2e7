"""Speed of embatch's engine and of sentence-transformers on a GPU, and a profile; needs no Ray.

    python -m benchmarks.gpu                            # BERT-base with random weights, 5 minutes
    python -m benchmarks.gpu --model FOLDER --json

Compared as in `benchmarks.encode`: `encode` in fp32, fp16 and bf16, and the engine in fp32 and auto.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpora import CORPORA, MODELS, corpus, model_folder
from benchmarks.encode import BASE, FIELDS, Model, Server, close, compare, table
from benchmarks.record import append

ENGINES = (
    *(BASE, "sentence-transformers-fp16", "sentence-transformers-bf16"),
    *("embatch-fp32", "embatch-auto"),
)
PROFILED_TEXTS = 4096
PROFILED_OPERATORS = 15


def profile(folder: str, texts: list[str]) -> list[dict[str, Any]]:
    """GPU operators that take the most time, each with its milliseconds and share."""
    import torch

    from actors.checkpoints import resolve
    from actors.engine.engine import Engine
    from actors.engine.precision import load_with_precision

    encoder, _ = load_with_precision(resolve(folder), "cuda", None, "auto", texts)
    engine = Engine(encoder)
    engine.encode(texts)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        engine.encode(texts)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    whole = sum(event.self_device_time_total for event in events) or 1
    return [
        {
            "operator": event.key[:60],
            "milliseconds": round(event.self_device_time_total / 1e3, 2),
            "share": round(event.self_device_time_total / whole, 4),
        }
        for event in events[:PROFILED_OPERATORS]
    ]


def main() -> int:
    """Measure, print the result and append it to the results; returns 1 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="BERT-base", help=f"a folder, or one of {MODELS}")
    parser.add_argument("--rows", type=int, default=20_000, help="texts of each corpus")
    parser.add_argument("--rounds", type=int, default=3, help="of all engines")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("No GPU that torch can use is here; benchmarks.encode is for CPUs.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as work:
        name = arguments.model
        folder = model_folder(name, Path(work)) if name in MODELS else name
        servers = [Server(engine, folder, Path(work)) for engine in ENGINES]
        for server in servers:
            server.wait()
        texts = {kind: corpus(kind, arguments.rows) for kind in CORPORA}
        results = compare(servers, texts, Model(folder, "cuda"), arguments.rounds)
        close(servers)
        spent = profile(folder, texts["mixed"][:PROFILED_TEXTS])
    results = [{"model": arguments.model, **row} for row in results]
    append("gpu", {"options": vars(arguments), "results": results, "profile": spent})
    if arguments.json:
        print(json.dumps([{field: row[field] for field in FIELDS} for row in results]))
    else:
        print(table(results))
        for operator in spent:
            print("{share:7.1%} {milliseconds:9.2f} ms  {operator}".format(**operator))
    return 0


if __name__ == "__main__":
    sys.exit(main())
