"""The embeddings table: its columns, and how a source's columns become columns of it.

One row an id: `id`, `content_hash`, `row_hash`, `text`, the source's other columns, `n_tokens`,
`truncated`, `embedding`, `embedded_at`; tables of passages also hold `parent_id`, `chunk`, `start`
and `end`. What the vectors are stands in the metadata of the field `embedding`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PASSAGE_FIELDS = (
    pa.field("parent_id", pa.string()),
    pa.field("chunk", pa.int32()),
    pa.field("start", pa.int64()),
    pa.field("end", pa.int64()),
)
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


class SchemaError(ValueError):
    """Rows that do not fit the table; the message says what to do."""


@dataclass(frozen=True)
class Fingerprint:
    """What the vectors of a table are, as it stands in the metadata of the field `embedding`.

    Attributes:
        model: the model's name, for display.
        dim: values a vector.
        space: two tables of one space may be compared.
        recipe: a row embedded by another recipe is due again.
        unit: whether every vector has norm 1.
        chunking: `chunk_tokens/chunk_overlap`, or empty where a row is a whole document.
    """

    model: str
    dim: int
    space: str
    recipe: str
    unit: bool = True
    chunking: str = ""

    def metadata(self) -> dict[str, str]:
        """The fingerprint as field metadata, one `embatch.NAME` each."""
        return {f"embatch.{name}": json.dumps(value) for name, value in asdict(self).items()}

    @property
    def comparable(self) -> tuple[str, int, bool]:
        """What all rows of a table must share; the recipe may differ for the time of a run."""
        return self.space, self.dim, bool(self.chunking)

    @property
    def field(self) -> pa.Field:
        """The field `embedding` of a file."""
        return pa.field("embedding", pa.list_(pa.float32(), self.dim), metadata=self.metadata())

    @classmethod
    def of(cls, schema: pa.Schema) -> "Fingerprint | None":
        """The fingerprint in a schema of a table or a file, None where there is none."""
        if "embedding" not in schema.names:
            return None
        metadata = {
            k.decode(): v.decode() for k, v in (schema.field("embedding").metadata or {}).items()
        }
        keys = {f"embatch.{field.name}": field.name for field in fields(cls)}
        if not keys.keys() <= metadata.keys():
            return None
        return cls(**{name: json.loads(metadata[key]) for key, name in keys.items()})


def delta_type(source: pa.DataType) -> pa.DataType | None:
    """The nearest type that Delta can hold, None where nothing of the column would be left."""
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
    """The one set of columns that holds a source's columns from all its files.

    Args:
        schemas: the other columns of each file (no id, no text), in the files' order.

    Returns:
        Each source column's name with the table's field for it, and a warning for each column that
        is renamed, changed or dropped.
    """
    columns: dict[str, pa.Field] = {}
    warnings: list[str] = []
    taken = {name.lower() for name in RESERVED}
    for name, source in ((field.name, field.type) for field in common_schema(schemas)):
        kind = delta_type(source)
        if kind is None:
            warnings.append(f"column {name!r} is dropped: Delta cannot hold {source}")
            continue
        target = name.translate(_FORBIDDEN) or "_"
        while target.lower() in taken:
            target = f"source_{target}"
        taken.add(target.lower())
        if target != name:
            warnings.append(
                f"column {name!r} becomes {target!r}: the name is taken or Delta refuses it"
            )
        if kind == pa.string() and not _is_text(source):
            warnings.append(f"column {name!r} becomes text: Delta cannot hold {source}")
        columns[name] = pa.field(target, kind)
    return columns, warnings


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Every column of the schemas, in order of appearance, in a type that holds all its values."""
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
        return pa.string()


def table_schema(
    columns: Iterable[pa.Field], fingerprint: Fingerprint, *, with_text: bool = True
) -> pa.Schema:
    """The schema of an embeddings table that holds these columns of a source."""
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *(PASSAGE_FIELDS if fingerprint.chunking else ()),
            pa.field("content_hash", pa.string()),
            pa.field("row_hash", pa.string()),
            *([pa.field("text", pa.string())] if with_text else ()),
            *columns,
            pa.field("n_tokens", pa.int32()),
            pa.field("truncated", pa.bool_()),
            fingerprint.field,
            pa.field("embedded_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def fitted(
    columns: dict[str, pa.Field], table: pa.Schema
) -> tuple[dict[str, pa.Field], list[pa.Field]]:
    """A source's columns as an existing table holds them, and those that it lacks.

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
        if held != pa.string() and _common_type(held, field.type) != held:
            raise SchemaError(
                f"Column {field.name!r} is {field.type} in the source and {held} in the table. "
                "Choose columns with --columns, or give another TABLE."
            )
        result[name] = pa.field(field.name, held)
    return result, missing


def _plain(kind: pa.DataType) -> pa.DataType:
    return delta_type(kind) or kind


def cast_column(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in the type that the table has for it; what has no cast becomes text (JSON)."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.type == kind:
        return column
    if "list_view" in str(column.type):
        return pa.array(column.to_pylist(), kind)  # pyarrow's cast of views with nulls is wrong
    try:
        if pa.types.is_timestamp(column.type) and pa.types.is_timestamp(kind):
            return pc.cast(column, kind, safe=False)  # nanoseconds are cut to microseconds
        if not (kind == pa.string() and pa.types.is_nested(column.type)):
            return pc.cast(column, kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        pass
    values = column.to_pylist()
    if kind == pa.string():
        return pa.array([_as_text(value) for value in values], kind)
    return pa.array(values, kind)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return (
        json.dumps(value, default=str, ensure_ascii=False)
        if isinstance(value, dict | list)
        else str(value)
    )


def vector_column(vectors: np.ndarray, *, half: bool = False) -> pa.FixedSizeListArray:
    """Vectors as the column `embedding`.

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
    """The column `embedding` as (n, dim) float32; works for lists of fixed and of free size.

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
