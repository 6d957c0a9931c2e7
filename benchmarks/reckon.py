"""What one run over n rows takes, reckoned from rates: time, memory, commits, files and bytes.

`benchmarks.simulate` shows it; `benchmarks.rates` says what it is reckoned from. It follows the
constants and the order of work of `jobs/sync/loop.py`, and a test holds it against a real plan.
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
CHECKPOINT_COMMITS = 100  # after so many deltalake writes one by itself
IMAGE_WINDOW = WINDOW_BYTES // (224 * 224 * 3)  # rows
MODEL_OF = {"documents": "MiniLM-L6", "images": "CLIP ViT-B/32"}
WORKERS, CHANGED = 16, 0.01


@dataclass(frozen=True)
class Work:
    """What is embedded, and what a row of it takes.

    Attributes:
        model: Of ENCODERS.
        tokens: After truncation.
        source_bytes: In the source.
        row_bytes: In the table, compressed.
        piece_rows: Rows that one read task reads, all of them also where few are due.
        window: Rows that come to lie in one file at first.
        scan_us: Processor time to read its keys.
        item_us: Processor time to read it again and to tokenise or decode it.
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
        """Rows a second of one GPU at a share of its peak, or what the cores beside it can feed it."""
        fed = gpu.cores * 1e6 / self.item_us
        return min(share * gpu.tflops * 1e12 / ENCODERS[self.model].flops(self.tokens), fed)


def work_of(kind: str, m: Rates, model: str = "") -> Work:
    """`documents` are whole news articles in Parquet, `images` photos in tars; all have ids."""
    model = model or MODEL_OF[kind]
    row = m["key_bytes_a_row"] + m["other_bytes_a_row"]
    row += ENCODERS[model].dim * m["vector_bytes_a_value"]
    if kind == "images":
        scan, tar, window = m["scan_image_us"], ASSUMED["images_a_tar"], IMAGE_WINDOW
        item = m["decode_us"] + scan
        return Work(model, IMAGE_TOKENS, m["image_bytes"], row, tar, window, scan, item)
    text, scan = m["source_text_bytes_a_row"], m["scan_document_us"]
    piece, row = min(PIECE_ROWS, PIECE_BYTES / text), row + m["text_bytes_a_row"]
    return Work(model, m["tokens"], text, row, piece, WINDOW_ROWS, scan, m["tokenize_us"] + scan)


def reckon(
    n: int,
    work: Work,
    m: Rates,
    run: str,
    rate: float,
    *,
    workers: int = WORKERS,
    cores: int = 4,
    changed: float = CHANGED,
    request_ms: float = ASSUMED["request_ms"],
) -> dict[str, float]:
    """One run of n rows.

    Args:
        n: rows of the source.
        work: what a row takes.
        m: `measured()`.
        run: of RUNS: everything is new, or rows changed that lie scattered, or together.
        rate: rows a second of each worker.
        workers: with one GPU each.
        cores: of each worker.
        changed: share of the rows, in a refresh.
        request_ms: of one request to the store.

    Returns:
        Quantities with units in their names. `wall_hours` is the sum of `keys`, `plan`, the longest
        of `model`, `reading` and `driver`, which happen at once, `joining`, and a start.
    """
    first, request = run == "first", request_ms / 1e3
    due = n if first else n * changed
    file_rows = max(1, COMPACTED_BYTES // work.row_bytes)
    files = math.ceil(n / file_rows)
    hit = {"first": 0, "scattered": 1 - (1 - changed) ** file_rows, "together": changed}[run]
    touched = math.ceil(files * hit)
    groups = max(1, min(touched, math.ceil(due / WAVE_ROWS)))
    small = math.ceil(due / work.window) + (0 if first else groups)
    # Each group reads the pieces of its rows. Files lie as they were written: where one group ends,
    # as many pieces as there were workers go on in the next.
    again = due / n
    if run == "scattered":
        again = 1 - (1 - changed) ** work.piece_rows + (groups - 1) * workers * work.piece_rows / n
        again = min(again, groups)

    crowd = workers * cores * 1e6
    source_bytes, key_bytes = n * work.source_bytes, 0 if first else n * m["key_bytes_a_row"]
    scan = source_bytes / workers / ASSUMED["network_bytes_a_second"]
    scan = max(scan, n * work.scan_us / crowd)
    held = 0 if first else n * m["scan_table_us"] / 1e6
    held += 0 if first else files * REQUESTS["read"] * request / SCAN_THREADS
    kind = "first" if first else "refresh"
    plan = n * m[f"plan_{kind}_us_a_row"] / 1e6 * math.log(max(n, 2)) / math.log(m["plan_rows"])
    model = due / workers / rate
    reading = again * scan
    row_seconds = work.row_bytes * m["rewrite_us_a_byte"] / 1e6
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
    portions = min(groups, math.ceil(touched * file_rows * work.row_bytes / PORTION_BYTES))
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
    copied = touched * file_rows * work.row_bytes + (joins * due + added) * work.row_bytes
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
        "written_tb": (due * work.row_bytes + copied) / 1e12,
        "vectors_tb": n * ENCODERS[work.model].dim * m["vector_bytes_a_value"] / 1e12,
        "table_tb": n * work.row_bytes / 1e12,
    }
