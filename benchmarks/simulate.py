"""Time, memory, bytes and price of a billion documents or images, reckoned from what was measured.

    python -m benchmarks.simulate
    python -m benchmarks.simulate --images 100000000 --gpu A100 --workers 8 --json

Prints the tables of `docs/scale.md`. RECORDS names the measurements that it reckons with; all else is
ASSUMED, GPUS or ENCODERS. No GPU was measured. Takes seconds; results go to `results/simulate.jsonl`.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.record import RESULTS, append
from jobs.cluster import WINDOW_ROWS
from jobs.pipeline import WINDOW_BYTES
from jobs.scan import SCAN_THREADS
from jobs.waves import COMPACTED_BYTES
from schemas.plan import WAVE_ROWS
from sources.parquet import PIECE_BYTES, PIECE_ROWS

RECORDS = {  # file of results: which of its records count, by their times
    "costs": ("2026-11-22T11:53:37+00:00", "2026-11-22T12:00:03+00:00"),
    "encode": ("2026-11-22T02:11:15+00:00",),
    "images": ("2026-11-22T04:37:25+00:00",),
    "memory": ("2026-11-21T20:19:20+00:00",),
    "neighbours": ("2026-11-22T06:06:27+00:00",),
    "scale": ("2026-11-22T00:08:06+00:00",),
}
ASSUMED = {
    "request_ms": 30.0,  # one answer of an object store
    "network_bytes_a_second": 1.25e9,  # of each machine
    "images_a_tar": 10_000,
    "spot_share": 0.4,  # of the price on demand
    "interruptions_a_gpu_hour": 0.01,
    "list_keys": 1000,  # that one LIST of S3 answers
    "driver_gb": 256,
}
CHECK_REQUESTS, SCHEMA_REQUESTS, READ_REQUESTS, WRITE_REQUESTS = 4, 2, 3, 5
"""Of one file, one after the other; counted with an S3 server on this machine."""
WAVE_SECONDS = 30.0
CHECKPOINT_COMMITS = 100  # after so many deltalake writes one by itself
PIXELS = 224 * 224 * 3
RUNS = {"first": "first run", "scattered": "1% scattered", "together": "1% together"}
WORKERS, CHANGED, ROWS = 16, 0.01, 1_000_000_000


@dataclass(frozen=True)
class Gpu:
    """One GPU and its share of the machine.

    Attributes:
        tflops: Dense bf16 peak by NVIDIA's data sheets (of the A10G, AWS's own, by public lists).
        cores: Virtual ones of the machine, a GPU.
        dollars: An hour on demand: AWS list prices of 2025 in us-east-1 (g6.xlarge, g5.xlarge,
            p4d.24xlarge and p5.48xlarge after the cut of June), divided by the number of GPUs.
    """

    tflops: float
    cores: int
    dollars: float


@dataclass(frozen=True)
class Encoder:
    """A transformer's shape, and the shares of a GPU's peak that it is assumed to reach."""

    layers: int
    hidden: int
    up: int
    dim: int
    low: float
    high: float
    first_flops: float = 0.0

    def flops(self, n_tokens: float) -> float:
        """Of the matrix products for one row, 2 for a product and a sum.

        For up = 4 * hidden it is layers * (24 n h^2 + 4 n^2 h).

        Source: Narayanan et al. 2021 (arXiv 2104.04473), appendix, forward pass, without logits.
        """
        linear = 2 * (4 * self.hidden**2 + 2 * self.hidden * self.up) * n_tokens
        return self.layers * (linear + 4 * self.hidden * n_tokens**2) + self.first_flops


@dataclass(frozen=True)
class Work:
    """What is embedded, and what a row of it costs.

    Attributes:
        rows: Of the source.
        tokens: A row, after truncation.
        source_bytes: A row.
        row_bytes: A row of the table, compressed.
        piece_rows: What one read task reads.
        window: Rows that come to lie in one file at first.
        scan_us: Processor time to read a row's keys.
        item_us: Processor time to read a row again and to tokenise or decode it.
    """

    rows: int
    tokens: float
    source_bytes: float
    row_bytes: float
    piece_rows: float
    window: int
    scan_us: float
    item_us: float


GPUS = {
    "L4": Gpu(121, 4, 0.805),
    "A10G": Gpu(70, 4, 1.006),
    "A100": Gpu(312, 12, 2.745),
    "H100": Gpu(989, 24, 6.88),
}
ENCODERS = {
    "MiniLM-L6": Encoder(6, 384, 1536, 384, 0.05, 0.20),
    "BERT-base": Encoder(12, 768, 3072, 768, 0.15, 0.40),
    "CLIP ViT-B/32": Encoder(12, 768, 3072, 512, 0.10, 0.40, 49 * 2 * 3 * 32**2 * 768),
}
MODEL_OF = {"documents": "MiniLM-L6", "images": "CLIP ViT-B/32"}


def measured() -> dict[str, float]:
    """What RECORDS say, as one dict; `costs` under its own names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, times in RECORDS.items():
        lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        records = {record["time"]: record for record in map(json.loads, lines)}
        found[name] = [records[time] for time in times]
    values: dict[str, float] = {}
    for record in found["costs"]:
        values |= record["measured"]
    engine, job = (
        next(r for r in found["encode"][0]["results"] if (r["engine"], r["corpus"]) == (e, "mixed"))
        for e in ("embatch-fp32", "embatch-job")
    )
    images, refresh = found["images"][0], found["scale"][0]
    few, many = found["memory"][0]["runs"]
    grown = (many["peak_driver_mb"] - few["peak_driver_mb"]) * 1e6
    changed = refresh["runs"][1]
    return values | {
        "tokens": engine["tokens_per_second"] / engine["rows_per_second"],
        "documents_a_second": job["rows_per_second"],
        "images_a_second": images["images_per_second"]["embatch"],
        "decode_us": 1e6 * images["machine"]["cores"] / images["decoded_per_second"],
        "driver_bytes_a_row": grown / (many["rows"] - few["rows"]),
        "exact_seconds": found["neighbours"][0]["seconds"]["embatch"],
        "exact_rows": found["neighbours"][0]["rows"],
        "start_seconds": refresh["start_seconds"]["ray"],
        "refresh_seconds": changed["seconds"] - changed["start_seconds"],
    }


def work_of(kind: str, rows: int, m: dict[str, float]) -> Work:
    """A billion `documents` are whole news articles in Parquet, `images` photos in tars."""
    dim = ENCODERS[MODEL_OF[kind]].dim
    keys = m["key_bytes_a_row"] + m["other_bytes_a_row"] + dim * m["vector_bytes_a_value"]
    if kind == "images":
        window = WINDOW_BYTES // PIXELS
        item = m["decode_us"] + m["scan_image_us"]
        tar = ASSUMED["images_a_tar"]
        return Work(rows, 50, m["image_bytes"], keys, tar, window, m["scan_image_us"], item)
    text = m["source_text_bytes_a_row"]
    piece = min(PIECE_ROWS, PIECE_BYTES / text)
    item = m["tokenize_us"] + m["scan_document_us"]
    stored = keys + m["text_bytes_a_row"]
    us = m["scan_document_us"]
    return Work(rows, m["tokens"], text, stored, piece, WINDOW_ROWS, us, item)


def rate(work: Work, encoder: Encoder, gpu: Gpu, share: float) -> float:
    """Rows a second of one GPU, or what the cores beside it can feed it."""
    fed = gpu.cores * 1e6 / work.item_us
    return min(share * gpu.tflops * 1e12 / encoder.flops(work.tokens), fed)


def simulate(
    work: Work,
    m: dict[str, float],
    run: str,
    *,
    rate: float,
    workers: int = WORKERS,
    cores: int = 4,
    changed: float = CHANGED,
    request_ms: float = ASSUMED["request_ms"],
) -> dict[str, float]:
    """One run.

    Args:
        work: what is embedded.
        m: `measured()`.
        run: of RUNS; `scattered` and `together` are refreshes whose changed rows lie anywhere, or side by side.
        rate: rows a second of each worker.
        workers: with one GPU each.
        cores: of each worker.
        changed: share of the rows, for a refresh.
        request_ms: of one request to the store.

    Returns:
        Quantities with their units in their names; `*_hours` that begin with `t_` add up to `wall_hours`,
        where of those that happen at once the longest counts.
    """
    n, request = work.rows, request_ms / 1e3
    is_first = run == "first"
    due = n if is_first else n * changed
    file_rows = max(1, COMPACTED_BYTES // work.row_bytes)
    files = math.ceil(n / file_rows)
    hit = {"first": 0.0, "scattered": 1 - (1 - changed) ** file_rows, "together": changed}[run]
    touched = math.ceil(files * hit)
    groups = max(1, min(touched, math.ceil(due / WAVE_ROWS)))
    # Files are joined in the order of their names, which are random: a piece's windows go anywhere.
    windows = work.piece_rows / work.window * (1 - (1 - changed) ** work.window)
    again = groups * (1 - (1 - 1 / groups) ** windows) if run == "scattered" else due / n
    small = math.ceil(due / work.window) + (0 if is_first else groups)
    big = math.ceil(due / file_rows)

    crowd = workers * cores * 1e6
    network = workers * ASSUMED["network_bytes_a_second"]
    source = n * work.source_bytes
    scan = max(n * work.scan_us / crowd, source / network)
    keys = 0.0 if is_first else n * m["scan_table_us"] / 1e6
    keys += 0.0 if is_first else files * READ_REQUESTS * request / SCAN_THREADS
    kind = "first" if is_first else "refresh"
    sorting = math.log2(max(n, 2)) / math.log2(m["plan_rows"])
    plan = n * m[f"plan_{kind}_us_a_row"] / 1e6 * sorting
    model = due / (workers * rate)
    reading = again * scan
    check = (small + touched) * CHECK_REQUESTS * request
    rewrite = touched * file_rows * m["rewrite_us"] / 1e6
    rewrite += touched * (READ_REQUESTS + WRITE_REQUESTS) * request
    work_seconds = max(model, reading, check + rewrite)
    commits = math.ceil(work_seconds / WAVE_SECONDS) + 3  # the claim, the joined files, the end
    held = small / 2 if is_first else files
    commit = commits * (m["commit_ms"] / 1e3 + m["commit_us_a_file_in_the_table"] * held / 1e6)
    driver = check + rewrite + commit
    join = due * m["rewrite_us"] / 1e6
    join += (small * (SCHEMA_REQUESTS + READ_REQUESTS) + big * WRITE_REQUESTS) * request
    seconds = m["start_seconds"] + scan + keys + plan + max(model, reading, driver) + join
    adds, removes = small + touched + big, touched + small
    log = commits * m["commit_bytes"] + adds * m["add_bytes"] + removes * m["remove_bytes"]
    log += commits // CHECKPOINT_COMMITS * held * m["checkpoint_bytes_a_file"]
    table, new = n * work.row_bytes, due * work.row_bytes
    copied = touched * file_rows * work.row_bytes
    return {
        "gpu_hours": model * workers / 3600,
        "wall_hours": seconds / 3600,
        "t_scan_hours": (scan + keys) / 3600,
        "t_plan_hours": plan / 3600,
        "t_model_hours": model / 3600,
        "t_reading_hours": reading / 3600,
        "t_driver_hours": driver / 3600,
        "t_join_hours": join / 3600,
        "driver_gb": n * m[f"plan_{kind}_bytes_a_row"] / 1e9,
        "commits": commits,
        "files_written": adds,
        "small_files": small,
        "files_in_table": files,
        "log_gb": log / 1e9,
        "table_tb": table / 1e12,
        "source_read_times": 1 + again,
        "read_tb": (
            source * (1 + again) + (0 if is_first else n * m["key_bytes_a_row"]) + copied + new
        )
        / 1e12,
        "written_tb": (2 * new + copied) / 1e12,
        "rewritten_share": touched / files,
    }
