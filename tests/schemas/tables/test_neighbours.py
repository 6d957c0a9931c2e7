import numpy as np
import pyarrow as pa

from schemas.tables.neighbours import NEIGHBOURS, neighbour_rows, neighbours_of

IDS, BASE = pa.array(["a", "b", "c"]), pa.array(["x", "y"])
INDICES = np.array([[1, 0], [0, -1], [-1, -1]])
SIMILARITIES = np.array([[0.9, 0.5], [0.7, -np.inf], [-np.inf, -np.inf]], np.float32)


def rows():
    return pa.concat_tables(neighbour_rows(IDS, BASE, INDICES, SIMILARITIES))


def test_rows_come_by_id_and_rank_and_where_none_is_near_there_is_no_row():
    assert rows().schema == NEIGHBOURS
    assert rows().select(["id", "rank", "neighbour_id"]).to_pylist() == [
        {"id": "a", "rank": 1, "neighbour_id": "y"},
        {"id": "a", "rank": 2, "neighbour_id": "x"},
        {"id": "b", "rank": 1, "neighbour_id": "x"},
    ]


def test_rows_are_the_same_in_batches_of_any_size(monkeypatch):
    whole = rows()
    monkeypatch.setattr("schemas.tables.neighbours.BATCH", 1)
    assert rows() == whole


def test_neighbours_come_back_also_for_ids_in_another_order():
    indices, similarities = neighbours_of(rows(), IDS, BASE, 2)
    np.testing.assert_array_equal(indices, INDICES)
    np.testing.assert_array_equal(similarities, SIMILARITIES)
    turned, _ = neighbours_of(rows(), IDS[::-1], BASE[::-1], 2)
    np.testing.assert_array_equal(turned, [[-1, -1], [1, -1], [0, 1]])


def test_a_neighbour_that_is_gone_is_told_from_none():
    indices, _ = neighbours_of(rows(), pa.array(["b", "a"]), pa.array(["y"]), 2)
    np.testing.assert_array_equal(indices, [[-2, -1], [0, -2]])
