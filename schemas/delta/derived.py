"""Tables that a follow-up job makes of other tables: open one, or replace all its rows in one commit."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from schemas.delta.formats import is_of_kind
from schemas.delta.fragments import new_name, write_tables
from schemas.delta.places import refuse_other_content
from schemas.delta.store import StoreError, Table

UPKEEP = ("VACUUM START", "VACUUM END", "OPTIMIZE")  # commits that leave the rows as they are


def open_derived(uri: str, schema: pa.Schema, options: Mapping[str, str]) -> Table | None:
    """Open the table of a follow-up job; None where there is no table yet.

    Raises:
        StoreError: a table of another kind lies there, or other files.
    """
    out = Table.open(uri, options)
    if out is None:
        refuse_other_content(uri, options)
    elif not is_of_kind(out.schema, schema):
        raise StoreError(f"{uri} is a table of {', '.join(out.schema.names)}. Give another OUT.")
    return out


def note_of(table: Table) -> dict[str, Any]:
    """Metadata of the commit by which embatch wrote the table's rows; empty if another tool wrote them."""
    for commit in table.history():
        note: dict[str, Any] = commit.get("note", {})
        if commit.get("operation") not in UPKEEP and note.get("command") != "vacuum":
            return note
    return {}


def write_derived(
    out: Table | None,
    uri: str,
    schema: pa.Schema,
    rows: Iterable[pa.Table],
    note: Mapping[str, Any],
    options: Mapping[str, str],
) -> Table:
    """Replace all rows of a derived table; create the table where there is none.

    Args:
        out: The table, None where there is none yet.
        uri: Where the table is, or will be.
        schema: Of the rows.
        rows: Written as they come.
        note: Metadata of the commit: the command, the tables read, their versions.
        options: For the object store.
    """
    run = uuid.uuid4().hex[:12]
    if out is None:  # a kill before the rows are there must not look like a run that is done
        out = Table.create(uri, schema, {"run": run, "state": "begun"}, options)
    note = {"run": run, "state": "done", **note}
    fragment = write_tables(out.filesystem, new_name(run, "0"), schema, rows)
    out.overwrite(note, schema, [fragment] if fragment.n_rows else [])
    return out
