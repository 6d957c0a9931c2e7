"""Files of word vectors for tests: gensim's own, and small ones that are written here."""

import gzip
import shutil
from pathlib import Path

import gensim
import numpy as np

GENSIM = Path(gensim.__file__).parent / "test" / "test_data"


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
