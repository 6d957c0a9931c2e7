import json
import subprocess
import sys

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from jobs.embed import run
from jobs.sync.config import EmbedConfig
from tests.support.hash_model import HashModel, vector_of


def dataset_of(table):
    """Read by Arrow itself: its threads must hold nothing of Python's when the interpreter ends."""
    folder = SubTreeFileSystem(str(table), LocalFileSystem())
    return DeltaTable(table).to_pyarrow_dataset(filesystem=folder)


def with_pandas(table, folder):
    frame = pd.concat(
        pd.read_parquet(uri, columns=["text", "embedding"]) for uri in DeltaTable(table).file_uris()
    )
    return dict(zip(frame["text"], frame["embedding"], strict=True))


def with_deltalake(table, folder):
    folder = SubTreeFileSystem(str(table), LocalFileSystem())
    frame = DeltaTable(table).to_pandas(columns=["text", "embedding"], filesystem=folder)
    return dict(zip(frame["text"], frame["embedding"], strict=True))


def with_polars(table, folder):
    frame = pl.scan_pyarrow_dataset(dataset_of(table)).select("text", "embedding").collect()
    return dict(zip(frame["text"].to_list(), frame["embedding"].to_list(), strict=True))


def with_duckdb(table, folder):
    rows = dataset_of(table)
    assert "rows" in locals()  # DuckDB finds it by its name
    return dict(duckdb.sql("select text, embedding from rows").fetchall())


def with_datasets(table, folder):
    files = DeltaTable(table).file_uris()
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(folder / "cache")
    )
    assert rows.features["embedding"].length == 8
    return dict(zip(rows["text"], rows["embedding"], strict=True))


READERS = [with_pandas, with_deltalake, with_polars, with_duckdb, with_datasets]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, few_rows_here):
    """A table after its first run, and another one after a refresh, each with its texts."""
    folder = tmp_path_factory.mktemp("readers")
    first = {n: f"text {n}" for n in range(30)}
    later = {n: f"text {n}!" if n < 5 else f"text {n}" for n in range(2, 40)}
    made = {}
    for name, versions in {"first": [first], "refreshed": [first, later]}.items():
        for texts in versions:
            rows = [{"id": str(n), "text": text, "label": "x"} for n, text in texts.items()]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            table = str(folder / name)
            source = str(folder / f"{name}.jsonl")
            run(EmbedConfig(source, table, "hash", id_column="id", prune=True), HashModel())
        made[name] = (table, sorted(texts.values()))
    return made


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("state", ["first", "refreshed"])
def test_a_table_is_read_with_the_right_rows_and_vectors(tables, tmp_path, read, state):
    table, texts = tables[state]
    vectors = read(table, tmp_path)
    assert sorted(vectors) == texts
    for text, vector in vectors.items():
        np.testing.assert_allclose(np.asarray(vector), vector_of(text), atol=1e-6)


LINES = """
from deltalake import DeltaTable
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

table = DeltaTable({place!r})
folder = SubTreeFileSystem({place!r}, LocalFileSystem())
frame = table.to_pandas(filesystem=folder)
dataset = table.to_pyarrow_dataset(filesystem=folder)
rows = dataset.to_table()
print(len(frame), len(rows))
"""


def test_scripts_that_read_a_table_end_well(tables):
    """Files of deltalake's own are Python objects: dropped by Arrow's threads at the end, they abort."""
    place, texts = tables["refreshed"]
    for _ in range(3):
        script = [sys.executable, "-c", LINES.format(place=place)]
        done = subprocess.run(script, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"{len(texts)} {len(texts)}\n"), done.stderr


@pytest.mark.parametrize("read", READERS)
def test_no_reader_goes_through_files_that_are_python_objects(tables, tmp_path, monkeypatch, read):
    opened, real = [], DeltaStorageHandler.open_input_file

    def note(handler, path):
        opened.append(path)
        return real(handler, path)

    monkeypatch.setattr(DeltaStorageHandler, "open_input_file", note)
    place, texts = tables["first"]
    assert (sorted(read(place, tmp_path)), opened) == (texts, [])
