"""Count in how many texts of a corpus each word occurs, so that rare words can count more.

    embatch words weights SOURCE rarity.json
    embatch embed SOURCE TABLE --model vectors.bin --word-weights rarity.json

With the file, `embed` weighs words by tf-idf. Count once and keep the file, so that the vectors of old texts
stay the same when new texts come; after a new count all rows are due.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from actors.encoders.words import WORD
from jobs.runtime.command import run_command
from jobs.training.examples import CorpusOptions
from schemas.errors import UsageError


@dataclass(frozen=True)
class WeightsConfig(CorpusOptions):
    """The texts, and the file of the counts.

    Attributes:
        out: file of JSON
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.json")] = ""

    def __post_init__(self) -> None:
        if not self.out.endswith(".json"):
            raise UsageError(f"FILE is {self.out or 'missing'}, expected one that ends in .json.")


def run(config: WeightsConfig) -> dict[str, Any]:
    """Count the texts of each word, and write the file."""
    counts: Counter[str] = Counter()
    n = 0
    for example in config.examples():
        counts.update({word.lower() for word in WORD.findall(example.text)})
        n += 1
    content = {"documents": n, "words": dict(sorted(counts.items()))}
    Path(config.out).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return {"file": config.out, "documents": n, "words": len(counts)}


def _text(_: WeightsConfig, summary: dict[str, Any]) -> str:
    return f"{summary['file']}: {summary['words']:,} words of {summary['documents']:,} texts."


def command(arguments: list[str]) -> int:
    """Run the command line, whose first argument is `weights`; returns the exit code."""
    return run_command(WeightsConfig, "words weights", __doc__, arguments[1:], run, _text)
