"""Calculate the cost of one run over n rows from rates: time, memory, commits, files and bytes.

`benchmarks.simulate` shows the figures; `benchmarks.rates` has the rates. The calculation follows the
constants and the order of steps of `jobs/sync/loop.py`, and a test compares it with a real plan.
"""

import math
from dataclasses import dataclass

from benchmarks.rates import ASSUMED, ENCODERS, IMAGE_TOKENS, REQUESTS, Gpu, Rates
from jobs.runtime.ray_cluster import WINDOW_ROWS
from jobs.sync.commits import PORTION_BYTES
from jobs.sync.scan import SCAN_THREADS
from jobs.sync.workers import WINDOW_BYTES
from schemas.delta.claim import RENEW_SECONDS
from schemas.delta.rewriting import COMPACTED_BYTES, MANY_SMALL_FILES
from schemas.delta.store import CHECK_THREADS
from schemas.plan import WAVE_ROWS
from sources.formats.parquet import PIECE_BYTES, PIECE_ROWS

WAVE_SECONDS = 30.0
CHECKPOINT_COMMITS = 100  # commits after which deltalake writes a checkpoint by itself
IMAGE_WINDOW = WINDOW_BYTES // (224 * 224 * 3)  # rows of a window of images
MODEL_OF = {"documents": "MiniLM-L6", "images": "CLIP ViT-B/32"}
WORKERS, CHANGED = 16, 0.01


@dataclass(frozen=True)
class Workload:
    """A kind of rows to embed, and the cost of one row.

    Attributes:
        model: Name in ENCODERS.
        tokens: Tokens of a row, after truncation.
        source_bytes: Bytes of a row in the source.
        row_bytes: Bytes of a row in the table, compressed.
        piece_rows: Rows of a piece, which one task reads; it reads all of them even if few are due.
        window: Rows of a window, which are written to one file at first.
        scan_us: Processor time to read a row's keys, in µs.
        item_us: Processor time to read a row again and to tokenise or decode it, in µs.
    """

    model: str
    tokens: float
    source_bytes: float
    row_bytes: float
    piece_rows: float
    window: int
    scan_us: float
    item_us: float

    def rate(self, gpu: Gpu, share: float) -> float:
        """Rows a second of a GPU at a share of its peak, or, if that is less, of the cores that feed it."""
        fed = gpu.cores * 1e6 / self.item_us
        return min(share * gpu.tflops * 1e12 / ENCODERS[self.model].flops(self.tokens), fed)


def workload_of(kind: str, m: Rates, model: str = "") -> Workload:
    """Workload of a kind: `documents`, whole news articles in Parquet, or `images`, photos in tars.

    Args:
        kind: "documents" or "images"; rows of both have ids.
        m: `measured_rates()`.
        model: Name in ENCODERS; "" takes that of MODEL_OF.
    """
    model = model or MODEL_OF[kind]
    row = m["key_bytes_a_row"] + m["other_bytes_a_row"]
    row += ENCODERS[model].dim * m["vector_bytes_a_value"]
    if kind == "images":
        scan, tar, window = m["scan_image_us"], ASSUMED["images_a_tar"], IMAGE_WINDOW
        item = m["decode_us"] + scan
        return Workload(model, IMAGE_TOKENS, m["image_bytes"], row, tar, window, scan, item)
    text, scan = m["source_text_bytes_a_row"], m["scan_document_us"]
    piece, row = min(PIECE_ROWS, PIECE_BYTES / text), row + m["text_bytes_a_row"]
    return Workload(
        model, m["tokens"], text, row, piece, WINDOW_ROWS, scan, m["tokenize_us"] + scan
    )


def reckon(
    n: int,
    workload: Workload,
    m: Rates,
    run: str,
    rate: float,
    *,
    workers: int = WORKERS,
    cores: int = 4,
    changed: float = CHANGED,
    request_ms: float = ASSUMED["request_ms"],
) -> dict[str, float]:
    """Calculate the cost of one run over n rows.

    Args:
        n: Number of rows of the source.
        workload: Cost of a row.
        m: `measured_rates()`.
        run: "first" if all rows are new; "scattered" or "together" if a share of them changed, over all
            files or next to each other.
        rate: Rows a second of each worker.
        workers: Number of workers, with one GPU each.
        cores: Number of cores of each worker.
        changed: Share of the rows that changed, in [0, 1], unless run is "first".
        request_ms: Time of one request to the object store.

    Returns:
        Quantities with units in their names. `wall_hours` is the sum of `keys`, `plan`, the longest
        of `model`, `reading` and `driver`, which happen at once, `joining`, and a start.
    """
    first, request = run == "first", request_ms / 1e3
    due = n if first else n * changed
    file_rows = max(1, COMPACTED_BYTES // workload.row_bytes)
    files = math.ceil(n / file_rows)
    hit = {"first": 0, "scattered": 1 - (1 - changed) ** file_rows, "together": changed}[run]
    touched = math.ceil(files * hit)
    groups = max(1, min(touched, math.ceil(due / WAVE_ROWS)))
    small = math.ceil(due / workload.window) + (0 if first else groups)
    # Each group reads the pieces of its rows. Files lie as they were written: where one group ends,
    # as many pieces as there were workers go on in the next.
    again = due / n
    if run == "scattered":
        again = (
            1
            - (1 - changed) ** workload.piece_rows
            + (groups - 1) * workers * workload.piece_rows / n
        )
        again = min(again, groups)

    crowd = workers * cores * 1e6
    source_bytes, key_bytes = n * workload.source_bytes, 0 if first else n * m["key_bytes_a_row"]
    scan = source_bytes / workers / ASSUMED["network_bytes_a_second"]
    scan = max(scan, n * workload.scan_us / crowd)
    held = 0 if first else n * m["scan_table_us"] / 1e6
    held += 0 if first else files * REQUESTS["read"] * request / SCAN_THREADS
    kind = "first" if first else "refresh"
    plan = n * m[f"plan_{kind}_us_a_row"] / 1e6 * math.log(max(n, 2)) / math.log(m["plan_rows"])
    model = due / workers / rate
    reading = again * scan
    row_seconds = workload.row_bytes * m["rewrite_us_a_byte"] / 1e6
    anew = (REQUESTS["read"] + REQUESTS["write"]) * request
    writing = touched * (file_rows * row_seconds + anew)
    asked = (small + touched) * REQUESTS["check"]  # of several files at once, here and below
    merges = not first  # files that are rewritten take the new rows, for the old or beside them
    added = due if run == "scattered" else 0
    if merges:
        writing += added * row_seconds
        asked += touched * REQUESTS["schema"] + small * (REQUESTS["read"] + REQUESTS["delete"])
    writing += asked * request / CHECK_THREADS
    working = max(model, reading)  # workers do not wait for commits
    portions = min(groups, math.ceil(touched * file_rows * workload.row_bytes / PORTION_BYTES))
    commits = portions + math.ceil(working / WAVE_SECONDS) + 2  # at most; the claim and the end
    listed = small / 2 if first else files
    commit_ms = m["commit_ms"] + m["commit_us_a_file_in_the_table"] * listed / 1e3
    driver = writing + commits * commit_ms / 1e3
    joins = small > MANY_SMALL_FILES and not merges
    joined = math.ceil(due / file_rows) if joins else 0
    joining = joins * due * row_seconds + joined * REQUESTS["write"] * request
    asked = REQUESTS["schema"] + REQUESTS["read"]
    joining += joins * small * asked * request / CHECK_THREADS
    joining_commits = math.ceil(joining / RENEW_SECONDS)
    joining += joining_commits * commit_ms / 1e3
    commits += joining_commits
    adds, removes = touched + (0 if merges else small + joined), touched + joins * small
    log = commits * m["commit_bytes"] + adds * m["add_bytes"] + removes * m["remove_bytes"]
    checkpoints = commits // CHECKPOINT_COMMITS * listed * m["checkpoint_bytes_a_file"]
    copied = touched * file_rows * workload.row_bytes + (joins * due + added) * workload.row_bytes
    row = m["driver_bytes_a_row"] if first else m["plan_refresh_bytes_a_row"]
    seconds = m["start_seconds"] + scan + held + plan + max(working, driver) + joining
    return {
        "gpu_hours": model * workers / 3600,
        "gpu_up_hours": working * workers / 3600,
        "wall_hours": seconds / 3600,
        "keys_hours": (scan + held) / 3600,
        "plan_hours": plan / 3600,
        "model_hours": model / 3600,
        "reading_hours": reading / 3600,
        "driver_hours": driver / 3600,
        "joining_hours": joining / 3600,
        "driver_memory_gb": m["whole_driver_mb"] / 1e3 + n * row / 1e9,
        "commits": commits,
        "small_files": small,
        "rewritten_files": touched,
        "files": files,
        "log_gb": (log + checkpoints) / 1e9,
        "source_reads": 1 + again,
        "read_tb": (source_bytes * (1 + again) + key_bytes + copied) / 1e12,
        "written_tb": (due * workload.row_bytes + copied) / 1e12,
        "vectors_tb": n * ENCODERS[workload.model].dim * m["vector_bytes_a_value"] / 1e12,
        "table_tb": n * workload.row_bytes / 1e12,
    }
