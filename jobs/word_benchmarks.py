"""How well a table of words knows analogies, and which words people find alike.

Files and figures are those of gensim: `evaluate_word_analogies` and `evaluate_word_pairs`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import pearsonr, spearmanr

from jobs.progress import Progress
from jobs.word_table import WordTable
from sources.rows import SourceError

MOST_WORDS = 300_000  # the most frequent, among which answers are looked for
N_ANSWERS = 5  # of which the first that is not in the question counts
BATCH = 4096


class Question(NamedTuple):
    """A is to B as C is to the expected word, in capitals; of a section of the file."""

    section: str
    a: str
    b: str
    c: str
    expected: str


def read_analogies(path: str) -> tuple[list[Question], int]:
    """The questions of a file, and how many of its lines are none.

    Raises:
        SourceError: it cannot be read, or begins with no section (`: capitals`).
    """
    questions, n_invalid, section = [], 0, ""
    for number, line in enumerate(_lines(path), 1):
        if line.startswith(": "):
            section = line[2:].strip()
        elif not section:
            raise SourceError(
                f"{path}, line {number}: expected a section first, such as `: capitals`."
            )
        elif len(words := line.upper().split()) == 4:
            questions.append(Question(section, *words))
        else:
            n_invalid += 1
    if not questions:
        raise SourceError(f"{path} holds no analogy. Expected four words a line under a section.")
    return questions, n_invalid


def analogies(table: WordTable, path: str, *, quiet: bool) -> dict[str, Any]:
    """Share of analogies that are answered right, in all and by section, and counts.

    Case does not matter. Questions with a word that is not in the table are left out and counted.
    """
    questions, n_invalid = read_analogies(path)
    index = _in_capitals(table)
    among = table.by_rank[:MOST_WORDS] if len(table.words) > MOST_WORDS else None
    known = [one for one in questions if all(word in index for word in one[1:])]
    if not known:
        raise SourceError(
            f"{path}: none of its {len(questions):,} questions has all its words in {table.place}."
        )
    right: dict[str, list[bool]] = {}
    rows = np.array([[index[word] for word in one[1:4]] for one in known], np.int64).reshape(-1, 3)
    with Progress("analogies", len(known), "questions", quiet=quiet) as progress:
        for start in range(0, len(known), BATCH):
            some = rows[start : start + BATCH]
            a, b, c = (table.unit[some[:, column]] for column in range(3))
            queries = b + c - a
            queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
            asked = [[table.words[row] for row in line] for line in some]
            answers = table.similar_to_each(queries, asked, N_ANSWERS, among)
            for question, found in zip(known[start : start + BATCH], answers, strict=True):
                said = [one.word.upper() for one in found]
                first = next((word for word in said if word not in question[1:4]), None)
                right.setdefault(question.section, []).append(first == question.expected)
            progress.add(len(some))
    told: dict[str, Any] = {
        "analogies": len(known),
        "analogies_with_unknown_words": len(questions) - len(known),
        "lines_that_are_no_analogy": n_invalid,
    }
    everything = [one for answers_of in right.values() for one in answers_of]
    told["analogy_accuracy"] = float(np.mean(everything))
    return told | {f"analogy_accuracy:{name}": float(np.mean(one)) for name, one in right.items()}


def word_pairs(table: WordTable, path: str) -> dict[str, Any]:
    """Correlation of cosines with how alike people found two words; a file of two words and a score.

    Raises:
        SourceError: fewer than two of its pairs are in the table.
    """
    index = _in_capitals(table)
    scores, cosines, n_unknown = [], [], 0
    for line in _lines(path):
        parts = line.rstrip("\n").upper().split("\t")
        try:
            one, other, score = parts[0], parts[1], float(parts[2])
        except (IndexError, ValueError):  # a header or a remark
            continue
        if line.startswith("#") or len(parts) != 3:
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
