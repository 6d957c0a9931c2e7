"""Cost of the driver's plan and of a table's log: memory, bytes and time.

    python -m benchmarks.driver
    python -m benchmarks.driver --parts plan,log --json

`plan` measures peak memory and time of `make_plan`, each size in a process of its own. `keys` measures
peak memory if the source's keys are read too. `log` measures bytes and time of commits and checkpoints of
a real table. Times are processor time: a busy machine changes it less than clock time. PREDICTED was
written before the first measurement; still earlier, 56 bytes a row were expected of the driver.
About two minutes on two cores; results go to `results/driver.jsonl`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import ROOT, SEED
from benchmarks.record import append, processor_seconds, resident_peak_mb

PREDICTED = {
    "plan_first_bytes_a_row": 245,
    "plan_refresh_bytes_a_row": 230,
    "plan_first_us_a_row": 1.5,
    "plan_refresh_us_a_row": 3.0,
    "driver_bytes_a_row": 300,
    "listed_bytes_a_file": 210,
    "add_bytes": 330,
    "remove_bytes": 160,
    "commit_bytes": 700,
    "checkpoint_bytes_a_file": 110,
    "commit_ms": 5.0,
    "commit_us_a_file_in_the_table": 2.0,
}
PLAN_ROWS = (1_000_000, 4_000_000)
DRIVER_ROWS = (250_000, 1_000_000)
CHANGED_EVERY = 100  # one row of so many changes
KEY_ROWS = 50_000  # rows of a file
FILES, WAVE_FILES = 20_000, 500


def measure_plan_here(n: int, refreshes: bool) -> dict[str, float]:
    """Memory and processor time of one plan in this process.

    Args:
        n: Number of rows of the source.
        refreshes: True if the table already holds all rows, of which some changed; False if it is new.

    Returns:
        `mb`: peak memory, that of the idle process subtracted, keys included; `seconds`: processor time.
    """
    from schemas.keys import KEYS
    from schemas.plan import make_plan

    idle = resident_peak_mb(os.getpid())
    chance = np.random.default_rng(SEED)
    source = np.zeros(n, KEYS)
    for name in ("id", "content"):
        source[name] = chance.integers(0, 2**63, (n, 2), np.uint64)
    source["where"], source["position"] = np.divmod(np.arange(n), KEY_ROWS)
    stored = source.copy() if refreshes else source[:0]
    source["content"][::CHANGED_EVERY] += np.uint64(1) if refreshes else np.uint64(0)
    current = np.ones(-(-len(stored) // KEY_ROWS), bool)
    started = time.process_time()
    plan = make_plan(source, stored, source[:0], current_file=current)
    seconds = time.process_time() - started
    assert len(plan.due) == (-(-n // CHANGED_EVERY) if refreshes else n)
    return {"mb": resident_peak_mb(os.getpid()) - idle, "seconds": seconds}


def measure_keys_here(n: int, path: str) -> dict[str, float]:
    """Memory to read a source's keys and plan a first run in this process, as the driver does.

    Args:
        n: Number of rows of the source.
        path: Parquet file of the source.

    Returns:
        `mb`: peak memory, that of the idle process subtracted.
    """
    from jobs.sync.scan import gather, scan_piece
    from schemas.plan import make_plan
    from sources import open_source
    from sources.rows import SourceOptions, number_files

    idle = resident_peak_mb(os.getpid())
    source = open_source(SourceOptions(path, ("text",), id_column="id"))
    pieces = number_files(source.pieces())
    scans = [scan_piece(source, at, piece) for at, piece in enumerate(pieces)]
    keys = gather(scans, pieces, all_listed=True).keys
    del scans
    plan = make_plan(keys, keys[:0], keys[:0], current_file=np.zeros(0, bool))
    assert len(plan.due) == n
    return {"mb": resident_peak_mb(os.getpid()) - idle}


def run_child(*asked: object) -> dict[str, float]:
    """Run `measure_plan_here` or `measure_keys_here` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.driver", "--child", json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_plan(folder: Path) -> dict[str, float]:
    """Memory and time of plans; bytes a row are the growth from a smaller to a larger plan, a row."""
    found = {}
    for kind in ("first", "refresh"):
        small, large = (run_child("plan", n, kind == "refresh") for n in PLAN_ROWS)
        few, many = PLAN_ROWS
        found[f"plan_{kind}_bytes_a_row"] = (large["mb"] - small["mb"]) * 1e6 / (many - few)
        found[f"plan_{kind}_us_a_row"] = large["seconds"] * 1e6 / many
        found[f"plan_{kind}_mb"] = large["mb"]
    return found | {"plan_rows": max(PLAN_ROWS)}


def measure_keys(folder: Path) -> dict[str, float]:
    """Memory a row to read the source's keys and plan, and memory a file of a listing."""
    from sources.listing import ListedFile

    runs = []
    for n in DRIVER_ROWS:
        path = folder / f"{n}.parquet"
        ids = pa.array(np.arange(n)).cast(pa.string())
        pq.write_table(pa.table({"id": ids, "text": ids}), path, row_group_size=KEY_ROWS)
        runs.append(run_child("keys", n, str(path)))
    tracemalloc.start()
    listed = [ListedFile(f"photos/{i // 1000:06}/{i:012}.jpg", 20_000 + i) for i in range(10_000)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    few, many = DRIVER_ROWS
    grown = (runs[1]["mb"] - runs[0]["mb"]) * 1e6
    return {
        "driver_bytes_a_row": grown / (many - few),
        "driver_mb": runs[1]["mb"],
        "listed_bytes_a_file": size / len(listed),
    }


def measure_log(folder: Path) -> dict[str, float]:
    """Bytes and time of commits and checkpoints of a real table, whose files are links to a small file."""
    from schemas.delta.fragments import new_name, write_rows
    from schemas.delta.store import Table
    from schemas.tables.embeddings import Fingerprint, table_schema

    run = "20250101T000000-abcdef"
    note = {"run": run, "host": "node-1", "pid": 1, "started": 1, "command": "embed"}
    note |= {"model": "all-MiniLM-L6-v2", "source": "s3://bucket/corpus", "state": "wave"}
    schema = table_schema([pa.field("label", pa.string())], Fingerprint("m", 384, "s", "r"))
    table = Table.create(str(folder / "table"), schema, note)
    first = write_rows(table.filesystem, new_name(run, "00000"), schema.empty_table())
    files = []
    for _ in range(FILES):
        name = new_name(run, "00000")
        os.link(f"{table.uri}/{first.name}", f"{table.uri}/{name}")
        files.append(type(first)(name, first.size_bytes, first.n_rows))

    def size() -> int:
        return os.path.getsize(f"{table.uri}/_delta_log/{table.version:020}.json")

    def commit_seconds(n: int = 5) -> float:
        return processor_seconds(lambda: table.commit(note), n)

    empty_seconds, empty = commit_seconds(), size()
    for start in range(0, FILES, WAVE_FILES):
        table.commit(note, add=files[start : start + WAVE_FILES])
    added, full_seconds = size(), commit_seconds()
    table.checkpoint()
    whole = checkpoint_bytes(table.uri)
    table.commit(note, remove=files[: FILES // 2])
    removed = size()
    checked = processor_seconds(lambda: table.check(files[-1:]), 100)
    return {
        "add_bytes": (added - empty) / WAVE_FILES,
        "remove_bytes": (removed - empty) / (FILES // 2),
        "commit_bytes": empty,
        "checkpoint_bytes_a_file": whole / FILES,
        "commit_ms": empty_seconds * 1e3,
        "commit_us_a_file_in_the_table": (full_seconds - empty_seconds) * 1e6 / FILES,
        "check_us_a_file": checked * 1e6,
    }


def checkpoint_bytes(uri: str) -> int:
    """Size of a table's newest checkpoint, in bytes."""
    found = sorted(Path(uri, "_delta_log").glob("*.checkpoint*.parquet"))
    return found[-1].stat().st_size


MEASURES = {"plan": measure_plan, "keys": measure_keys, "log": measure_log}


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        part, n, more = arguments.child
        print(
            json.dumps(measure_plan_here(n, more) if part == "plan" else measure_keys_here(n, more))
        )
        return 0
    found: dict[str, float] = {}
    for part in arguments.parts.split(","):
        print(part, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found |= MEASURES[part](Path(folder))
    found = {name: round(value, 3) for name, value in found.items()}
    append("driver", {"options": vars(arguments), "predicted": PREDICTED, "measured": found})
    print(json.dumps(found, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
