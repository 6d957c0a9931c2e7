"""Files that say what belongs together: judgements of relevance, and scores of pairs.

    query-id	corpus-id	score        BEIR: tab-separated, with a header
    q1 0 d7 2                            TREC: four columns
    caption-17,photo-3.jpg               pairs: two columns, each pair relevant

Columns are separated by tabs, commas or blanks, whatever the first line has; a first line whose score is no
number is a header.
"""

import csv
import io

from sources.opening import as_utf8
from sources.rows import SourceError


def read_judgements(path: str) -> dict[str, dict[str, float]]:
    """Score by first and second name.

    Raises:
        SourceError: The file is missing, or a line is of another form.
    """
    try:
        with open(path, "rb") as file, io.TextIOWrapper(as_utf8(file), "utf-8") as text:
            lines = text.read().split("\n")
    except FileNotFoundError as error:
        raise SourceError(
            f"There is no file {path}. Expected one with a pair of ids a line, perhaps with a score."
        ) from error
    except SourceError as error:
        raise SourceError(
            f"{path} looks like UTF-16 without a byte order mark. Save it as UTF-8."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Cannot read {path}: {error}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise SourceError(f"{path} is empty. Expected a pair of ids a line, perhaps with a score.")
    mark = next((mark for mark in "\t," if mark in lines[0]), None)
    rows = list(csv.reader(lines, delimiter=mark)) if mark else [line.split() for line in lines]
    n_columns = len(rows[0])
    if n_columns not in (2, 3, 4):
        raise SourceError(f"{path} has {n_columns} columns. Expected two names, perhaps a score.")
    judged: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, 1):
        if len(row) != n_columns:
            raise SourceError(f"{path}, line {number}: {len(row)} columns, expected {n_columns}.")
        one, other = row[0], row[2] if n_columns == 4 else row[1]
        try:
            score = float(row[-1]) if n_columns > 2 else 1.0
        except ValueError:
            if number == 1:
                continue
            raise SourceError(
                f"{path}, line {number}: the score {row[-1]!r} is no number."
            ) from None
        judged.setdefault(one.strip(), {})[other.strip()] = score
    return judged
