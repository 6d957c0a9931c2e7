"""Growth of time and disk space over many refreshes of a corpus that changes each night.

    python -m benchmarks.refreshes
    python -m benchmarks.refreshes --refreshes 40 --rows 2000 --json

The corpus is a table with its neighbours, a map and a page. Its model is a file of word vectors, so that
planning, commits and upkeep are measured and hardly any model. One row in a hundred is new, changed or gone
each night. `growth` is the median time of the last tenth of the refreshes divided by that of the first.
`settled_bytes` is the size of the tables' folder after the first tenth, `bytes` at the end. The ids and
texts of the table are compared with the source's.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.record import append
from jobs.refresh import RefreshConfig, run
from schemas.delta.store import Table

N_WORDS, DIM, SEED = 2000, 32, 0
WORDS_A_TEXT = 12
SHARE = 0.01
CORPUS = """
history = "history.html"
keep_days = 0
[embed.articles]
source = "articles.jsonl"
model = "words.txt"
text_column = "text"
id_column = "id"
prune = true
[neighbours.near]
base = "articles"
[project.map]
table = "articles"
method = "pca"
[report.page]
tables = ["articles", "near", "map"]
"""


def write_model(path: Path, chance: np.random.Generator) -> None:
    """Write random vectors of made-up words in word2vec's text form."""
    lines = [f"{N_WORDS} {DIM}"]
    for number in range(N_WORDS):
        values = " ".join(f"{value:.3f}" for value in chance.standard_normal(DIM))
        lines.append(f"word{number} {values}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def random_text(chance: np.random.Generator) -> str:
    """A text of random words."""
    return " ".join(f"word{number}" for number in chance.integers(0, N_WORDS, WORDS_A_TEXT))


def change(rows: dict[str, str], night: int, chance: np.random.Generator) -> None:
    """Add, change and delete rows, in place, as one night does."""
    n = max(1, int(SHARE * len(rows)) // 3)
    names = sorted(rows)
    for name in chance.choice(names, 2 * n, replace=False)[:n]:
        del rows[name]
    for name in chance.choice(sorted(rows), n, replace=False):
        rows[name] = random_text(chance)
    rows.update({f"n{night:04}-{number}": random_text(chance) for number in range(n)})


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, n_refreshes: int, n_rows: int) -> dict[str, float | int | bool]:
    """Refresh a corpus again and again.

    Args:
        folder: An empty folder.
        n_refreshes: Number of refreshes.
        n_rows: Number of rows of the corpus.

    Returns:
        `growth`, `seconds` of the last tenth, `bytes`, `settled_bytes`, `log_bytes`, and `true`: True if
        the table holds exactly the source's rows, and the history has rows of each refresh.
    """
    chance = np.random.default_rng(SEED)
    write_model(folder / "words.txt", chance)
    path = folder / "corpus.toml"
    path.write_text(CORPUS, encoding="utf-8")
    rows = {f"d{number:06}": random_text(chance) for number in range(n_rows)}
    seconds, sizes = [], []
    for night in range(n_refreshes):
        lines = (json.dumps({"id": name, "text": row}) + "\n" for name, row in rows.items())
        (folder / "articles.jsonl").write_text("".join(lines), encoding="utf-8")
        started = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            summary = run(RefreshConfig(str(path), json=True))
        seconds.append(time.perf_counter() - started)
        sizes.append(size_of(folder / "tables"))
        if summary.failed:
            raise RuntimeError(summary.text())
        held = dict(rows)
        change(rows, night, chance)
    table, history = (
        Table.open(str(folder / "tables" / name)) for name in ("articles", "refreshes")
    )
    assert table is not None  # the refreshes made both
    assert history is not None
    found = table.read(["id", "text"]).to_pylist()
    is_true = {row["id"]: row["text"] for row in found} == held and len(found) == len(held)
    is_true &= len(set(history.read(["refresh"])["refresh"].to_pylist())) == n_refreshes
    tenth = max(1, n_refreshes // 10)
    first = median(seconds[1 : tenth + 1])  # the very first embeds all
    return {
        "growth": round(median(seconds[-tenth:]) / first, 3),
        "seconds": round(median(seconds[-tenth:]), 3),
        "bytes": sizes[-1],
        "settled_bytes": sizes[min(tenth, n_refreshes - 1)],
        "log_bytes": sum(size_of(log) for log in (folder / "tables").glob("*/_delta_log")),
        "true": is_true,
    }


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--refreshes", type=int, default=200)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.refreshes, arguments.rows)
    append("refreshes", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return 0 if result["true"] else 1


if __name__ == "__main__":
    sys.exit(main())
