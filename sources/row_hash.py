"""Row hashes: one 64-bit number for the other columns of a row, to see that a label changed.

The hash does not depend on the order of columns, on nulls, or on the type that a reader inferred (1 and
1.0 are the same); it is the same in every process and on every machine. Each cell is hashed with
the column's name as seed and a row is the sum of its cells modulo 2^64, so that whole columns are hashed
at once.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
from xxhash import xxh3_64_intdigest

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


def hash_column(name: str, values: Iterable[object]) -> Hashes:
    """Hash the cells of one column.

    Args:
        name: The column's name, which seeds the hash.
        values: n Python values; the hash of None is 0, as if there were no such column.

    Returns:
        (n,) uint64. The hash of a row is the sum over its columns, modulo 2^64.

    Raises:
        UnicodeEncodeError: A string holds half a surrogate pair.
    """
    seed = xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
    other = seed ^ 1  # strings, the usual case, need no tag: nothing else has their seed
    return np.fromiter(
        (
            xxh3_64_intdigest(value.encode(), seed)
            if type(value) is str
            else 0
            if value is None
            else xxh3_64_intdigest(
                b"d%x;" % value if type(value) is int else canonical_bytes(value), other
            )
            for value in values
        ),
        np.uint64,
    )


def canonical_bytes(value: object) -> bytes:
    """Bytes that are equal for equal values, and different for different values.

    Each value begins with the letter of its kind and either ends with a mark or says its length,
    so that nested values cannot run into each other: `["a", "b"]` is `l2:s1:as1:b`.
    """
    match value:
        case None:
            return b"n"
        case str():
            return _sized(b"s", value.encode())
        case bytes() | bytearray() | memoryview():
            return _sized(b"y", bytes(value))
        case bool():
            return b"b1" if value else b"b0"
        case int() | float() | Decimal() | np.number():
            return b"d" + _number(value).encode() + b";"
        case datetime():
            aware = value.tzinfo is not None
            moment = value.astimezone(UTC) if aware else value
            return _sized(b"t", moment.isoformat().encode())
        case Mapping():
            pairs = sorted((str(k), v) for k, v in value.items() if v is not None)
            return b"m%d:" % len(pairs) + b"".join(
                canonical_bytes(k) + canonical_bytes(v) for k, v in pairs
            )
        case list() | tuple() | np.ndarray():
            return b"l%d:" % len(value) + b"".join(map(canonical_bytes, value))
        case _:  # dates, times, durations, uuids
            return _sized(b"o" + type(value).__name__.lower().encode(), str(value).encode())


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + b"%d:" % len(data) + data


def _number(value: int | float | Decimal | np.number) -> str:
    """The shortest decimal digits: 1 for 1, 1.0 and Decimal("1.00"); 0.1 for 0.1."""
    if isinstance(value, np.number):
        return _number(value.item())  # type: ignore[arg-type]
    if isinstance(value, int):
        return f"{value:x}"
    if value != value:
        return "nan"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    if value == int(value):
        return f"{int(value):x}"  # hexadecimal: a long integer has no limit of digits there
    digits = Decimal(repr(value)) if isinstance(value, float) else value
    return f"{digits:f}".rstrip("0")
