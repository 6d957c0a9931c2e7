import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from schemas.canary import MOST_DISTANCE, Canary
from schemas.tables.embeddings import Fingerprint

ONE = Canary("texts 1", np.array([[1, 0], [0, 2], [np.nan, np.nan]], np.float32), "torch 2")


def moved(values):
    return dataclasses.replace(ONE, values=np.array(values, np.float32))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 0], [0, 2], [np.nan, np.nan]], 0),
        ([[1, 0], [0, 2.5], [np.nan, np.nan]], 0.2),  # of the longer one
        ([[0.6, 0.8], [0, 2], [np.nan, np.nan]], np.sqrt(0.4**2 + 0.8**2)),
        ([[1, 0], [0, 2], [0, 1]], np.inf),
        ([[1, 0], [np.nan, np.nan], [np.nan, np.nan]], np.inf),
        ([[1, 0]], np.inf),
    ],
)
def test_distances_by_hand(values, expected):
    assert ONE.distance(moved(values)) == pytest.approx(expected)
    assert moved(values).distance(ONE) == pytest.approx(expected)


def test_the_bound_lies_between_half_a_precision_and_the_cosine_that_is_refused():
    assert 2 * np.finfo(np.float16).eps < MOST_DISTANCE < np.sqrt(2 * (1 - 0.999))


def test_it_is_kept_beside_the_fingerprint_and_is_of_a_recipe():
    fingerprint = Fingerprint("m", 2, "s", "r")
    metadata = fingerprint.metadata() | ONE.metadata("r")
    schema = pa.schema([pa.field("embedding", pa.list_(pa.float32(), 2), metadata=metadata)])
    assert Fingerprint.of(schema) == fingerprint
    held = Canary.of_table(schema, "r")
    assert (held.items, held.made_with) == (ONE.items, ONE.made_with)
    np.testing.assert_array_equal(held.values, ONE.values)
    assert held.values.dtype == np.float32
    assert Canary.of_table(schema, "another") is None
    assert Canary.of_table(pa.schema([fingerprint.field]), "r") is None
