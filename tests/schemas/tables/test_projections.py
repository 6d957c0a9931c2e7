import numpy as np
import pyarrow as pa
import pytest

from schemas.tables.projections import kind_of, points_of, projection_rows, projection_schema


@pytest.mark.parametrize(("dim", "axes"), [(2, ["x", "y"]), (3, ["x", "y", "z"])])
def test_points_come_back_and_the_columns_tell_their_dimensions(dim, axes):
    points = np.arange(2 * dim, dtype=np.float32).reshape(2, dim)
    rows = projection_rows(pa.array(["a", "b"]), points)
    assert rows.column_names == ["id", *axes]
    np.testing.assert_array_equal(points_of(rows), points)
    assert kind_of(rows.schema) == projection_schema(dim) == rows.schema
