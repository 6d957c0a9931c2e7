"""A corpus.toml with its source and a model of a few words, for tests of refreshes."""

import json

import numpy as np

from jobs.refresh import RefreshConfig
from jobs.refresh import run as run_refresh
from schemas.delta.store import Table
from tests.support.word_files import written

WORDS = "sea ship storm harbour parliament budget vote law goal match team coach".split()
SECTIONS = """
[embed.articles]
source = "articles.jsonl"
model = "words.txt"
text_column = "text"
id_column = "id"
prune = true
"""


def model_file(path, seed=0, dim=8):
    """Random vectors of WORDS in word2vec's text form."""
    chance = np.random.default_rng(seed)
    written(path, {word: chance.standard_normal(dim).round(3) for word in WORDS})


def row(number, *, words=None):
    """A text of three words; which ones depends on the number."""
    chosen = words or [WORDS[number % 12], WORDS[number // 12 % 12], WORDS[number // 144 % 12]]
    return {"id": f"d{number:05}", "text": " ".join(chosen), "label": chosen[0]}


def write_rows(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "articles.jsonl").write_text(text)


def declare(folder, sections="", settings=""):
    """A corpus of 40 rows; returns the path of its corpus.toml."""
    model_file(folder / "words.txt")
    write_rows(folder, [row(i) for i in range(40)])
    path = folder / "corpus.toml"
    path.write_text(f"{settings}\n{SECTIONS}\n{sections}")
    return path


def refresh(path, **options):
    return run_refresh(RefreshConfig(str(path), **options))


def states(summary):
    return {step.title: step.state for step in summary.steps}


def table(folder, name):
    return Table.open(str(folder / "tables" / name))
