"""Read files of judgements: which document is relevant to which query, or how alike two rows are.

    query-id	corpus-id	score        BEIR: tab-separated, with a header
    q1 0 d7 2                            TREC: four columns
    caption-17,photo-3.jpg               pairs: two columns, each pair relevant

The first line decides whether tabs, commas or blanks separate the columns. A first line whose score is no
number is a header. Only a line feed ends a line, and ids between tabs or commas keep the blanks around them,
because other separators may be part of an id.
"""

import csv
import io
import re
from collections.abc import Iterator

from sources.opening import as_utf8
from sources.rows import SourceError


def read_judgements(path: str) -> dict[str, dict[str, float]]:
    """Read the score of each pair in a file, by first and second id.

    Raises:
        SourceError: The file is missing, or a line has another form.
    """
    try:
        with (
            open(path, "rb") as file,
            io.TextIOWrapper(as_utf8(file), "utf-8", newline="") as stream,
        ):
            text = stream.read()
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
    rows = list(_rows(text, path))
    if not rows:
        raise SourceError(f"{path} is empty. Expected a pair of ids a line, perhaps with a score.")
    first, n_columns = rows[0][0], len(rows[0][1])
    if n_columns not in (2, 3, 4):
        raise SourceError(f"{path} has {n_columns} columns. Expected two names, perhaps a score.")
    judged: dict[str, dict[str, float]] = {}
    for number, row in rows:
        if len(row) != n_columns:
            raise SourceError(f"{path}, line {number}: {len(row)} columns, expected {n_columns}.")
        one, other = row[0], row[2] if n_columns == 4 else row[1]
        try:
            score = float(row[-1]) if n_columns > 2 else 1.0
        except ValueError:
            if number == first:
                continue
            raise SourceError(
                f"{path}, line {number}: the score {row[-1]!r} is no number."
            ) from None
        judged.setdefault(one, {})[other] = score
    return judged


def _rows(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Number, from 1, and columns of each line that is not blank."""
    lines = text.split("\n" if "\n" in text else "\r")  # only files of old have \r alone
    first = next((line for line in lines if line.strip()), "")
    mark = next((mark for mark in "\t," if mark in first), None)
    if mark is None:
        for number, line in enumerate(lines, 1):
            if words := [word for word in re.split("[ \t\r]+", line) if word]:
                yield number, words
        return
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark)
    try:
        for row in reader:
            if "".join(row).strip():
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: {error}.") from error
