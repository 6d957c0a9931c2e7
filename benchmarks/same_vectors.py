"""Checksums of the engine's vectors, to show that a change of code leaves every bit as it was.

    python -m benchmarks.same_vectors > /tmp/before    # in a checkout of the code before
    python -m benchmarks.same_vectors | diff /tmp/before -
    python -m benchmarks.same_vectors --models MiniLM,BERT-base,distiluse,USE --texts 1000

The engine's trials (of sizes of micro-batches, and of kinds of linear layers) are switched off, since they
decide how sums are rounded: it runs in fp32, on one lane, with 4,096 tokens a micro-batch and torch's own
linear layers.
Two checkouts agree only with the same packages on the same machine. About a minute on two cores.
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import torch

from actors.checkpoints import resolve
from actors.engine.engine import Engine
from benchmarks.corpora import CORPORA, corpus, model_folder

TOKEN_BUDGET = 4096


def checksum(folder: str, texts: list[str]) -> str:
    """Checksum of the vectors of some texts: 32 hex digits of sha256."""
    encoder = resolve(folder).load(device="cpu", threads=1, precision="fp32")
    encoded = Engine(encoder, token_budget=TOKEN_BUDGET).encode(texts)
    if encoded.errors:
        raise RuntimeError(
            f"{len(encoded.errors)} texts failed: {next(iter(encoded.errors.values()))}"
        )
    return hashlib.sha256(encoded.vectors.tobytes()).hexdigest()[:32]


def main() -> int:
    """Print a checksum for each model and corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="MiniLM,distiluse", help="default: %(default)s")
    parser.add_argument("--texts", type=int, default=128, help="of each corpus")
    arguments = parser.parse_args()
    torch.backends.mkldnn.is_available = lambda: (
        False
    )  # so that oneDNN's linear layers are not tried
    with tempfile.TemporaryDirectory() as work:
        for model in arguments.models.split(","):
            folder = model_folder(model, Path(work))
            for kind in CORPORA:
                texts = corpus(kind, arguments.texts)
                print(f"{model:10} {kind:7} {len(texts):6,} {checksum(folder, texts)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
