"""Time for a browser to draw a report's page of many points, and to answer a search.

    python -m benchmarks.page
    python -m benchmarks.page --points 200000 --json

The table holds random texts of a few words; the map is made by PCA. Headless Chromium, the one at
/usr/bin/chromium or that of `playwright install chromium`, draws without a GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import append
from benchmarks.refreshes import random_text, write_model
from jobs.embed import run as embed
from jobs.project import ProjectConfig
from jobs.project import run as project
from jobs.report import ReportConfig
from jobs.report import run as report
from jobs.sync.config import EmbedConfig

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 120_000


def write_page(folder: Path, n_points: int) -> Path:
    """Write a page with a map of n_points random texts."""
    chance = np.random.default_rng(0)
    write_model(folder / "words.txt", chance)
    rows = (
        {"id": f"d{i:07}", "text": random_text(chance), "label": "abc"[i % 3]}
        for i in range(n_points)
    )
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    table, plan = str(folder / "table"), str(folder / "map")
    source, model = str(folder / "rows.jsonl"), str(folder / "words.txt")
    embed(EmbedConfig(source, table, model, text_column="text", id_column="id"))
    project(ProjectConfig(table, plan, method="pca"))
    report(ReportConfig((table, plan), out=str(folder / "page.html")))
    return folder / "page.html"


def measure(page_file: Path) -> dict[str, float]:
    """Open a page in a browser and search in it.

    Returns:
        `load_seconds` until all points are drawn, `search_seconds` until rows are found, and `points`, the
        number of points drawn.
    """
    from playwright.sync_api import sync_playwright

    path: dict[str, Any] = {"executable_path": CHROMIUM} if os.path.exists(CHROMIUM) else {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(args=["--no-sandbox"], **path)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        started = time.perf_counter()
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready=yes]", timeout=PATIENCE_MS)
        loaded = time.perf_counter()
        count = "document.getElementById('map').data.reduce((n, t) => n + t.x.length, 0)"
        n_points = page.evaluate(count)
        asked = time.perf_counter()
        page.fill("#search", "word7 ")
        page.wait_for_selector("#found li", timeout=PATIENCE_MS)
        found = time.perf_counter()
        browser.close()
    return {
        "load_seconds": round(loaded - started, 3),
        "search_seconds": round(found - asked, 3),
        "points": n_points,
    }


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(Path(folder), arguments.points)
        result = {"size_bytes": page.stat().st_size, **measure(page)}
    append("page", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return 0 if result["points"] == arguments.points else 1


if __name__ == "__main__":
    sys.exit(main())
