"""The file for embedding-atlas, and vectors in faiss and Lance as they are exported."""

import importlib.util
import io
import json
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.export import ExportConfig, run
from schemas.delta.store import StoreError, Table
from tests.support.hash_model import HashModel
from tests.support.tables import fill

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


@pytest.fixture
def table(tmp_path):
    rows = [{"key": f"k{i:02}", "text": f"text {i}", "n": i} for i in range(40)]
    return fill(tmp_path, "t", rows, HashModel())


def test_what_embedding_atlas_reads(table, tmp_path, capsys):
    plan, near = str(tmp_path / "map"), str(tmp_path / "near")
    file = str(tmp_path / "atlas.parquet")
    assert main(["project", table, plan, "--method", "pca"]) == 0
    assert main(["neighbours", table, near, "--k", "4"]) == 0
    assert main(["export", table, file, "--for", "atlas", "--map", plan, "--neighbours", near]) == 0
    assert "--x projection_x --y projection_y --neighbors neighbors" in capsys.readouterr().out
    schema = pq.read_schema(file)
    assert schema.field("projection_x").type == schema.field("projection_y").type == pa.float64()
    assert "embedding" not in schema.names
    rows = pd.read_parquet(file)
    assert len(rows) == 40
    pairs = Table.open(near).read().to_pandas()
    for number, row in rows.iterrows():
        mine = pairs[pairs["id"] == row["id"]].sort_values("rank")
        assert rows["id"][row["neighbors"]["ids"]].tolist() == mine["neighbour_id"].tolist()
        assert number not in row["neighbors"]["ids"]
        np.testing.assert_allclose(row["neighbors"]["distances"], 1 - mine["similarity"], atol=1e-6)


def test_mistakes_are_told(table, tmp_path):
    file, plan = str(tmp_path / "a.parquet"), str(tmp_path / "map")
    with pytest.raises(ValueError, match="--for atlas and --map go together"):
        ExportConfig(table, file=file, for_="atlas")
    with pytest.raises(ValueError, match="Add --for atlas --map"):
        ExportConfig(table, file=file, neighbours="n")
    with pytest.raises(StoreError, match="is no map of two dimensions"):
        run(ExportConfig(table, file=file, for_="atlas", map=table))
    assert main(["project", table, plan, "--method", "pca"]) == 0
    with pytest.raises(StoreError, match="no table that `embatch neighbours` makes"):
        run(ExportConfig(table, file=file, for_="atlas", map=plan, neighbours=plan))
    fill(tmp_path, "t", [{"key": "new", "text": "new", "n": 1}], HashModel())
    with pytest.raises(StoreError, match="1 rows of .* brings it up to date"):
        run(ExportConfig(table, file=file, for_="atlas", map=plan))
    assert not (tmp_path / "a.parquet").exists()


def test_faiss_takes_exported_vectors_as_they_are(table, tmp_path):
    faiss = pytest.importorskip("faiss")
    file = str(tmp_path / "t.parquet")
    run(ExportConfig(table, file=file))
    column = pq.read_table(file)["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    assert (index.search(vectors, 1)[1][:, 0] == np.arange(40)).all()


IN_LANCE = """
import sys, lance, pyarrow.parquet as pq
rows = pq.read_table(sys.argv[1])
dataset = lance.write_dataset(rows, sys.argv[2])
query = rows["embedding"][7].values.to_numpy()
found = dataset.to_table(nearest={"column": "embedding", "q": query, "k": 1})
assert found["id"].to_pylist() == rows["id"].slice(7, 1).to_pylist(), found
"""


def test_lance_takes_the_exported_table_as_it_is(table, tmp_path):
    if importlib.util.find_spec("lance") is None:
        pytest.skip("Lance is not installed: pip install pylance")
    run(ExportConfig(table, file=str(tmp_path / "t.parquet")))
    # In a process of its own: once imported, Lance warns of every fork.
    asked = [sys.executable, "-c", IN_LANCE, str(tmp_path / "t.parquet"), str(tmp_path / "t.lance")]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def atlas(request):
    """The program embedding-atlas, in a virtual environment of its own: it wants another pandas."""
    folder = request.config.cache.mkdir("embedding-atlas") / "venv"
    program = folder / "bin" / "embedding-atlas"
    if not program.exists():
        venv.create(folder, with_pip=True)
        wanted = ["torch==2.13.0", "embedding-atlas"]
        asked = [folder / "bin" / "pip", "install", "--quiet", *wanted]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"embedding-atlas cannot be installed here: {done.stderr[-300:]}")
    return str(program)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_embedding_atlas_opens_the_file(atlas, table, tmp_path):
    plan, near = str(tmp_path / "map"), str(tmp_path / "near")
    file, site = str(tmp_path / "atlas.parquet"), str(tmp_path / "site.zip")
    assert main(["project", table, plan, "--method", "pca"]) == 0
    assert main(["neighbours", table, near, "--k", "4"]) == 0
    assert main(["export", table, file, "--for", "atlas", "--map", plan, "--neighbours", near]) == 0
    asked = [atlas, file, "--text", "text", "--x", "projection_x", "--y", "projection_y"]
    asked += ["--neighbors", "neighbors", "--degree", "--export-application", site]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(site) as archive:
        shown = json.loads(archive.read("data/metadata.json"))["props"]["data"]
        rows = pq.read_table(io.BytesIO(archive.read("data/dataset.parquet")))
    assert shown["projection"] == {"x": "projection_x", "y": "projection_y"}
    assert (shown["text"], shown["neighbors"]) == ("text", "neighbors")
    # It counts who names whom as a neighbour: so it has read them as they were meant.
    pairs = Table.open(near).read()["neighbour_id"].to_pylist()
    (column,) = (name for name in rows.column_names if "in_degree" in name.lower())
    degrees = dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))
    assert degrees == {name: pairs.count(name) for name in degrees}
