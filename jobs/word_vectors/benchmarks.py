"""How well a table of words knows analogies, and which words people find alike.

Files and figures are those of gensim: `evaluate_word_analogies` and `evaluate_word_pairs`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import pearsonr, spearmanr

from jobs.analysis.nearest import nearest
from jobs.runtime.progress import Progress
from jobs.word_vectors.table import WordTable
from sources.rows import SourceError

MOST_WORDS = 300_000  # the most frequent, among which answers are looked for
N_ANSWERS = 5  # of which the first that is not in the question counts
BATCH = 4096


def read_analogies(path: str) -> tuple[list[str], list[list[str]], int]:
    """The section and the four words, in capitals, of each question; and how many lines are none.

    Raises:
        SourceError: it cannot be read, or begins with no section (`: capitals`).
    """
    sections, questions, n_invalid, section = [], [], 0, ""
    for number, line in enumerate(_lines(path), 1):
        if line.startswith(": "):
            section = line[2:].strip()
        elif not section:
            raise SourceError(
                f"{path}, line {number}: expected a section first, such as `: capitals`."
            )
        elif len(words := line.upper().split()) == 4:
            sections.append(section)
            questions.append(words)
        else:
            n_invalid += 1
    if not questions:
        raise SourceError(f"{path} holds no analogy. Expected four words a line under a section.")
    return sections, questions, n_invalid


def analogies(table: WordTable, path: str, *, quiet: bool) -> dict[str, Any]:
    """Share of analogies that are answered right, in all and by section, and counts.

    Case does not matter. Questions with a word that is not in the table are left out and counted.
    """
    sections, questions, n_invalid = read_analogies(path)
    index = _in_capitals(table)
    asked = pa.array(list(itertools.chain.from_iterable(questions)))
    at = pc.fill_null(pc.index_in(asked, value_set=pa.array(list(index))), -1)
    rows = np.array([*index.values(), -1])[at.to_numpy()].reshape(-1, 4)
    known = (rows >= 0).all(axis=1)
    if not known.any():
        raise SourceError(
            f"{path}: none of its {len(questions):,} questions has all its words in {table.place}."
        )
    rows = rows[known]
    of_section = np.array(sections)[known]
    right = np.zeros(len(rows), bool)
    with Progress("analogies", len(rows), "questions", quiet=quiet) as progress:
        for start in range(0, len(rows), BATCH):
            some = slice(start, start + BATCH)
            right[some] = _answered(table, rows[some])
            progress.add(len(rows[some]))
    told: dict[str, Any] = {
        "analogies": len(rows),
        "analogies_with_unknown_words": int((~known).sum()),
        "lines_that_are_no_analogy": n_invalid,
        "analogy_accuracy": float(right.mean()),
    }
    for name in dict.fromkeys(of_section.tolist()):
        told[f"analogy_accuracy:{name}"] = float(right[of_section == name].mean())
    return told


def _answered(table: WordTable, rows: np.ndarray) -> np.ndarray:
    """Which questions, (n, 4) rows of a, b, c and the expected word, 3CosAdd answers right: (n,) bool.

    As gensim has it: of the five nearest words other than the three themselves, the first counts
    that is none of the three in another case.
    """
    a, b, c = (table.unit[rows[:, column]] for column in range(3))
    queries = b + c - a
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    many = len(table.words) > MOST_WORDS
    among = table.by_rank[:MOST_WORDS] if many else np.arange(len(table.words))
    base = table.unit[among] if many else table.unit
    found = among[nearest(base, min(N_ANSWERS + 3, len(base)), queries).indices]
    itself = (found[:, :, None] == rows[:, None, :3]).any(axis=2)
    in_time = np.cumsum(~itself, axis=1) <= N_ANSWERS
    code = table.in_capitals
    asked = (code[found][:, :, None] == code[rows[:, None, :3]]).any(axis=2)
    counts = ~itself & ~asked & in_time
    first = found[np.arange(len(found)), counts.argmax(axis=1)]
    right: np.ndarray = counts.any(axis=1) & (code[first] == code[rows[:, 3]])
    return right


def word_pairs(table: WordTable, path: str) -> dict[str, Any]:
    """Correlation of cosines with how alike people found two words; a file of two words and a score.

    A first line whose score is no number is a header, a line that begins with # a remark; what else is no
    pair is counted.

    Raises:
        SourceError: fewer than two of its pairs are in the table.
    """
    index = _in_capitals(table)
    scores, cosines, n_unknown, n_invalid = [], [], 0, 0
    lines = (line for line in _lines(path) if not line.startswith("#"))
    for number, line in enumerate(lines):
        parts = line.rstrip("\n").upper().split("\t")
        try:
            one, other, told = parts
            score = float(told)
        except ValueError:
            n_invalid += number > 0 or len(parts) != 3
            continue
        if one in index and other in index:
            scores.append(score)
            cosines.append(float(table.unit[index[one]] @ table.unit[index[other]]))
        else:
            n_unknown += 1
    if len(scores) < 2:
        raise SourceError(
            f"{path}: {len(scores)} of its pairs are in {table.place}, expected two or more."
            " Expected two words and a score a line, with tabs between them."
        )
    return {
        "word_pairs": len(scores),
        "word_pairs_unknown": n_unknown,
        "lines_that_are_no_pair": n_invalid,
        "word_pairs_spearman": float(spearmanr(scores, cosines).statistic),
        "word_pairs_pearson": float(pearsonr(scores, cosines).statistic),
    }


def _in_capitals(table: WordTable) -> dict[str, int]:
    """Rows of the most frequent words; of words that differ in case alone, the most frequent."""
    rows = table.by_rank[:MOST_WORDS][::-1].tolist()
    return {table.words[row].upper(): row for row in rows}


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            yield from (line for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Cannot read {path}: {error}") from error
