"""gensim's .kv files, without trusting them.

They are pickles. Only lists, numbers and arrays are read of them, and nothing that they name is called
but NumPy's makers of arrays.
"""

import collections
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

from actors.files.word_vectors import BLOCK_WORDS, Block, Vocabulary, open_bytes
from actors.models import ModelError

VECTORS_ENDING = ".vectors.npy"  # of the file beside a .kv, where gensim saves large arrays


def _empty_array(*_: object) -> np.ndarray:
    """What NumPy begins with when it makes an array of a pickle, whatever the file asks for."""
    return np.ndarray((0,), "b")


# What a .kv file may name besides its own class: what arrays and dictionaries are made of. Not
# `ndarray` nor `scalar`, which would take any bytes for pointers to objects.
PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "int"): int,
    ("numpy", "ndarray"): object,  # an argument of what is not called
    ("numpy", "dtype"): np.dtype,
}
for package in ("numpy.core", "numpy._core"):
    PLAIN[f"{package}.multiarray", "_reconstruct"] = _empty_array
    PLAIN[f"{package}.numeric", "_frombuffer"] = _frombuffer


class _Plain:
    """What stands for an object of gensim's in a pickle: its attributes, without its class."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _PlainUnpickler(pickle.Unpickler):
    """Reads KeyedVectors and calls nothing that the file names but NumPy's makers of arrays."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Refuse all names but those of arrays and of the class itself."""
        if (module, name) == ("gensim.models.keyedvectors", "KeyedVectors"):
            return _Plain
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_keyed_vectors(path: str) -> Vocabulary:
    """What a file holds; arrays may lie beside it, as gensim saves large ones."""
    try:
        with open_bytes(path) as file:
            held = _PlainUnpickler(file).load()
        vectors = held.__dict__.get("vectors")
        if vectors is None:  # large arrays lie beside the pickle
            vectors = np.load(path + VECTORS_ENDING, mmap_mode="r", allow_pickle=False)
        words, counts = held.index_to_key, held.expandos.get("count")
        if vectors.ndim != 2 or len(vectors) != len(words):
            raise ValueError(f"{len(words)} words and vectors of shape {vectors.shape}")
        words = [str(word) for word in words]
    except Exception as error:  # whatever a broken or foreign pickle leads to
        raise ModelError(
            f"{path} is no .kv file of gensim 4 that can be read safely ({type(error).__name__}:"
            f" {error}). Save it as word2vec: `KeyedVectors.load(…).save_word2vec_format(…)`."
        ) from error

    def blocks() -> Iterator[Block]:
        for start in range(0, len(words), BLOCK_WORDS):
            some = slice(start, start + BLOCK_WORDS)
            few = None if counts is None else np.asarray(counts[some], np.int64)
            yield Block(list(words[some]), np.asarray(vectors[some], np.float32), few)

    return Vocabulary(len(words), vectors.shape[1], blocks, {"kind": "KeyedVectors"})
