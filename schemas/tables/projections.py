"""The projections table: where each row of a table lies on a map, `id`, `x`, `y` and perhaps `z`.

The notes of its commits say what made the map, as numbers and names.
"""

import numpy as np
import pyarrow as pa

AXES = ("x", "y", "z")


def projection_schema(dim: int) -> pa.Schema:
    """The columns of a map of 2 or 3 dimensions."""
    axes = [pa.field(axis, pa.float32()) for axis in AXES[:dim]]
    return pa.schema([pa.field("id", pa.string()), *axes])


def kind_of(schema: pa.Schema) -> pa.Schema:
    """The columns that a table has if it is a map: of 3 dimensions if it has a column `z`, else of 2."""
    return projection_schema(3 if "z" in schema.names else 2)


def projection_rows(ids: pa.Array, points: np.ndarray) -> pa.Table:
    """Rows of a map, from n ids and their points, (n, dim) float32."""
    return pa.table([ids, *map(pa.array, points.T)], schema=projection_schema(points.shape[1]))


def points_of(rows: pa.Table) -> np.ndarray:
    """Coordinates of the rows of a map, (n, dim) float32."""
    axes = [axis for axis in AXES if axis in rows.column_names]
    return np.stack([rows[axis].to_numpy() for axis in axes], axis=1).astype(np.float32)
