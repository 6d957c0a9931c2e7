"""Names of classes in place of their numbers, for datasets whose rows hold numbers alone."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

_KEY = b"huggingface"  # in the metadata of Parquet files that `datasets` wrote


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of classes by column, from the metadata of a Parquet schema; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {})[_KEY])["info"]["features"].items()
        told = {column: f["names"] for column, f in features if f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    numbers = {field.name for field in schema if pa.types.is_integer(field.type)}
    return {column: names for column, names in told.items() if column in numbers}


def with_class_names(table: pa.Table, names: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table with names of classes in its columns of class numbers.

    A negative number is no class and becomes null; a number that has no name stays, as text.
    """
    for column, known in names.items():
        if column not in table.column_names:
            continue
        told = dict(enumerate(known))
        labels = (
            None if number is None or number < 0 else told.get(number, str(number))
            for number in table[column].to_pylist()
        )
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, pa.array(labels, pa.string()))
    return table
