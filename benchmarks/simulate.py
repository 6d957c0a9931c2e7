"""Time, memory, bytes and price of a billion documents or images, calculated from measured rates.

    python -m benchmarks.simulate
    python -m benchmarks.simulate --images 100000000 --gpu A100 --workers 8 --json

Prints the tables of `docs/scale.md`. The rates are in `benchmarks/rates.py`, the calculation is in
`benchmarks/reckon.py`. No GPU was measured. Takes seconds; results go to
`benchmarks/results/simulate.jsonl`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence

from benchmarks.rates import ASSUMED, ENCODERS, GPUS, REQUESTS, Rates, measured_rates, record_of
from benchmarks.reckon import (
    CHANGED,
    IMAGE_WINDOW,
    MODEL_OF,
    WAVE_SECONDS,
    WORKERS,
    reckon,
    workload_of,
)
from benchmarks.record import append
from jobs.runtime.ray_cluster import WINDOW_ROWS
from schemas.delta.store import CHECK_THREADS

RUNS = {"first": "first", "scattered": "scattered", "together": "together"}
ROWS, GPU = 1_000_000_000, "L4"
SIZES = (10_000_000, 100_000_000, ROWS)
QUANTITIES = {
    "gpu_hours": "GPU hours of work",
    "wall_hours": "hours in all",
    "keys_hours": "- keys of the source and the table",
    "plan_hours": "- the plan",
    "model_hours": "- the model (at once with the next two)",
    "reading_hours": "- reading pieces with due rows",
    "driver_hours": "- the driver: checks, rewriting",
    "joining_hours": "- joining small files",
    "dollars": "dollars, on demand",
    "spot_dollars": "dollars, spot",
    "driver_memory_gb": "driver's memory, GB",
    "commits": "commits",
    "small_files": "new files before joining",
    "rewritten_files": "files rewritten",
    "files": "files of the table",
    "log_gb": "log written, GB",
    "source_reads": "reads of the whole source",
    "read_tb": "read, TB",
    "written_tb": "written, TB",
    "vectors_tb": "vectors, TB",
    "table_tb": "table, TB",
}
Both = list[dict[str, float]]  # figures at the lower and at the higher share of a GPU's peak


def simulate(asked: argparse.Namespace, m: Rates) -> dict[str, Both]:
    """Figures of each run of each kind of rows, by "KIND, RUN"."""
    found = {}
    gpu = GPUS[asked.gpu]
    for kind, n in (("documents", asked.documents), ("images", asked.images)):
        workload, encoder = workload_of(kind, m), ENCODERS[MODEL_OF[kind]]
        for run, told in RUNS.items() if n else ():
            both = []
            for share in (encoder.low, encoder.high):
                result = reckon(
                    *(n, workload, m, run, workload.rate(gpu, share)),
                    workers=asked.workers,
                    cores=gpu.cores,
                    changed=asked.changed,
                )
                up = result["gpu_up_hours"]
                price = {"dollars": up * asked.price, "spot_dollars": up * asked.spot_price}
                both.append(result | price)
            found[f"{kind}, {told}"] = both
    return found


def facts(m: Rates) -> dict[str, float]:
    """Figures that belong to no single run, by a phrase that says what each is."""
    documents, spot = workload_of("documents", m), ASSUMED["interruptions_a_gpu_hour"]
    check = REQUESTS["check"] * ASSUMED["request_ms"] / 1e3
    exact = m["exact_seconds"] / m["exact_rows"] ** 2
    memory, model = ASSUMED["driver_gb"] * 1e9, ENCODERS[MODEL_OF["documents"]]
    first = reckon(ROWS, documents, m, "first", documents.rate(GPUS[GPU], model.low))
    again = WAVE_SECONDS / 3600 + first["keys_hours"] + first["plan_hours"]
    small = reckon(
        *(round(m["refresh_rows"]), documents, m, "scattered", m["refresh_rate"]),
        workers=1,
        cores=2,
        changed=m["refresh_changed_share"],
        request_ms=0,
    )
    return {
        "days for a billion documents on the two cores measured": ROWS
        / m["documents_a_second"]
        / 86_400,
        "days for a billion images there": ROWS / m["images_a_second"] / 86_400,
        "million rows whose first plan fits in 128 GB": memory / m["driver_bytes_a_row"] / 1e6,
        "documents a second that one driver checks": WINDOW_ROWS * CHECK_THREADS / check,
        "images a second that it checks": IMAGE_WINDOW * CHECK_THREADS / check,
        "hours to list a bucket of a billion objects": ROWS
        / ASSUMED["keys_a_list"]
        * ASSUMED["request_ms"]
        / 3.6e6,
        "dollars to get each of them twice": 2 * ROWS / 1e3 * ASSUMED["dollars_a_thousand_gets"],
        "GB of the driver that their names take": ROWS * m["listed_bytes_a_file"] / 1e9,
        "million rows whose exact neighbours take 8 hours there": (8 * 3600 / exact) ** 0.5 / 1e6,
        "years for those of a billion": exact * ROWS**2 / 86_400 / 365,
        "million rows whose vectors and faiss index fit in 128 GB": memory / (8 * model.dim) / 1e6,
        "spot interruptions of a first run of documents, at most": spot * first["gpu_hours"],
        "GPU hours lost with a worker: a wave, at most": WAVE_SECONDS / 3600,
        "GPU hours lost with the driver: a wave of all, and the plan": WORKERS * again,
        "seconds for 1,000 of 100,000 short rows, reckoned": small["wall_hours"] * 3600
        - m["start_seconds"],
        "seconds for them, measured": m["refresh_seconds"],
    }


def format_number(value: float) -> str:
    """A number rounded to three significant digits: 244,141 becomes "244,000"."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits - max(0, math.floor(math.log10(abs(value))) - 2))
    return f"{rounded:,.{digits}f}"


def format_range(values: Sequence[float]) -> str:
    """Rounded numbers in order, "1 to 2"; one number if they are equal after rounding."""
    found = list(dict.fromkeys(format_number(value) for value in sorted(values)))
    return " to ".join(found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of a head and rows of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_side_by_side(rows: list[list[str]]) -> list[list[str]]:
    """Put the second half of an even number of rows to the right of the first half."""
    half = len(rows) // 2
    return [left + right for left, right in zip(rows[:half], rows[half:], strict=True)]


def gpu_table(m: Rates) -> str:
    """Table of GPU hours and dollars for a billion rows, of the models alone."""
    kinds = {"MiniLM-L6": "documents", "BERT-base": "documents", "CLIP ViT-B/32": "images"}
    rows = []
    for name, gpu in GPUS.items():
        row = [name, format_number(gpu.tflops), format_number(gpu.dollars)]
        for model, kind in kinds.items():
            encoder, workload = ENCODERS[model], workload_of(kind, m, model)
            hours = [ROWS / workload.rate(gpu, s) / 3600 for s in (encoder.low, encoder.high)]
            row += [format_range(hours), format_range([h * gpu.dollars for h in hours])]
        rows.append(row)
    head = [f"{model} {what}" for model in kinds for what in ("h", "$")]
    return table(["GPU", "TFLOPS", "$/h", *head], rows)


def size_table(m: Rates) -> str:
    """Table of hours of whole runs as sources grow, at the higher share of a GPU's peak."""
    rows = []
    for n in SIZES:
        row = [format_number(n / 1e6)]
        for kind, model in MODEL_OF.items():
            workload = workload_of(kind, m)
            rate = workload.rate(GPUS[GPU], ENCODERS[model].high)
            runs = [reckon(n, workload, m, run, rate) for run in RUNS]
            row += [format_number(run["wall_hours"]) for run in runs]
        rows.append([*row, format_number(runs[0]["driver_memory_gb"])])
    head = [f"{kind}, {told}" for kind in MODEL_OF for told in RUNS.values()]
    return table(["million rows", *head, "driver's GB"], rows)


def tables(results: dict[str, Both], m: Rates) -> list[str]:
    """All tables of `docs/scale.md`."""
    rows = [
        [label, *(format_range([run[key] for run in both]) for both in results.values())]
        for key, label in QUANTITIES.items()
    ]
    predicted = [
        [name.replace("_", " ").replace(" us", " µs"), format_number(value), format_number(m[name])]
        for record in ("driver", "costs")
        for name, value in record_of(record)["predicted"].items()
    ]
    return [
        gpu_table(m),
        table(["", *results], rows),
        size_table(m),
        table(["", "predicted", "measured"] * 2, put_side_by_side(predicted)),
        table(
            [""] * 4,
            put_side_by_side([[name, format_number(value)] for name, value in facts(m).items()]),
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Calculate, print the tables and append the figures to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--documents", type=int, metavar="N", help="rows; a billion of each kind")
    rows.add_argument("--images", type=int, metavar="N", help="rows, instead of documents")
    parser.add_argument("--gpu", choices=GPUS, default=GPU)
    parser.add_argument("--workers", type=int, default=WORKERS, help="with one GPU each")
    parser.add_argument("--changed", type=float, default=CHANGED, help="share, in a refresh")
    parser.add_argument("--price", type=float, help="dollars an hour of a GPU on demand")
    parser.add_argument("--spot-price", type=float, help="dollars an hour of a GPU on the spot")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    asked = parser.parse_args(arguments)
    options = dict(vars(asked))
    if asked.documents is None and asked.images is None:
        asked.documents = asked.images = ROWS
    if asked.price is None:
        asked.price = GPUS[asked.gpu].dollars
    if asked.spot_price is None:
        asked.spot_price = asked.price * ASSUMED["spot_share"]
    rates = measured_rates()
    results = simulate(asked, rates)
    append("simulate", {"options": options, "runs": results, "facts": facts(rates)})
    print(json.dumps(results) if asked.json else "\n\n".join(tables(results, rates)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
