"""Safe reader of gensim's .kv files, which are pickles and could run any code.

Only lists, numbers and arrays are read, and of the functions that a file names only those are called that
make NumPy arrays.
"""

import collections
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

from actors.files.word_vectors import BLOCK_WORDS, Block, Vocabulary, open_bytes
from actors.models import ModelError

VECTORS_ENDING = ".vectors.npy"  # gensim saves large arrays in a file beside the .kv


def _empty_array(*_: object) -> np.ndarray:
    """An empty array, from which NumPy builds each array of a pickle; arguments of the file are ignored."""
    return np.ndarray((0,), "b")


# Names that a .kv file may use besides its own class: the parts of arrays and dictionaries. `ndarray` and
# `scalar` are never called, since they would take any bytes for pointers to objects.
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
    """Attributes of a gensim object in a pickle, without the object's class."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of KeyedVectors that refuses every name outside PLAIN."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """The object for a name in PLAIN or for KeyedVectors; any other name is refused."""
        if (module, name) == ("gensim.models.keyedvectors", "KeyedVectors"):
            return _Plain
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_keyed_vectors(path: str) -> Vocabulary:
    """Read a .kv file of gensim, and the .npy file of its arrays if gensim saved them apart.

    Raises:
        ModelError: The file is damaged, or holds anything but KeyedVectors of gensim 4.
    """
    try:
        with open_bytes(path) as file:
            keyed = _PlainUnpickler(file).load()
        vectors = keyed.__dict__.get("vectors")
        if vectors is None:  # large arrays lie beside the pickle
            vectors = np.load(path + VECTORS_ENDING, mmap_mode="r", allow_pickle=False)
        words, counts = keyed.index_to_key, keyed.expandos.get("count")
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
