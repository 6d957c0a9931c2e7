"""The reckoning of big runs: worked by hand, held against a real plan, and against docs/scale.md."""

import argparse
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record, simulate
from benchmarks.rates import ASSUMED, ENCODERS, GPUS, REQUESTS, measured_rates
from benchmarks.reckon import IMAGE_WINDOW, WAVE_SECONDS, Workload, reckon, workload_of
from jobs.sync.due import due_by_piece
from schemas.keys import KEYS
from schemas.plan import make_plan
from sources.rows import Piece, number_files

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
ZEROS = dict.fromkeys(measured_rates(), 0.0)
# Files of 1,000 rows (their limit is 128 MiB), pieces of 500, windows of 100.
WORK = Workload("MiniLM-L6", 1, 1000, 134_217, 500, 100, 2, 8)


@pytest.fixture(scope="module")
def rates():
    return measured_rates()


@pytest.fixture(scope="module")
def shown(rates):
    price = GPUS[simulate.GPU].dollars
    asked = argparse.Namespace(
        documents=simulate.ROWS,
        images=simulate.ROWS,
        gpu=simulate.GPU,
        workers=simulate.WORKERS,
        changed=simulate.CHANGED,
        price=price,
        spot_price=price * ASSUMED["spot_share"],
    )
    return simulate.tables(simulate.simulate(asked, rates), rates)


def test_operations_of_a_row_worked_by_hand():
    mini, clip = ENCODERS["MiniLM-L6"], ENCODERS["CLIP ViT-B/32"]
    assert mini.flops(1) == 6 * (24 * 384**2 + 4 * 384) == 21_242_880
    assert mini.flops(2) == 2 * 6 * 24 * 384**2 + 4 * 6 * 4 * 384
    layers = 12 * (24 * 50 * 768**2 + 4 * 50**2 * 768)
    patches = 49 * 2 * (3 * 32 * 32) * 768
    assert clip.flops(50) == layers + patches == 8_816_836_608


def test_a_gpu_is_as_fast_as_its_share_of_the_peak_or_as_the_cores_that_feed_it():
    gpu = GPUS["L4"]
    assert WORK.rate(gpu, 1e-6) == pytest.approx(121e6 / 21_242_880)
    assert WORK.rate(gpu, 0.5) == 4 * 1e6 / 8


def test_a_first_run_worked_by_hand():
    rates = ZEROS | {
        "start_seconds": 10,
        "plan_rows": 10_000,
        "plan_first_us_a_row": 1000,
        "driver_bytes_a_row": 300,
        "whole_driver_mb": 500,
        "add_bytes": 100,
        "remove_bytes": 10,
        "commit_bytes": 1000,
        "rewrite_us_a_byte": 2,
    }
    found = reckon(10_000, WORK, rates, "first", 50, workers=2, cores=1, request_ms=10)
    assert found["small_files"] == 100  # windows
    assert found["files"] == 10
    assert found["gpu_hours"] * 3600 == 10_000 / 50
    assert found["keys_hours"] * 3600 == pytest.approx(0.01)  # 10,000 rows, 2 µs, 2 cores
    assert found["plan_hours"] * 3600 == pytest.approx(10)
    assert found["model_hours"] * 3600 == pytest.approx(100)
    assert found["driver_hours"] * 3600 == pytest.approx(100 * 4 * 0.010 / 8)  # eight at once
    # Files are read eight at once; what commits take is set to 0.
    joining = 10_000 * WORK.row_bytes * 2e-6 + 10 * 5 * 0.010 + 100 * (2 + 3) * 0.010 / 8
    assert found["joining_hours"] * 3600 == pytest.approx(joining)
    assert found["wall_hours"] * 3600 == pytest.approx(10 + 0.01 + 10 + 100 + joining)
    assert math.ceil(joining / 120) == 23
    commits = (
        4 + 2 + 23
    )  # 100 s of work, one in 30 s; the claim and the end; while files are joined
    assert found["commits"] == commits
    assert found["log_gb"] * 1e9 == pytest.approx(commits * 1000 + 110 * 100 + 100 * 10)
    assert found["driver_memory_gb"] == pytest.approx(0.5 + 10_000 * 300 / 1e9)
    assert found["source_reads"] == 2
    assert found["read_tb"] * 1e12 == pytest.approx(2 * 10_000 * 1000 + 10_000 * WORK.row_bytes)
    assert found["written_tb"] * 1e12 == pytest.approx(2 * 10_000 * WORK.row_bytes)


def test_scattered_changes_touch_every_file_and_those_that_lie_together_a_few():
    scattered = reckon(1_000_000, WORK, ZEROS | {"plan_rows": 2}, "scattered", 1)
    together = reckon(1_000_000, WORK, ZEROS | {"plan_rows": 2}, "together", 1)
    assert (scattered["files"], scattered["rewritten_files"]) == (1000, 1000)
    assert together["rewritten_files"] == 10
    assert together["source_reads"] == 1.01
    assert scattered["gpu_hours"] == together["gpu_hours"]
    assert scattered["joining_hours"] == 0  # the files that are rewritten take the new rows


def test_reads_of_the_source_are_those_of_a_real_plan(monkeypatch):
    n, n_workers, changed, wave_rows = 100_000, 4, 0.05, 500
    chance = np.random.default_rng(0)
    source = np.zeros(n, KEYS)
    source["id"][:, 0] = source["content"][:, 0] = np.arange(n)
    source["where"], source["position"] = np.divmod(np.arange(n), WORK.piece_rows)
    # Windows of 100 rows, five to a piece, as so many workers write them at once: ten to a file.
    piece, window = np.divmod(np.arange(1000), 5)
    written = np.argsort(piece // n_workers * 5 + window + chance.random(1000), kind="stable")
    stored = source.reshape(1000, -1)[written].reshape(-1)
    stored["where"], stored["position"] = np.divmod(np.arange(n), 1000)
    source["content"][chance.random(n) < changed, 1] = 1
    current = np.ones(100, bool)
    plan = make_plan(source, stored, source[:0], current_file=current, wave_rows=wave_rows)
    assert len(np.unique(plan.drops["where"])) == 100
    pieces = number_files(Piece((str(file),), 1) for file in range(-(-n // WORK.piece_rows)))
    read = len(due_by_piece(plan.due, pieces)) * WORK.piece_rows / n
    monkeypatch.setattr("benchmarks.reckon.WAVE_ROWS", wave_rows)
    rates = ZEROS | {"plan_rows": 2}
    told = reckon(n, WORK, rates, "scattered", 1, workers=n_workers, changed=changed)
    assert told["rewritten_files"] == 100
    assert 1 < read < 1.3
    assert 1 + read == pytest.approx(told["source_reads"], rel=0.1)


def test_numbers_show_three_digits_that_count():
    numbers = (0, 7, 0.00833333, 4.2, 13.82, 244_141, 1859.6, 9_009_100)
    told = ["0", "7", "0.00833", "4.20", "13.8", "244,000", "1,860", "9,010,000"]
    assert [simulate.format_number(number) for number in numbers] == told
    assert simulate.format_range([2.0, 1.0]) == "1 to 2"
    assert simulate.format_range([1.001, 1.002]) == "1.00"


def test_the_page_holds_the_tables_as_they_are_printed(shown):
    for table in shown:
        assert table in DOCUMENT
    assert len(DOCUMENT.splitlines()) <= 115


def test_every_number_in_the_text_is_one_that_is_reckoned_measured_or_assumed(shown, rates):
    known = set(NUMBER.findall("\n".join(shown)))
    values = [*rates.values(), *ASSUMED.values(), *REQUESTS.values(), IMAGE_WINDOW, WAVE_SECONDS]
    values += [share for encoder in ENCODERS.values() for share in (encoder.low, encoder.high)]
    known |= {NUMBER.findall(simulate.format_number(value))[0] for value in values}
    known |= {f"{value:g}" for value in values}
    known |= {
        "16",
        "1",
        "24",
        "4",
        "32",
        "56",
        "2025",
        "2021,",
    }  # workers, %, formula, names, years
    text = [line for line in DOCUMENT.splitlines() if not line.startswith("|")]
    numbers = NUMBER.findall(re.sub(r"^\d\. ", "", "\n".join(text), flags=re.MULTILINE))
    assert len(numbers) > 40
    assert set(numbers) - known - {"100"} == set()  # commits between two checkpoints


def test_a_small_refresh_is_reckoned_near_what_was_measured(rates):
    facts = simulate.facts(rates)
    reckoned, seen = (facts[name] for name in facts if "seconds" in name)
    assert 0.5 < reckoned / seen < 2


def test_the_command_prints_one_line_and_appends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert (
        simulate.main(["--images", "1000000", "--price", "2", "--spot-price", "1", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["images, first", "images, scattered", "images, together"]
    low, high = found["images, first"]
    assert low["gpu_hours"] > high["gpu_hours"] > 0
    assert low["dollars"] == 2 * low["spot_dollars"] == 2 * low["gpu_up_hours"]
    kept = json.loads((tmp_path / "simulate.jsonl").read_text())
    assert kept["runs"] == found
    assert kept["options"]["images"] == 1_000_000


def test_twice_the_rows_take_twice_the_hours_and_memory_beyond_the_start(rates):
    work = replace(workload_of("documents", rates), window=1000)
    start = ZEROS | rates | {"start_seconds": 0, "whole_driver_mb": 0}
    one, two = (reckon(n, work, start, "first", 100) for n in (10**8, 2 * 10**8))
    for name in ("model_hours", "joining_hours", "driver_memory_gb", "table_tb", "small_files"):
        assert two[name] / one[name] == pytest.approx(2, rel=1e-3)
    assert 2 < two["plan_hours"] / one["plan_hours"] < 2.2  # sorting
