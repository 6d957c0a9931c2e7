"""The format of embatch's tables: which number a table carries, and how older tables are read.

The number stands in the metadata of a table's fields; where there is none, it is 0. A program reads
the tables of its own format and of all before it. To add a column to a kind of table: raise FORMAT,
say below what is new, and write the column into the kind's schema as `since(FORMAT, field)`. Tables
that lack it are read with nulls, and get it when rows are next added.

Formats:
    0: the number itself is missing.
    1: there is one.
"""

from collections.abc import Iterable

import pyarrow as pa

from schemas.delta.places import StoreError

FORMAT = 1
_KEY = b"embatch.format"


def since(number: int, field: pa.Field) -> pa.Field:
    """The field, marked as a column that tables have from this format on."""
    return field.with_metadata({**(field.metadata or {}), _KEY: str(number)})


def format_of(fields: Iterable[pa.Field]) -> int:
    """The format of a table with these fields; 0 where no field carries a number."""
    return max((int((field.metadata or {}).get(_KEY, 0)) for field in fields), default=0)


def stamp_format(schema: pa.Schema) -> pa.Schema:
    """The schema with today's format on its first field; a number that is there already stays."""
    first = schema.field(0)
    return schema if format_of([first]) else schema.set(0, since(FORMAT, first))


def refuse_newer(uri: str, schema: pa.Schema) -> None:
    """Raise a StoreError if a table is of a format that this program does not know."""
    if format_of(schema) > FORMAT:
        raise StoreError(
            f"Table {uri} is of format {format_of(schema)}, and this embatch knows formats up to "
            f"{FORMAT}: a newer embatch wrote it. Update embatch here, and run again."
        )


def is_of_kind(schema: pa.Schema, kind: pa.Schema) -> bool:
    """True if a table has the columns of a kind of table, in today's format or in the table's older one."""
    old = {field.name for field in kind if format_of([field]) <= format_of(schema)}
    return old <= set(schema.names) <= set(kind.names)


def missing_fields(schema: pa.Schema, kind: pa.Schema) -> list[pa.Field]:
    """The fields of a kind of table that a table of an older format does not have yet."""
    return [field for field in kind if field.name not in schema.names]


def upgrade_rows(rows: pa.Table, kind: pa.Schema) -> pa.Table:
    """The rows with all columns that their kind of table has today; a column that they lack is null."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in kind
    ]
    return pa.table(columns, schema=kind)
