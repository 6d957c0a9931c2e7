"""The predictions table: the class of each row of a table, given by the nearest prompt.

`id`, `label` (what it truly is, null where that is not known), `predicted`, `probability`, and `top`,
the best classes with their probabilities, best first.
"""

import numpy as np
import pyarrow as pa
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity

PREDICTIONS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field(
            "top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
        ),
    ]
)


def class_probabilities(vectors: np.ndarray, classes: np.ndarray, scale: float) -> np.ndarray:
    """Softmax over classes of a row's cosines times a scale (Radford et al. 2021, section 3.1.2).

    Args:
        vectors: (n, dim) float32.
        classes: (c, dim) float32, one vector a class.
        scale: `logit_scale` of the model; a larger scale gives the best class a larger share.

    Returns:
        (n, c) float32, each row adding up to 1. For the vector [1, 0], classes [[1, 0], [0, 1]] and
        a scale of ln 3: [0.75, 0.25].
    """
    shares: np.ndarray = softmax(scale * cosine_similarity(vectors, classes), axis=1)
    return shares.astype(np.float32)


def prediction_rows(
    ids: pa.Array, labels: pa.Array, classes: list[str], probabilities: np.ndarray, n_top: int
) -> pa.Table:
    """Rows of the predictions table.

    Args:
        ids: n strings.
        labels: n strings, null where unknown.
        classes: c names.
        probabilities: (n, c) float32.
        n_top: number of classes in `top`, at most c.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :n_top]
    best = np.take_along_axis(probabilities, order, axis=1)
    names = pa.array(classes, pa.string())
    top = pa.StructArray.from_arrays(
        [names.take(pa.array(order.reshape(-1))), pa.array(best.reshape(-1))],
        fields=list(PREDICTIONS.field("top").type.value_type),
    )
    offsets = np.arange(0, order.size + 1, n_top, dtype=np.int32)
    return pa.table(
        [
            ids,
            labels,
            names.take(pa.array(order[:, 0])),
            pa.array(best[:, 0]),
            pa.ListArray.from_arrays(pa.array(offsets), top),
        ],
        schema=PREDICTIONS,
    )
