"""Measure a table of words by analogies, and by pairs of words whose similarity people have judged.

gensim computes both: `evaluate_word_analogies` and `evaluate_word_pairs`. The questions and pairs that gensim
leaves out are counted here.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from jobs.runtime.progress import Progress
from jobs.word_vectors.table import WordTable
from sources.rows import SourceError

MOST_WORDS = 300_000  # answers are looked for among so many of the most frequent words


def read_analogies(path: str) -> tuple[dict[str, list[str]], int]:
    """Read a file of analogies.

    Returns:
        Lines of four words, by section, and the number of lines that are no analogy.

    Raises:
        SourceError: the file cannot be read, or does not begin with a section (`: capitals`).
    """
    sections: dict[str, list[str]] = {}
    n_invalid, section = 0, None
    for number, line in _lines(path):
        if line.startswith(": "):
            section = line[2:].strip()
        elif section is None:
            raise SourceError(
                f"{path}, line {number}: expected a section first, such as `: capitals`."
            )
        elif len(line.split()) == 4:
            sections.setdefault(section, []).append(line)
        else:
            n_invalid += 1
    if not sections:
        raise SourceError(f"{path} holds no analogy. Expected four words a line under a section.")
    return sections, n_invalid


def analogies(table: WordTable, path: str, *, quiet: bool) -> dict[str, Any]:
    """Share of analogies that are answered right, over all sections and by section, and counts.

    Case does not matter. Questions with a word that is not in the table are left out and counted.

    Raises:
        SourceError: no question of the file has all its words in the table.
    """
    sections, n_invalid = read_analogies(path)
    n_questions = sum(map(len, sections.values()))
    right, asked = Counter[str](), Counter[str]()
    one_thread = threadpool_limits(1, "blas")  # products are small: threads wait for each other
    with one_thread, Progress("analogies", n_questions, "questions", quiet=quiet) as progress:
        for name, lines in sections.items():
            with _file([f": {name}", *lines]) as file:
                _, (answers, _) = table.keyed.evaluate_word_analogies(file, MOST_WORDS)
            if n := len(answers["correct"]) + len(answers["incorrect"]):
                right[name], asked[name] = len(answers["correct"]), n
            progress.add(len(lines))
    if not asked:
        raise SourceError(
            f"{path}: none of its {n_questions:,} questions has all its words in {table.place}."
        )
    return {
        "analogies": asked.total(),
        "analogies_with_unknown_words": n_questions - asked.total(),
        "lines_that_are_no_analogy": n_invalid,
        "analogy_accuracy": right.total() / asked.total(),
        **{f"analogy_accuracy:{name}": right[name] / n for name, n in asked.items()},
    }


def read_pairs(path: str) -> tuple[list[list[str]], int]:
    """Read a file of pairs of words with scores.

    A first line whose score is no number is a header; a line that begins with # is a remark.

    Returns:
        Lists of first word, second word and score, all as text, and the number of lines that are no pair.

    Raises:
        SourceError: the file cannot be read.
    """
    pairs, n_invalid = [], 0
    lines = (line for _, line in _lines(path) if not line.startswith("#"))
    for number, line in enumerate(lines):
        parts = line.split("\t")
        try:
            _, _, score = parts
            float(score)
        except ValueError:
            n_invalid += number > 0 or len(parts) != 3
        else:
            pairs.append(parts)
    return pairs, n_invalid


def word_pairs(table: WordTable, path: str) -> dict[str, Any]:
    """Correlations of cosines with people's scores of pairs of words, and counts.

    Raises:
        SourceError: fewer than two pairs of the file are in the table.
    """
    pairs, n_invalid = read_pairs(path)
    words = {word.upper() for word in table.keyed.index_to_key[:MOST_WORDS]}
    known = [pair for pair in pairs if words.issuperset(map(str.upper, pair[:2]))]
    if len(known) < 2:
        raise SourceError(
            f"{path}: {len(known)} of its pairs are in {table.place}, expected two or more."
            " Expected two words and a score a line, with tabs between them."
        )
    with _file(map("\t".join, known)) as file:
        pearson, spearman, _ = table.keyed.evaluate_word_pairs(file, restrict_vocab=MOST_WORDS)
    return {
        "word_pairs": len(known),
        "word_pairs_unknown": len(pairs) - len(known),
        "lines_that_are_no_pair": n_invalid,
        "word_pairs_spearman": float(spearman.statistic),
        "word_pairs_pearson": float(pearson.statistic),
    }


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not blank."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Cannot read {path}: {error}") from error


@contextlib.contextmanager
def _file(lines: Iterable[str]) -> Iterator[str]:
    """Write lines into a temporary file and yield its path: gensim reads files only.

    The name ends in .txt, because gensim would unpack a file whose name ends in .gz.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        yield file.name
