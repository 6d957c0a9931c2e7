"""Analogies of questions-words over a table of words, beside gensim's evaluation.

    python -m benchmarks.words
    python -m benchmarks.words --rounds 1 --json

A subset of the GoogleNews vectors, 13,013 words of 300. Reading the vectors is not timed, in either;
both must give the same accuracy in each section. Also how long a table takes, and at which memory.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.corpora import DATA
from benchmarks.record import append


def main() -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    vectors = DATA / "word2vec_news" / "vectors.bin"
    if not vectors.is_file():
        print(f"The vectors are missing: expected them as {vectors}.", file=sys.stderr)
        return 1
    from gensim.models import KeyedVectors

    from jobs.word_vectors.benchmarks import analogies
    from jobs.word_vectors.table import WordTable
    from jobs.words import WordsConfig
    from jobs.words import run as make_table

    questions = str(files("gensim") / "test" / "test_data" / "questions-words.txt")
    seconds: dict[str, list[float]] = {"gensim": [], "embatch": []}
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "words")
        started = time.perf_counter()
        make_table(WordsConfig(str(vectors), place, json=True))
        table_seconds = time.perf_counter() - started
        memory = psutil.Process().memory_info().rss
        theirs = KeyedVectors.load_word2vec_format(str(vectors), binary=True)
        mine = WordTable(place, {})
        told: dict[str, Any] = {}
        same = True
        for turn in range(arguments.rounds):
            for name in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
                started = time.perf_counter()
                if name == "gensim":
                    expected = theirs.evaluate_word_analogies(questions)
                else:
                    told = analogies(mine, questions, quiet=True)
                seconds[name].append(time.perf_counter() - started)
            for section in expected[1][:-1]:
                n = len(section["correct"]) + len(section["incorrect"])
                found = told.get(f"analogy_accuracy:{section['section']}", 0.0)
                same &= abs(found - len(section["correct"]) / max(n, 1)) < 1e-9
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    result = {
        "questions": told["analogies"],
        "accuracy": round(told["analogy_accuracy"], 4),
        "same": same,
        "seconds": {name: round(median(values), 3) for name, values in seconds.items()},
        "ratio": round(median(ratios), 3),
        "table_seconds": round(table_seconds, 3),
        "rss_mb_after_table": round(memory / 1e6),
    }
    append("words", {"options": vars(arguments), **result})
    print(json.dumps(result, indent=None if arguments.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
