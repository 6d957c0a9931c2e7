"""How a source's columns become columns of a table: names and types that Delta can hold.

The type of a column is decided once, by all that a source holds in it or by the table that is there
already; `schemas.cells` converts each cell to it.
"""

from collections.abc import Iterable
from itertools import chain

import pyarrow as pa

from schemas.errors import UserError

INTERNAL = "due:"  # begins the names of columns that only travel to the workers
SHADOWED = "source:"
"""Prefix of a source column that has the name of one of embatch's columns. `source_columns` replaces it,
once all columns are known, by the name in the table."""
RESERVED = frozenset(
    "id parent_id chunk start end content_hash row_hash text image n_tokens truncated embedding "
    "embedded_at".split()
)
_FORBIDDEN = str.maketrans(dict.fromkeys(" ,;{}()\n\t=", "_"))  # Delta's column names hold none
_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}


class SchemaError(UserError):
    """Error: rows do not fit the table or the options; the message says what to do."""


def delta_type(source: pa.DataType) -> pa.DataType | None:
    """The nearest type that Delta can hold, None for a nested type without any field."""
    if isinstance(source, pa.BaseExtensionType):
        return delta_type(source.storage_type)
    if source in _WIDER:
        return _WIDER[source]
    if pa.types.is_dictionary(source) or pa.types.is_run_end_encoded(source):
        return delta_type(source.value_type)
    if (
        pa.types.is_string(source)
        or pa.types.is_large_string(source)
        or pa.types.is_string_view(source)
    ):
        return pa.string()
    if (
        pa.types.is_binary(source)
        or pa.types.is_large_binary(source)
        or pa.types.is_binary_view(source)
        or pa.types.is_fixed_size_binary(source)
    ):
        return pa.binary()
    if pa.types.is_timestamp(source):
        return pa.timestamp("us", tz="UTC" if source.tz else None)
    if pa.types.is_decimal(source):
        fits = source.precision <= 38 and source.scale >= 0
        return pa.decimal128(source.precision, source.scale) if fits else pa.string()
    if pa.types.is_map(source):
        key, item = delta_type(source.key_type), delta_type(source.item_type)
        return pa.map_(key, item) if key and item else None
    if pa.types.is_struct(source):
        if len({field.name.lower() for field in source}) < source.num_fields:
            return pa.string()  # Delta tells names apart by their letters, not by their case
        kept = [(field.name, delta_type(field.type)) for field in source]
        return (
            pa.struct([(name, kind) for name, kind in kept if kind])
            if any(k for _, k in kept)
            else None
        )
    if hasattr(source, "value_field"):  # every kind of list
        item = delta_type(source.value_type)
        return pa.list_(item) if item else None
    signed = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_date)
    return source if any(check(source) for check in signed) else pa.string()


def source_columns(schemas: Iterable[pa.Schema]) -> tuple[dict[str, pa.Field], list[str]]:
    """Merge the columns of all files of a source into the columns of one table.

    Args:
        schemas: the other columns of each file (no id, no text), in the files' order.

    Returns:
        Each source column's name with the table's field for it, and a warning for each column that
        is renamed, changed or dropped.
    """
    schemas = list(schemas)
    kinds_of: dict[str, set[pa.DataType]] = {}
    for field in chain.from_iterable(schemas):
        kinds_of.setdefault(field.name, set()).add(field.type)
    columns: dict[str, pa.Field] = {}
    warnings: list[str] = []
    taken = {name.lower() for name in RESERVED}
    for name, source in ((field.name, field.type) for field in common_schema(schemas)):
        kind, given = delta_type(source), name.removeprefix(SHADOWED)
        if kind is None:
            warnings.append(f"column {given!r} is dropped: Delta cannot hold {source}")
            continue
        target = given.translate(_FORBIDDEN) or "_"
        if given != name:
            target = f"source_{target}"
        while target.lower() in taken or target.startswith(INTERNAL):
            target = f"source_{target}"
        taken.add(target.lower())
        if target != given:
            hint = "; if it says which row is which: --id-column " + given if given == "id" else ""
            warnings.append(
                f"column {given!r} becomes {target!r}: the name is taken or Delta refuses it{hint}"
            )
        rounded = {pa.int64(), pa.uint64()} & kinds_of[name] if pa.types.is_floating(kind) else ()
        if rounded:
            warnings.append(
                f"column {given!r} holds whole numbers here and fractions there: it becomes {kind}, "
                "which rounds whole numbers beyond 2^53"
            )
        if kind == pa.string() and not _is_text(source):
            warnings.append(f"column {given!r} becomes text: Delta cannot hold {source}")
        columns[name] = pa.field(target, kind)
    return columns, warnings


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """All columns of several schemas, in order of appearance, each in a type that holds all its values."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            known = types.get(field.name)
            types[field.name] = field.type if known is None else _common_type(known, field.type)
    return pa.schema(list(types.items()))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind == pa.null() or delta_type(kind) == pa.string() and "string" in str(kind)


def _common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if left == right or pa.types.is_null(right):
        return left
    if (
        pa.uint64() in (left, right)
        and left != right
        and pa.types.is_integer(left)
        and pa.types.is_integer(right)
    ):
        return pa.decimal128(20, 0)
    if pa.types.is_null(left):
        return right
    try:
        unified = pa.unify_schemas(
            [pa.schema([("c", left)]), pa.schema([("c", right)])], promote_options="permissive"
        )
        return unified.field("c").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Bytes hold all that text does, as they do for pyarrow, so that the order does not matter.
        return pa.binary() if pa.binary() in map(delta_type, (left, right)) else pa.string()


def fit_columns(
    columns: dict[str, pa.Field], table: pa.Schema
) -> tuple[dict[str, pa.Field], list[pa.Field]]:
    """A source's columns in the types of an existing table, and the fields that this table lacks.

    Raises:
        SchemaError: a column's values do not fit the type that the table has for it.
    """
    result, missing = {}, []
    for name, field in columns.items():
        if field.name not in table.names:
            missing.append(field)
            result[name] = field
            continue
        held = _plain(table.field(field.name).type)
        if not _holds(held, field.type):
            raise SchemaError(
                f"Column {field.name!r} is {field.type} in the source and {held} in the table. "
                "Choose columns with --columns, or give another TABLE."
            )
        result[name] = pa.field(field.name, held)
    return result, missing


def _holds(held: pa.DataType, given: pa.DataType) -> bool:
    """True if a column of type `held` can hold every value of type `given`; text holds all values."""
    if pa.types.is_struct(held) and pa.types.is_struct(given):
        places = [(held.get_field_index(field.name), field.type) for field in given]
        return all(at >= 0 and _holds(held.field(at).type, kind) for at, kind in places)
    if pa.types.is_list(held) and pa.types.is_list(given):
        return _holds(held.value_type, given.value_type)
    return bool(held == pa.string() or _common_type(held, given) == held)


def _plain(kind: pa.DataType) -> pa.DataType:
    return delta_type(kind) or kind


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The nearest type that every kernel of Arrow supports, also within nested types.

    Views (which delta-rs writes), run ends and dictionaries, which `take` and casts know in part or
    not at all, become plain strings, bytes and lists. Other types stay as they are.
    """
    if isinstance(kind, pa.BaseExtensionType):
        storage = plain_type(kind.storage_type)
        return kind if storage == kind.storage_type else storage
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_map(kind):
        key, item = plain_type(kind.key_type), plain_type(kind.item_type)
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_union(kind):
        return kind if all(plain_type(f.type) == f.type for f in kind) else pa.string()
    if hasattr(kind, "value_field"):  # every kind of list
        item = kind.value_field.with_type(plain_type(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
        return pa.large_list(item) if is_large else pa.list_(item)
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return views.get(kind, kind)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with the `plain_type` of each field."""
    fields = [field.with_type(plain_type(field.type)) for field in schema]
    return pa.schema(fields, schema.metadata)


def labels_as_text(
    column: pa.ChunkedArray | pa.Array, name: str, place: str
) -> pa.ChunkedArray | pa.Array:
    """Cast a column of labels to strings.

    Args:
        column: of text, numbers, dates or the like.
        name: of the column, for the message.
        place: the table or source that has the column, for the message.

    Raises:
        SchemaError: the column holds something else, such as lists.
    """
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:  # invalid: bytes, no UTF-8
        raise SchemaError(
            f"Column {name!r} of {place} holds {column.type}, which is no label. Expected text or"
            " numbers."
        ) from error
