import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import settings

from schemas.delta.fragments import Fragment, write_rows
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint, table_schema
from schemas.vectors import vector_column

settings.register_profile("no deadline", deadline=None)  # machines are shared
settings.load_profile("no deadline")

FINGERPRINT = Fingerprint("hash", 4, "space-1", "recipe-1")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), 4), metadata=FINGERPRINT.metadata()),
    ]
)


def rows_of(ids, start=0):
    """Rows of SCHEMA: an id's vector begins with its place, counted from `start`."""
    vectors = np.zeros((len(ids), 4), np.float32)
    vectors[:, 0] = np.arange(start, start + len(ids))
    return pa.table([pa.array(ids, pa.string()), vector_column(vectors)], schema=SCHEMA)


def write(table: Table, name: str, ids) -> Fragment:
    return write_rows(table.filesystem, name, rows_of(ids))


def ids_in(table: Table) -> list[str]:
    return sorted(table.read(["id"])["id"].to_pylist())


def append_foreign(uri, ids):
    """Rows from another tool, which knows nothing of claims and fences."""
    schema = pa.schema(DeltaTable(uri).schema().to_arrow())
    write_deltalake(uri, rows_of(ids).cast(schema), mode="append")


def note(run="run-1", state="wave"):
    return {"run": run, "host": "elsewhere", "pid": 1, "started": 1, "state": state}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "table")


@pytest.fixture
def table(uri):
    """A table of one file: ids a and b."""
    made = Table.create(uri, SCHEMA, note(state="claim"))
    made.commit(note(), add=[write(made, "first.parquet", ["a", "b"])])
    return made


@pytest.fixture
def full_schema():
    return table_schema([pa.field("label", pa.string())], FINGERPRINT)
