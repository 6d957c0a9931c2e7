"""Time and trustworthiness of a map of real news, by embatch and by umap-learn.

    python -m benchmarks.maps
    python -m benchmarks.maps --rounds 1 --json

The vectors are 10kGNAD's, by all-MiniLM-L6-v2. Both maps are UMAP with the same settings and seed, which
changes each round; embatch gives UMAP exact neighbours. umap-learn's functions are compiled beforehand.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np

from benchmarks.corpora import DATA, SEED, articles
from benchmarks.record import append

MODEL = "all-MiniLM-L6-v2"


def news() -> np.ndarray:
    """Vectors of the articles, (n, 384) float32."""
    from actors.checkpoints import resolve
    from actors.engine.engine import Engine

    return Engine(resolve(MODEL).load()).encode(articles()).vectors


def fit_umap_learn(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Map by umap-learn with its defaults and a seed: points (n, 2) float32 of vectors (n, dim) float32."""
    import umap

    points: np.ndarray = umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(
        vectors
    )
    return points


def main() -> int:
    """Measure, print the result and append it to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not (DATA / "10kgnad").is_dir():
        print(f"The articles are missing: expected them in {DATA}/10kgnad.", file=sys.stderr)
        return 1
    from jobs.analysis.projections import Quality, fit_umap, judge

    vectors = news()
    engines: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "umap-learn": fit_umap_learn,
        "embatch": lambda rows, seed: fit_umap(rows, 2, seed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    quality: dict[str, list[Quality]] = {name: [] for name in engines}
    for fit in engines.values():
        fit(vectors[:200], 0)
    for turn in range(arguments.rounds):
        for name in list(engines)[:: 1 if turn % 2 == 0 else -1]:
            started = time.perf_counter()
            points = engines[name](vectors, turn)
            seconds[name].append(time.perf_counter() - started)
            judged = judge(vectors, points, SEED)
            assert judged is not None  # of more than three rows
            quality[name].append(judged)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    result = {
        "rows": len(vectors),
        "seconds": {name: round(median(values), 3) for name, values in seconds.items()},
        "ratio": round(median(ratios), 3),
        "trustworthiness": {
            name: round(mean(one.trustworthiness for one in found), 4)
            for name, found in quality.items()
        },
        "kept_neighbours": {
            name: round(mean(one.kept for one in found), 4) for name, found in quality.items()
        },
    }
    append("maps", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
