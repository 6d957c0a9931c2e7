"""An encoder of ten lines for tests in which a model is only a means: a vector is a hash of a text."""

import time
from dataclasses import dataclass, field

import numpy as np
import xxhash

from actors.engine.engine import Setup, Tokens
from actors.images.pixels import Preprocess


class HashEncoder:
    setup = Setup()

    def __init__(self, dim, poison="", seconds_a_row=0.0):
        self.dim, self.max_tokens, self.poison, self.seconds_a_row = (
            dim,
            1 << 20,
            poison,
            seconds_a_row,
        )

    def tokenize(self, texts):
        if self.poison and any(self.poison in text for text in texts):
            raise RuntimeError(f"cannot embed {self.poison!r}")
        ids = [list(text.encode() if isinstance(text, str) else text.tobytes()) for text in texts]
        return Tokens(ids, np.zeros(len(ids), bool))

    def forward(self, ids):
        time.sleep(self.seconds_a_row * len(ids))
        seeds = [xxhash.xxh3_64_intdigest(bytes(row)) for row in ids]
        vectors = np.stack(
            [np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds]
        )
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def spans(self, text):
        ends = [i for i, character in enumerate(text) if character == " "] + [len(text)]
        starts = [0] + [end + 1 for end in ends[:-1]]
        return np.array(list(zip(starts, ends, strict=True)), np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class HashModel:
    dim: int = 8
    name: str = "hash"
    space: str = "hash"
    recipe: str = "hash-1"
    unit: bool = True
    poison: str = ""
    seconds_a_row: float = 0.0
    size_bytes: int = 0
    preprocess: Preprocess | None = None
    templates: tuple[str, ...] = ()
    logit_scale: float | None = None
    ingredients: dict = field(default_factory=dict, hash=False)

    def load(self, device="cpu", threads=None, precision="fp32"):
        return HashEncoder(self.dim, self.poison, self.seconds_a_row)


def vector_of(text, dim=8):
    return HashEncoder(dim).forward([list(text.encode())])[0]
