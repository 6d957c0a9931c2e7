"""Reader of word vectors: word2vec's text and binary forms, GloVe's, gensim's .kv, fastText's .bin.

    vocabulary = open_vocabulary("GoogleNews-vectors.bin.gz")
    for block in vocabulary.blocks():
        block.words, block.vectors  # at most 16,384 of them at a time

word2vec and GloVe files are streamed, so that memory does not grow with the file. The readers of .kv and
of fastText's .bin are in modules of their own.
"""

import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from actors.files.fasttext import read_fasttext
from actors.files.keyed_vectors import VECTORS_ENDING, read_keyed_vectors
from actors.files.word_vectors import (
    BLOCK_WORDS,
    MOST_DIMENSIONS,
    Block,
    Vocabulary,
    open_bytes,
)
from actors.models import ModelError, ModelSpec

ENDINGS = (".bin", ".vec", ".txt", ".kv", ".w2v")
MOST_TOKENS = 2**20  # of a text; only the list of its words grows with it
LONGEST_LINE = 1 << 20
LONGEST_WORD = 10_000  # bytes; a file with a longer one holds no words
DAMAGE = (OSError, EOFError, zlib.error)
HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s*\n")


def is_vocabulary(path: str) -> bool:
    """True if the ending of a file's name is one of word vectors."""
    return path.lower().endswith((*ENDINGS, ".gz"))


def vocabulary_files(path: str) -> list[str]:
    """Paths of the files that hold word vectors: the given file, and the .npy arrays of a .kv file."""
    return [path, *(beside for beside in [path + VECTORS_ENDING] if Path(beside).is_file())]


def open_vocabulary(path: str, *, encoding: str = "utf-8") -> Vocabulary:
    """Open a file of word vectors; its words are read once `blocks` is called.

    A file FILE.json beside it, which `embatch words train` writes, says how it was trained.

    Raises:
        ModelError: The file is missing, or holds no word vectors. `blocks` raises it too, if the file ends
            too early or differs from its header.
    """
    if not Path(path).is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        with open_bytes(path) as file:
            head = file.read(4096)
            head += file.readline(LONGEST_LINE) if b"\n" not in head else b""
    except DAMAGE as error:
        raise ModelError(f"Cannot read {path}: {error}") from error
    if path.lower().removesuffix(".gz").endswith(".kv"):
        found = read_keyed_vectors(path)
    elif head[:1].isascii() and head[:1].isdigit() and (match := HEADER.match(head)):
        n, dim = int(match[1]), int(match[2])
        if not 1 <= dim <= MOST_DIMENSIONS:
            raise ModelError(
                f"{path}: its first line says {dim} dimensions, expected 1 to {MOST_DIMENSIONS:,}."
            )
        is_text = _is_text(head[match.end() :])
        read = _text_blocks if is_text else _binary_blocks
        found = Vocabulary(
            n, dim, lambda: _report_damage(path, read(path, n, dim, encoding)), {"kind": "word2vec"}
        )
    elif path.lower().removesuffix(".gz").endswith(".bin"):
        found = read_fasttext(path, encoding, head)
    elif _is_text(head):
        dim = len(head.split(b"\n", 1)[0].split()) - 1
        found = Vocabulary(
            None,
            dim,
            lambda: _report_damage(path, _text_blocks(path, None, dim, encoding)),
            {"kind": "GloVe"},
        )
    else:
        raise ModelError(
            f"{path} holds no word vectors. Expected word2vec's text or binary form, GloVe's, gensim's"
            f" .kv or fastText's .bin; it begins with {head[:20]!r}."
        )
    training_file = Path(f"{path}.json")
    if training_file.is_file():
        try:
            found.about.update(dict(json.loads(training_file.read_text(encoding="utf-8"))))
        except (OSError, TypeError, ValueError) as error:
            raise ModelError(
                f"{training_file} should say how {path} was trained, as JSON, and does not: {error}. Move it away."
            ) from error
    return found


def words_spec(path: str) -> ModelSpec:
    """Description of a file of word vectors, as a model of texts.

    Raises:
        ModelError: As `open_vocabulary`.
    """
    vocabulary = open_vocabulary(path)
    return ModelSpec(
        name=Path(path).name,
        family="words",
        dim=vocabulary.dim,
        max_tokens=MOST_TOKENS,
        pooling="mean",
        repository="",
        licence="see where it comes from",
        source=str(vocabulary.about.get("kind", "word vectors")),
    )


def _report_damage(path: str, blocks: Iterator[Block]) -> Iterator[Block]:
    """Pass blocks on, and raise a ModelError if the file turns out to be damaged."""
    try:
        yield from blocks
    except DAMAGE as error:
        raise ModelError(
            f"{path} is damaged or cut off ({type(error).__name__}: {error}). Copy or download it again."
        ) from error


def _is_text(head: bytes) -> bool:
    """True if some bytes begin with a line of a word and numbers."""
    line, end, _ = head.partition(b"\n")
    numbers = line.rstrip().split(b" ")[1:]
    if not end:  # a line longer than what was read: its last number may be cut
        numbers = numbers[:-1]
    try:
        for number in numbers:
            float(number)
    except ValueError:
        return False
    return len(numbers) > 0


def _decode_word(word: bytes, encoding: str) -> str | None:
    """A word as text; None if its bytes are no text in the encoding."""
    try:
        return word.decode(encoding)
    except UnicodeDecodeError:
        return None


def _binary_blocks(path: str, n: int, dim: int, encoding: str) -> Iterator[Block]:
    """Blocks of a file in word2vec's binary form, whose header gives n words."""
    size = dim * 4
    with open_bytes(path) as raw:
        file = io.BufferedReader(cast(Any, raw), 1 << 22)
        file.readline()
        done = 0
        while done < n:
            wanted = min(BLOCK_WORDS, n - done)
            words: list[str | None] = []
            vectors = np.empty((wanted, dim), "<f4")
            for row in range(wanted):
                word, values = _word(file), b""
                if word is not None:
                    values = file.read(size)
                if word is None or len(values) < size:
                    raise ModelError(
                        f"{path} ends after {done + row:,} of the {n:,} words that its first line"
                        " names: a part is missing. Copy or download it again."
                    )
                if len(word) > LONGEST_WORD:
                    raise ModelError(
                        f"{path}: word {done + row + 1:,} is over {LONGEST_WORD:,} bytes long, so the"
                        f" file does not hold vectors of {dim} numbers as its first line says."
                    )
                words.append(_decode_word(word, encoding))
                vectors[row] = np.frombuffer(values, "<f4")
            yield Block(words, vectors.astype(np.float32, copy=False))
            done += wanted
        if file.read(64).strip():
            raise ModelError(
                f"{path} goes on after the {n:,} words that its first line names. Mend that line, or"
                " get the file again."
            )


def _word(file: IO[bytes]) -> bytes | None:
    """Bytes of the next word, up to a blank; None if the file ends first."""
    letters = bytearray()
    while len(letters) <= LONGEST_WORD:
        letter = file.read(1)
        if not letter:
            return None
        if letter == b" ":
            break
        letters += letter
    return bytes(letters).lstrip(b"\n")


def _text_blocks(path: str, n: int | None, dim: int, encoding: str) -> Iterator[Block]:
    """Blocks of a file in text form; n is the number of words in its header, None for GloVe."""
    words: list[str | None] = []
    rows: list[np.ndarray] = []
    done = 0
    with open_bytes(path) as file:
        if n is not None:
            file.readline()
        for line in filter(bytes.strip, file):
            # Of GloVe's words some hold blanks; word2vec's do not.
            word, *fields = line.rstrip().rsplit(b" ", dim if n is None else -1)
            try:
                row = np.array(fields).astype(np.float32)
            except ValueError:
                row = np.zeros(0, np.float32)
            if len(row) != dim:
                numbers = b" ".join(fields)
                raise ModelError(
                    f"{path}, word {done + len(rows) + 1:,}: expected {dim} numbers, got"
                    f" {numbers[:40]!r}{' …' if len(numbers) > 40 else ''}. The file is damaged or cut off."
                )
            words.append(_decode_word(word, encoding))
            rows.append(row)
            if len(rows) == BLOCK_WORDS:
                yield Block(words, np.stack(rows))
                done += len(rows)
                words, rows = [], []
    if rows:
        yield Block(words, np.stack(rows))
        done += len(rows)
    if n is not None and done != n:
        raise ModelError(
            f"{path} holds {done:,} words, and its first line names {n:,}. Mend that line, or get the"
            " file again."
        )
