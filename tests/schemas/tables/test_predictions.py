from math import log

import numpy as np
import pyarrow as pa

from schemas.tables.predictions import PREDICTIONS, class_probabilities, prediction_rows


def test_probabilities_by_hand():
    classes = np.array([[1, 0], [0, 2]], np.float32)  # a class's length does not count
    found = class_probabilities(np.array([[3, 0], [1, 1]], np.float32), classes, log(3))
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    assert found.dtype == np.float32


def test_rows_hold_the_best_classes_first_and_of_equals_the_first_named():
    shares = np.array([[0.25, 0.5, 0.25], [0.5, 0.0, 0.5]], np.float32)
    rows = prediction_rows(
        pa.array(["a", "b"]), pa.array(["cat", None], pa.string()), ["cat", "dog", "cow"], shares, 2
    )
    assert rows.schema == PREDICTIONS
    assert rows.to_pylist() == [
        {
            "id": "a",
            "label": "cat",
            "predicted": "dog",
            "probability": 0.5,
            "top": [{"label": "dog", "probability": 0.5}, {"label": "cat", "probability": 0.25}],
        },
        {
            "id": "b",
            "label": None,
            "predicted": "cat",
            "probability": 0.5,
            "top": [{"label": "cat", "probability": 0.5}, {"label": "cow", "probability": 0.5}],
        },
    ]
