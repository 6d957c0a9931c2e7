"""Words for tests: gensim's own files, small ones that are written here, and tables of both."""

import gzip
import shutil
from pathlib import Path

import gensim
import numpy as np

from jobs.cli import main
from schemas.delta.store import Table
from schemas.vectors import vectors_of

GENSIM = Path(gensim.__file__).parent / "test" / "test_data"
ROYAL = {
    "king": [1.0, 1.0, 0.1],
    "queen": [1.0, -1.0, 0.1],
    "man": [0.1, 1.0, 0.0],
    "woman": [0.1, -1.0, 0.0],
    "Prince": [0.9, 0.8, 0.5],
    "prince": [0.0, 0.0, 9.0],
}


def copied(name, path):
    """A file of gensim's under another name."""
    shutil.copy(GENSIM / name, path)
    return path


def zipped(path, to):
    """A gzipped copy."""
    to.write_bytes(gzip.compress(Path(path).read_bytes()))
    return to


def written(path, vectors):
    """word2vec's text form of words and their vectors."""
    return raw(path, [(word.encode(), vector) for word, vector in vectors.items()])


def raw(path, pairs):
    """The same, of words as bytes, which may stand there twice."""
    lines = [word + b" " + " ".join(map(str, vector)).encode() for word, vector in pairs]
    path.write_bytes(b"\n".join([f"{len(pairs)} {len(pairs[0][1])}".encode(), *lines, b""]))
    return path


def read(vocabulary):
    """All words and vectors of a vocabulary."""
    blocks = list(vocabulary.blocks())
    words = [word for block in blocks for word in block.words]
    return words, np.concatenate([block.vectors for block in blocks])


def table_at(path, model):
    """A table of a file's words."""
    assert main(["words", str(model), str(path), "--json"]) == 0
    return str(path)


def words_of(table):
    """The rows of a table of words, in the order of the model's file."""
    return Table.open(str(table)).read().sort_by("rank")


def assert_holds(table, kv, frequencies=None):
    """A table has the words of gensim's `KeyedVectors`, and their vectors."""
    rows = words_of(table)
    assert rows["id"].to_pylist() == kv.index_to_key
    assert rows["rank"].to_pylist() == list(range(len(kv)))
    assert rows["frequency"].to_pylist() == (frequencies or [None] * len(kv))
    unit = vectors_of(rows["embedding"])
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    vectors = kv.vectors[: len(kv)]
    np.testing.assert_allclose(rows["norm"], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    np.testing.assert_allclose(unit * rows["norm"].to_numpy()[:, None], vectors, atol=1e-5)


def says(result, code, words):
    """The `embatch` of a test ended with this code, and these words stand in the message."""
    assert isinstance(result, tuple), result
    assert (result[0], words in result[1]) == (code, True), result
