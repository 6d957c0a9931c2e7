"""Conversion of arrays of vectors to the column `embedding` and back."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def vector_column(vectors: np.ndarray, *, half: bool = False) -> pa.FixedSizeListArray:
    """Convert vectors to the column `embedding`, lists of fixed size.

    Args:
        vectors: (n, dim) float32, finite.
        half: round to float16. The column stays float32, which every reader of Delta knows; the
            thirteen zero bits at the end of each value are what compression takes away.

    Raises:
        ValueError: another dtype or shape, or a value that is not finite.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise ValueError(f"Vectors are (n, dim) float32, not {vectors.shape} {vectors.dtype}.")
    if half:
        vectors = vectors.astype(np.float16).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("A vector is not finite.")
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Convert the column `embedding` to (n, dim) float32, from lists of fixed or of free size.

    Raises:
        ValueError: a vector is null or its length differs from the others'.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(column) == 0:
        return np.zeros((0, getattr(column.type, "list_size", 0)), np.float32)
    lengths = pc.list_value_length(column)
    if column.null_count or pc.count_distinct(lengths).as_py() != 1:
        raise ValueError("The column 'embedding' holds nulls or vectors of several lengths.")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    vectors: np.ndarray = values.reshape(len(column), lengths[0].as_py())
    return vectors
