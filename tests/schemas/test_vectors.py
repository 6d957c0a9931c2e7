import numpy as np
import pyarrow as pa
import pytest

from schemas.vectors import vector_column, vectors_of

VECTORS = np.array([[1.0, 0.1], [-2.5, 3.0]], np.float32)


def test_vectors_come_back_from_lists_of_fixed_and_of_free_size():
    column = vector_column(VECTORS)
    assert column.type == pa.list_(pa.float32(), 2)
    free = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
    for held in (column, pa.chunked_array([column]), free, pa.chunked_array([free[:1], free[1:]])):
        np.testing.assert_array_equal(vectors_of(held), VECTORS)
    np.testing.assert_array_equal(vectors_of(column[1:]), VECTORS[1:])
    assert vectors_of(column[:0]).shape == (0, 2)


def test_half_rounds_values_and_keeps_the_column_float32():
    column = vector_column(VECTORS, half=True)
    assert column.type == pa.list_(pa.float32(), 2)
    np.testing.assert_array_equal(vectors_of(column), VECTORS.astype(np.float16))


@pytest.mark.parametrize(
    ("vectors", "half", "message"),
    [
        (VECTORS.astype(np.float64), False, r"not \(2, 2\) float64"),
        (VECTORS[0], False, r"not \(2,\) float32"),
        (VECTORS * np.float32(np.nan), False, "not finite"),
        (VECTORS * np.float32(1e5), True, "not finite"),  # float16 ends at 65,504
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_is_no_vector_is_refused(vectors, half, message):
    with pytest.raises(ValueError, match=message):
        vector_column(vectors, half=half)


@pytest.mark.parametrize("rows", [[[1.0], None], [[1.0], [1.0, 2.0]]])
def test_rows_without_a_vector_or_with_another_length_are_refused(rows):
    with pytest.raises(ValueError, match="nulls or vectors of several lengths"):
        vectors_of(pa.array(rows, pa.list_(pa.float32())))
