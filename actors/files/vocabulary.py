"""Files of word vectors: word2vec's text and binary forms, GloVe's, gensim's .kv, fastText's .bin.

    vocabulary = open_vocabulary("GoogleNews-vectors.bin.gz")
    for block in vocabulary.blocks():
        block.words, block.vectors  # at most 16,384 of them at a time

word2vec and GloVe are streamed, so that memory does not depend on the file; the others have files of
their own here.
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
MOST_TOKENS = 2**20  # of a text; nothing grows with it but the list of its words
LONGEST_LINE = 1 << 20
LONGEST_WORD = 10_000  # bytes; more is no file of words
DAMAGE = (OSError, EOFError, zlib.error)
HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s*\n")


def is_vocabulary(path: str) -> bool:
    """Whether a file's name is that of word vectors."""
    return path.lower().endswith((*ENDINGS, ".gz"))


def files_of(path: str) -> list[str]:
    """The files that decide what the vectors are."""
    return [path, *(beside for beside in [path + VECTORS_ENDING] if Path(beside).is_file())]


def open_vocabulary(path: str, *, encoding: str = "utf-8") -> Vocabulary:
    """Find out what a file holds; words come when `blocks` is asked for them.

    A file FILE.json beside it, as `embatch words train` writes it, says how it was trained.

    Raises:
        ModelError: It is missing, or holds no word vectors. `blocks` raises it too, where the file
            ends too early or does not hold what its header says.
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
            n, dim, lambda: _whole(path, read(path, n, dim, encoding)), {"kind": "word2vec"}
        )
    elif path.lower().removesuffix(".gz").endswith(".bin"):
        found = read_fasttext(path, encoding, head)
    elif _is_text(head):
        dim = len(head.split(b"\n", 1)[0].split()) - 1
        found = Vocabulary(
            None,
            dim,
            lambda: _whole(path, _text_blocks(path, None, dim, encoding)),
            {"kind": "GloVe"},
        )
    else:
        raise ModelError(
            f"{path} holds no word vectors. Expected word2vec's text or binary form, GloVe's, gensim's"
            f" .kv or fastText's .bin; it begins with {head[:20]!r}."
        )
    told = Path(f"{path}.json")
    if told.is_file():
        try:
            found.about.update(dict(json.loads(told.read_text(encoding="utf-8"))))
        except (OSError, TypeError, ValueError) as error:
            raise ModelError(
                f"{told} should say how {path} was trained, as JSON, and does not: {error}. Move it away."
            ) from error
    return found


def words_spec(path: str) -> ModelSpec:
    """What a file of words is as a model of texts.

    Raises:
        ModelError: See `open_vocabulary`.
    """
    vocabulary = open_vocabulary(path)
    return ModelSpec(
        name=Path(path).name,
        family="words",
        dim=vocabulary.dim,
        max_tokens=MOST_TOKENS,
        pooling="mean",
        weights="",
        licence="see where it comes from",
        source=str(vocabulary.about.get("kind", "word vectors")),
    )


def _whole(path: str, blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks; damage to a packed file is told as all other."""
    try:
        yield from blocks
    except DAMAGE as error:
        raise ModelError(
            f"{path} is damaged or cut off ({type(error).__name__}: {error}). Copy or download it again."
        ) from error


def _is_text(head: bytes) -> bool:
    """Whether what follows a header begins with a word and numbers."""
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


def _decoded(word: bytes, encoding: str) -> str | None:
    try:
        return word.decode(encoding)
    except UnicodeDecodeError:
        return None


def _binary_blocks(path: str, n: int, dim: int, encoding: str) -> Iterator[Block]:
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
                words.append(_decoded(word, encoding))
                vectors[row] = np.frombuffer(values, "<f4")
            yield Block(words, vectors.astype(np.float32, copy=False))
            done += wanted
        if file.read(64).strip():
            raise ModelError(
                f"{path} goes on after the {n:,} words that its first line names. Mend that line, or"
                " get the file again."
            )


def _word(file: IO[bytes]) -> bytes | None:
    """The bytes before the next blank; None where the file ends first."""
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
            words.append(_decoded(word, encoding))
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
