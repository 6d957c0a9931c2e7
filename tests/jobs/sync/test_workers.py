import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.sync.due import due_by_piece
from jobs.sync.workers import read_tasks
from schemas.delta.fragments import windows
from schemas.plan import DUE
from sources.rows import Piece, file_name, number_files

LENGTHS = st.lists(st.integers(0, 12), max_size=8)


def tables_of(lengths):
    starts = np.cumsum([0, *lengths])
    return [pa.table({"n": np.arange(a, a + n)}) for a, n in zip(starts[:-1], lengths, strict=True)]


@given(lengths=LENGTHS, n_rows=st.integers(1, 7))
def test_windows_hold_every_row_in_its_order(lengths, n_rows):
    cut = list(windows(tables_of(lengths), n_rows, 1 << 30))
    assert [n for window in cut for n in window["n"].to_pylist()] == list(range(sum(lengths)))
    assert all(len(window) == n_rows for window in cut[:-1])
    assert all(0 < len(window) <= n_rows for window in cut)


def test_long_rows_make_short_windows():
    cut = list(windows(tables_of([3, 3, 3]), 100, 40))  # 24 bytes a table
    assert [len(window) for window in cut] == [6, 3]


@given(pieces=st.lists(st.integers(1, 9), max_size=12), n_rows=st.integers(1, 20))
def test_read_tasks_gather_pieces_with_few_due_rows(pieces, n_rows):
    due = np.zeros(sum(pieces), DUE)
    due["file"] = np.repeat(np.arange(len(pieces)), pieces)
    due["position"] = np.arange(len(due))
    read = number_files(Piece((f"{number}",), 1) for number in range(len(pieces)))
    tasks = read_tasks(due, read, n_rows)
    assert [row for task in tasks for row in task["position"].tolist()] == list(range(len(due)))
    assert all(len(task) <= n_rows or len(set(task["file"])) == 1 for task in tasks)
    assert sum(len(set(task["file"])) for task in tasks) == len(pieces)


def test_due_rows_are_cut_by_pieces_of_parts_and_of_several_files():
    pieces = number_files(
        [
            Piece(("a",), 1, (0, 2), 0),
            Piece(("a",), 1, (2, 3), 100),
            Piece(("b", "c", "d"), 1),
            Piece(("a",), 1),
        ]
    )
    assert [piece.file_number for piece in pieces] == [0, 0, 1, 4]
    assert [file_name(pieces, number) for number in range(5)] == ["a", "b", "c", "d", "a"]
    rows = [(0, 0), (0, 99), (0, 100), (1, 0), (3, 2**31), (4, 7)]
    due = np.zeros(len(rows), DUE)
    due["file"], due["position"] = np.array(rows).T
    cut = [(piece, len(part)) for piece, part in due_by_piece(due, pieces)]
    assert cut == [(0, 2), (1, 1), (2, 2), (3, 1)]
    due["group"][1] = 1  # as a wave of its own
    assert [piece for piece, _ in due_by_piece(due, pieces)] == [0, 0, 1, 2, 3]
    assert due_by_piece(due[:0], pieces) == []
