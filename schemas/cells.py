"""Conversion of cells to the type that their column has in its table.

The result depends on that type and on the cell, never on other cells: in a column of text a string
stays as it is, and all else is written as JSON has it (2, true, 1.5, [1, 2]).
"""

import contextlib
import json
from collections.abc import Sequence
from itertools import chain
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_INT64 = range(-(2**63), 2**63)
_MISFIT = (pa.ArrowException, ArithmeticError, AttributeError, TypeError, ValueError)
_MAX_DEPTH = 32  # of nested types: what is deeper is kept as text; Arrow's files hold 64


def cast_column(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast a column to its type in the table; in a text column, lists, objects and fractions become JSON."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # pyarrow returns none or several for some types
        chunks = column.chunks
        column = pa.concat_arrays(chunks) if chunks else pa.array([], column.type)
    if column.type == kind:
        return column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if "list_view" not in str(column.type):  # pyarrow's cast of views with nulls is wrong
        try:
            if pa.types.is_timestamp(column.type) and pa.types.is_timestamp(kind):
                return pc.cast(column, kind, safe=False)  # nanoseconds are cut to microseconds
            # Arrow writes 1.0 as 1, and nested values in a way of its own.
            becomes_json = pa.types.is_nested(column.type) or column.type == pa.float64()
            if not (kind == pa.string() and becomes_json):
                return pc.cast(column, kind)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            pass
    return pa.array([_convert(value, kind) for value in column.to_pylist()], kind)


def _convert(value: Any, kind: pa.DataType) -> Any:  # noqa: ANN401 whatever a cell holds
    """Convert a value so that `pa.array` accepts it for a type; for a text type, any value becomes text."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return _as_text(value)
    if pa.types.is_binary(kind):
        return value if isinstance(value, bytes) else _as_text(value).encode()
    if pa.types.is_floating(kind):
        return float(value)  # of a whole number beyond 2^53, the nearest
    if pa.types.is_map(kind):
        return [(_convert(k, kind.key_type), _convert(v, kind.item_type)) for k, v in value]
    if pa.types.is_struct(kind):
        return {field.name: _convert(value.get(field.name), field.type) for field in kind}
    if hasattr(kind, "value_type"):
        return [_convert(item, kind.value_type) for item in value]
    return value


def json_type(values: Sequence[object]) -> pa.DataType:
    """The Arrow type that holds all values of `json.loads`; text where no other type holds them.

    However the values are cut into parts, the common type of the parts' types is the type of all values.
    Whole numbers beside fractions are double; whole numbers beyond int64 are text.

    >>> json_type([1, None, 2.5]), json_type([1, "a"])
    (DataType(double), DataType(string))
    """
    kind = _json_type(values, _MAX_DEPTH)
    return pa.string() if kind is None else kind


def _json_type(values: Sequence[Any], depth: int) -> pa.DataType | None:
    kinds = set(map(type, values)) - {NoneType}
    if not kinds:
        return pa.null()
    if kinds == {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds <= {int, float}:
        if not all(value in _INT64 for value in values if type(value) is int):
            return None
        return pa.float64() if float in kinds else pa.int64()
    if depth == 0 or len(kinds) > 1:
        return None
    held = [value for value in values if value is not None]
    if kinds == {list}:
        item = _json_type(list(chain.from_iterable(held)), depth - 1)
        return None if item is None else pa.list_(item)
    names = dict.fromkeys(chain.from_iterable(held))
    fields = {name: _json_type([v.get(name) for v in held], depth - 1) for name in names}
    return None if None in fields.values() else pa.struct(list(fields.items()))


def json_column(values: Sequence[object], kind: pa.DataType | None = None) -> pa.Array:
    """A column of values of `json.loads`.

    Args:
        values: n values.
        kind: the type that the column has in its table; None: the type that holds all values. A value
            that this type cannot hold becomes null: the value came after the type was decided, and the
            row's hash shows that the row has changed since.
    """
    kind = json_type(values) if kind is None else kind
    is_text, is_float = pa.types.is_string(kind), pa.types.is_floating(kind)
    as_they_are = not (is_text or is_float or pa.types.is_nested(kind))
    as_they_are |= is_text and set(map(type, values)) <= {str, NoneType}
    try:
        return pa.array(values if as_they_are else [_convert(v, kind) for v in values], kind)
    except _MISFIT:
        return pa.array([_convert_or_none(value, kind) for value in values], kind)


def _convert_or_none(value: object, kind: pa.DataType) -> Any:  # noqa: ANN401 as `_convert`
    try:
        return pa.scalar(_convert(value, kind), kind).as_py()
    except _MISFIT:
        return None


def _as_text(value: object) -> str:
    """Convert a value to text: a string as it is, what JSON can hold as JSON, all else by `str`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    if isinstance(value, dict | list | bool | int | float):
        return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)
    return str(value)
