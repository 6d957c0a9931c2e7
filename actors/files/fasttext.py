"""Reader of fastText's .bin: vectors of words, and of parts of words for words it was not trained on."""

import contextlib
import functools
import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from actors.files.word_vectors import BLOCK_WORDS, MOST_DIMENSIONS, Block, Vocabulary, open_bytes
from actors.models import ModelError

MAGIC = struct.pack("<i", 793_712_314)  # the first bytes of its files since version 11
TRAININGS = {1: "cbow", 2: "skip-gram", 3: "supervised"}  # numbers of fastText's model types


def read_fasttext(path: str, encoding: str, head: bytes) -> Vocabulary:
    """Read the header of a fastText .bin; gensim reads the words once `blocks` or `subwords` is called.

    The header has the layout of fastText's `Args::save`.

    Args:
        path: File, perhaps with .gz.
        encoding: Encoding of its words.
        head: Its first 4 KB, unpacked; less if the file is shorter.

    Raises:
        ModelError: The file is no fastText .bin, or a classifier.
    """
    start = 8 if head[:4] == MAGIC else 0  # behind the version, which old files do not tell
    numbers = struct.unpack_from("<12i", head, start) if len(head) >= start + 68 else (0,) * 12
    (n_words,) = struct.unpack_from("<4xi", head, start + 56) if numbers[0] else (0,)
    dim, window, epochs = numbers[:3]
    training, buckets, min_n, max_n = numbers[7:11]
    if training not in TRAININGS or not 1 <= dim <= MOST_DIMENSIONS or n_words < 0:
        raise ModelError(
            f"{path} is neither word2vec's nor fastText's .bin: it begins with {head[:16]!r}."
        )
    if TRAININGS[training] == "supervised":
        raise ModelError(
            f"{path} is a classifier of fastText (supervised), whose words gensim does not read."
            " Save its vectors as text: `fasttext print-word-vectors`."
        )
    about = {
        "kind": f"fastText, {TRAININGS[training]}",
        "window": window,
        "epochs": epochs,
        "min_n": min_n,
        "max_n": max_n,
        "buckets": buckets,
    }

    @functools.cache
    def loaded() -> Any:  # noqa: ANN401
        try:
            from gensim.models.fasttext import load_facebook_vectors
        except ImportError as error:
            raise ModelError("fastText's .bin is read by gensim: pip install gensim") from error
        try:
            with _unpacked(path) as plain:
                _check_words(plain, start)
                return load_facebook_vectors(plain, encoding=encoding)
        except (
            Exception
        ) as error:  # gensim's, struct's, zlib's: a file that is cut or something else
            raise ModelError(
                f"{path} cannot be read as fastText's .bin ({type(error).__name__}: {error}). The file"
                " is damaged or cut off; --encoding says how its words are written."
            ) from error

    def blocks() -> Iterator[Block]:
        kv = loaded()
        for start in range(0, len(kv.index_to_key), BLOCK_WORDS):
            words = list(kv.index_to_key[start : start + BLOCK_WORDS])
            counts = np.array([kv.get_vecattr(word, "count") for word in words], np.int64)
            yield Block(words, kv.vectors[start : start + len(words)], counts)

    def subwords(word: str) -> np.ndarray | None:
        try:
            vector: np.ndarray = loaded().get_vector(word)
        except KeyError:
            return None
        return vector if vector.any() else None  # zeros where no part is as short as the word

    return Vocabulary(n_words, dim, blocks, about, subwords if buckets and max_n else None)


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[str]:
    """Path of an unpacked copy of a .gz, during the block, since gensim reads no .gz; else the path itself."""
    if not path.lower().endswith(".gz"):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".bin") as plain, open_bytes(path) as packed:
        shutil.copyfileobj(packed, plain)
        plain.flush()
        yield plain.name


def _check_words(path: str, start: int) -> None:
    """Check that the list of words is complete; gensim would wait for ever for the end of a cut list.

    Args:
        path: Unpacked file.
        start: Offset in bytes of the header, behind the version number.

    Raises:
        EOFError: The file ends within the list.
    """
    is_new = start > 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (n_entries,) = struct.unpack_from("<i", data, start + 56)
        at = start + 56 + 20 + (8 if is_new else 0)
        for entry in range(n_entries):
            end = data.find(b"\0", at)
            at = end + 10  # behind the word: its count and its kind
            if end < 0 or at > len(data):
                raise EOFError(f"it ends after {entry:,} of {n_entries:,} words")
