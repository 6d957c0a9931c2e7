import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.row_hash import canonical_bytes, hash_column

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), values, max_size=5), st.randoms())
def test_a_row_hash_does_not_depend_on_the_order_of_columns_or_keys(row, random):
    items = list(row.items())
    random.shuffle(items)
    shuffled = [(name, _shuffled(value, random)) for name, value in items]
    assert _hash(row.items()) == _hash(shuffled)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_nulls_are_left_out(row):
    assert _hash(row.items()) == _hash([*row.items(), ("never here before", None)])


@given(st.integers(-(2**53), 2**53))
def test_a_number_is_the_same_as_int_float_and_decimal(number):
    assert (
        canonical_bytes(number)
        == canonical_bytes(float(number))
        == canonical_bytes(Decimal(number))
    )


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (0.1, Decimal("0.10")),
        (1e-7, Decimal("0.0000001")),
        (1e300, int(1e300)),
        (-0.0, 0),
        (float("nan"), Decimal("nan")),
        (float("inf"), Decimal("inf")),
        (np.float64(2.5), 2.5),
        (np.int32(7), 7),
        ((1, 2), [1, 2]),
        (np.array([1, 2]), [1.0, 2.0]),
        ({"a": 1, "b": None}, {"a": 1}),
        (
            datetime(2024, 1, 1, 12, tzinfo=UTC),
            datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
        ),
    ],
)
def test_equal_values_are_the_same(one, same):
    assert canonical_bytes(one) == canonical_bytes(same)


def test_different_values_differ():
    different = [
        None, "", "1", b"1", 1, 2, 1.5, True, False, float("nan"), float("inf"), float("-inf"),
        [], [1], [1, 1], [[1], 1], [[1, 1]], ["a", "b"], ["ab"], ["as1:b"], {}, {"a": 1}, {"1": "a"},
        date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), 16, "16", 10**30,
        timedelta(1), -1, Decimal("0.123456789012345678901234567890"),
    ]  # fmt: skip
    assert len({canonical_bytes(value) for value in different}) == len(different)


def test_the_same_value_in_another_column_is_another_hash():
    assert hash_column("a", ["x", 1])[0] != hash_column("b", ["x", 1])[0]
    swapped = _hash([("a", "x"), ("b", "y")]), _hash([("a", "y"), ("b", "x")])
    assert swapped[0] != swapped[1]


def test_hashes_are_the_same_in_another_process():
    code = "from sources.row_hash import hash_column as h; print([*map(int, h('a', ['x', 1.5, {'k': [b'y']}]))])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str([*map(int, hash_column("a", ["x", 1.5, {"k": [b"y"]}]))])
    golden = [11674009546516466376, 1739802798981764118, 255497346870357899]
    assert hash_column("a", ["x", 1.5, {"k": [b"y"]}]).tolist() == golden


def test_no_values_are_no_hashes():
    assert hash_column("a", []).shape == (0,)
    assert hash_column("a", [None]).tolist() == [0]


def _hash(items) -> int:
    return int(sum(int(hash_column(name, [value])[0]) for name, value in items) % 2**64)


def _shuffled(value, random):
    if isinstance(value, dict):
        items = [(k, _shuffled(v, random)) for k, v in value.items()]
        random.shuffle(items)
        return dict(items)
    return [_shuffled(v, random) for v in value] if isinstance(value, list) else value
