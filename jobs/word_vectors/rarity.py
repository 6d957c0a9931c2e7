"""How rare each word of a corpus is: in how many of its texts it stands.

    embatch words weights SOURCE rarity.json
    embatch embed SOURCE TABLE --model vectors.bin --word-weights rarity.json

With the file, `embed` weighs words by tf-idf. It is counted once and kept, so that the vectors of old
texts stay the same when new ones come; count again, and all rows are due.
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
    """Which texts, and where the counts go.

    Attributes:
        out: file of JSON
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.json")] = ""

    def __post_init__(self) -> None:
        if not self.out.endswith(".json"):
            raise UsageError(f"FILE is {self.out or 'missing'}, expected one that ends in .json.")


def run(config: WeightsConfig) -> dict[str, Any]:
    """Count, and write the file."""
    counts: Counter[str] = Counter()
    n = 0
    for example in config.examples():
        counts.update({word.lower() for word in WORD.findall(example.text)})
        n += 1
    held = {"documents": n, "words": dict(sorted(counts.items()))}
    Path(config.out).write_text(json.dumps(held, ensure_ascii=False), encoding="utf-8")
    return {"file": config.out, "documents": n, "words": len(counts)}


def _text(_: WeightsConfig, told: dict[str, Any]) -> str:
    return f"{told['file']}: {told['words']:,} words of {told['documents']:,} texts."


def command(arguments: list[str]) -> int:
    """The command line, `weights` first; returns the exit code."""
    return run_command(WeightsConfig, "words weights", __doc__, arguments[1:], run, _text)
