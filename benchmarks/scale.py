"""Cost of whole runs as a source grows, and cost of a refresh after a share of its rows changed.

    python -m benchmarks.scale
    python -m benchmarks.scale --parts scale --model all-MiniLM-L6-v2 --rows 2000
    python -m benchmarks.scale --parts refresh --refresh-rows 20000

`scale` embeds N, 4 N and 16 N short texts into new tables, by default with a hash function in the place of a
model, so that all but the model is measured. `refresh` embeds a source once, then changes a share of its
texts and runs again; here the hash function sleeps for each row, like a model that computes. The time of a
run over one row is the start-up, which is subtracted: of a run with Ray if Ray was started, of one without
if so few rows were due that it was not, and of a run with nothing to do if no row was due. Every run is a
process of its own, and its counts are checked. About one minute for `scale` and seven for `refresh` on two
cores. Results go to `benchmarks/results/scale.jsonl`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.memory import HASH, Run, measure, run_embed
from benchmarks.record import append

PARTS = ("scale", "refresh")
TIMES = (1, 4, 16)
TARGETS = {0.0: 0.02, 0.01: 0.04, 0.1: None}  # by share of the texts changed, the most it may cost
N_FILES = 8
REPEATS = 3  # measurements of each start-up and refresh; the median counts
COUNTS = ("unchanged", "embedded", "replaced", "updated", "duplicates", "failed", "deleted")


def scale(n_rows: int, model: str, folder: Path) -> dict[str, Any]:
    """Measure time and peak memory of runs over 1, 4 and 16 times n rows, each into a new table."""
    runs = []
    for times in TIMES:
        print_progress(f"scale: {times * n_rows:,} rows")
        run = measure(times * n_rows, folder, model)
        runs.append(run | {"whole_rows_per_second": round(run["rows"] / run["seconds"], 1)})
    ratios = [
        {name: round(run[name] / runs[0][name], 3) for name in ("rows", "seconds", "peak_mb")}
        for run in runs
    ]
    return {"part": "scale", "model": model, "runs": runs, "ratios": ratios}


def scale_lines(result: dict[str, Any]) -> list[str]:
    """Lines of a table of `scale`'s result; rows/s are those of the whole run, start-up included."""
    lines = [f"{'rows':>12}{'seconds':>10}{'rows/s':>10}{'peak MB':>10}   ratios to the first"]
    for run, ratio in zip(result["runs"], result["ratios"], strict=True):
        lines.append(
            f"{run['rows']:>12,}{run['seconds']:>10.1f}{run['whole_rows_per_second']:>10,.0f}"
            f"{run['peak_mb']:>10,.0f}   {ratio['rows']:g} x rows, {ratio['seconds']:.2f} x seconds,"
            f" {ratio['peak_mb']:.2f} x memory"
        )
    return lines


def refresh(n_rows: int, model: str, seconds_a_row: float, folder: Path) -> dict[str, Any]:
    """Measure runs after a share of the texts changed, as a share of the first run, without start-up.

    Raises:
        RuntimeError: A run failed or its counts are wrong, or the run over all rows took no longer than
            a start-up.
    """
    starts = start_seconds(model, seconds_a_row, folder)
    source, table = folder / "source", folder / "table"
    versions = np.zeros(n_rows, np.int64)
    write_source(source, versions)
    print_progress(f"refresh: all {n_rows:,} rows")
    run = run_embed(source, table, model, seconds_a_row)
    check(run, embedded=n_rows)
    full = summarize([run], starts)
    full_seconds = full["seconds"] - full["start_seconds"]
    if full_seconds <= 0:
        raise RuntimeError(f"{n_rows} rows are too few: {full}. Give more --refresh-rows.")
    runs = []
    for share, most in TARGETS.items():
        changed = changed_rows(n_rows, share)
        repeats = []
        for repeat in range(REPEATS):
            versions[changed] += 1
            write_source(source, versions)
            print_progress(f"refresh: {len(changed):,} rows changed, {repeat + 1} of {REPEATS}")
            run = run_embed(source, table, model, seconds_a_row)
            check(run, unchanged=n_rows - len(changed), replaced=len(changed))
            repeats.append(run)
        row = {"changed_share": share, "changed_rows": len(changed), **summarize(repeats, starts)}
        cost = (row["seconds"] - row["start_seconds"]) / full_seconds
        runs.append(row | {"cost_share": round(cost, 4), "most_cost_share": most})
    return {
        "part": "refresh",
        "model": model,
        "seconds_a_row": seconds_a_row if model == HASH else None,
        "start_seconds": starts,
        "full": {"rows": n_rows, **full},
        "runs": runs,
    }


def refresh_lines(result: dict[str, Any]) -> list[str]:
    """Lines of a table of `refresh`'s result, with the expected shares."""
    full, model = result["full"], f"Model: {result['model']}"
    if result["model"] == HASH:
        model = f"For a model stands a hash that sleeps {1000 * result['seconds_a_row']:g} ms a row"
    lines = [
        f"{model}. {full['rows']:,} rows in {full['seconds']:.1f} s, "
        f"of which {full['start_seconds']:.1f} s are start-up.",
        f"{'changed':>10}{'rows':>10}{'seconds':>10}{'start-up':>10}  {'of':<6}{'peak MB':>8}"
        "   share of the full run, start-up left out",
    ]
    for run in result["runs"]:
        most = run["most_cost_share"]
        expected = "" if most is None else f" (expected: at most {most:.0%})"
        lines.append(
            f"{run['changed_share']:>10.0%}{run['changed_rows']:>10,}{run['seconds']:>10.1f}"
            f"{run['start_seconds']:>10.1f}  {run['start']:<6}{run['peak_mb']:>8,.0f}"
            f"   {run['cost_share']:.1%}{expected}"
        )
    return lines


def start_seconds(model: str, seconds_a_row: float, folder: Path) -> dict[str, float]:
    """Median seconds of runs over one row, of three kinds.

    Returns:
        `ray`: into a new table, with Ray and a worker; `alone`: into a new table, without Ray; `idle`: into
        the same table again, with nothing to do.
    """
    source = folder / "one-row"
    write_source(source, np.zeros(1, np.int64))
    seconds: dict[str, list[float]] = {"ray": [], "alone": [], "idle": []}
    for attempt in range(REPEATS):
        print_progress(f"refresh: start-up {attempt + 1} of {REPEATS}")
        for start, found in seconds.items():
            table = folder / f"one-row-{attempt}-{'ray' if start == 'ray' else 'alone'}"
            run = run_embed(source, table, model, seconds_a_row, with_ray=start == "ray")
            check(run, **{"unchanged" if start == "idle" else "embedded": 1})
            found.append(run.seconds)
    return {start: round(median(found), 2) for start, found in seconds.items()}


def summarize(runs: list[Run], starts: dict[str, float]) -> dict[str, Any]:
    """Median seconds and peak memory of runs of one kind, and the start-up time of that kind."""
    n_worked = runs[0].summary["embedded"] + runs[0].summary["replaced"]
    with_ray = runs[0].memory.peak_by_role_mb["ray"] > 0
    start = "idle" if not n_worked else "ray" if with_ray else "alone"
    return {
        "seconds": round(median(run.seconds for run in runs), 2),
        "all_seconds": [round(run.seconds, 2) for run in runs],
        "start": start,
        "start_seconds": starts[start],
        "peak_mb": round(max(run.memory.peak_mb for run in runs), 1),
    }


def write_source(folder: Path, versions: np.ndarray) -> None:
    """Write n rows as JSON lines to N_FILES files; versions (n,) int64 are numbers in the rows' texts."""
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(versions)), N_FILES)):
        with (folder / f"part-{number}.jsonl").open("w", encoding="utf-8") as file:
            for i in rows.tolist():
                text = f"short text number {i}, version {versions[i]}, about subject {i % 97}"
                file.write(json.dumps({"id": i, "text": text, "label": i % 7}) + "\n")


def changed_rows(n_rows: int, share: float) -> np.ndarray:
    """Indices of rows to change, (share * n,) int64, spread evenly: 0, 10, 20, ... for a tenth."""
    return np.arange(n_rows)[:: round(1 / share)] if share else np.zeros(0, np.int64)


def check(run: Run, **expected: int) -> None:
    """Compare a run's counts with the expected ones.

    Args:
        run: A run.
        expected: Counts by name of COUNTS; those not given are 0.

    Raises:
        RuntimeError: The counts differ.
    """
    got = {name: run.summary[name] for name in COUNTS}
    wanted = dict.fromkeys(COUNTS, 0) | expected
    if got != wanted:
        raise RuntimeError(f"expected the counts {wanted}, got {got}: {run.summary}")


def print_progress(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, append the results to the file and print them; returns 1 if a refresh cost more than expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=10_000, help="N of scale")
    parser.add_argument("--refresh-rows", type=int, default=100_000, help="rows of refresh")
    parser.add_argument("--model", default=HASH, help="a real one, as embatch embed takes it")
    parser.add_argument(
        "--milliseconds-a-row", type=float, default=2.0, help="that the hash sleeps in refresh"
    )
    parser.add_argument("--json", action="store_true", help="print the results as a line of JSON")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}, known: {', '.join(PARTS)}")
    if arguments.rows < 1 or arguments.refresh_rows < 100 or arguments.milliseconds_a_row < 0:
        parser.error("expected --rows from 1, --refresh-rows from 100, --milliseconds-a-row from 0")
    records, lines = {}, []
    with tempfile.TemporaryDirectory() as folder:
        if "scale" in parts:
            result = scale(arguments.rows, arguments.model, Path(folder))
            records["scale"] = append("scale", result)
            lines += [f"Model: {arguments.model}.", *scale_lines(result)]
        if "refresh" in parts:
            seconds_a_row = arguments.milliseconds_a_row / 1000
            result = refresh(arguments.refresh_rows, arguments.model, seconds_a_row, Path(folder))
            records["refresh"] = append("scale", result)
            lines += [*([""] if lines else []), *refresh_lines(result)]
    print(json.dumps(records) if arguments.json else "\n".join(lines))
    runs = records.get("refresh", {}).get("runs", [])
    return int(any(run["cost_share"] > (run["most_cost_share"] or np.inf) for run in runs))


if __name__ == "__main__":
    sys.exit(main())
