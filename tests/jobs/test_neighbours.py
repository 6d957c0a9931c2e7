import json

import numpy as np
import pyarrow as pa
import pytest

import jobs.analysis.nearest_on_ray
from jobs.analysis.nearest import nearest
from jobs.analysis.nearest_on_ray import nearest_through_ray
from jobs.cli import main
from jobs.neighbours import NeighboursConfig, run
from schemas.delta.store import StoreError, Table
from schemas.vectors import vectors_of
from tests.support import tables
from tests.support.hash_model import HashModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


def fill(folder, table, texts, dim=16, **options):
    rows = [{"key": key, "text": text} for key, text in texts.items()]
    return tables.fill(folder, table, rows, HashModel(dim=dim), **options)


def texts(n, start=0):
    return {f"k{index:04}": f"text {index}" for index in range(start, start + n)}


def near(folder, out="out", **options):
    return run(NeighboursConfig(str(folder / "base"), str(folder / out), **options))


def table_of(path):
    return Table.open(str(path)).read()


def expected(folder, k, base="base", queries=None):
    rows = table_of(folder / base).sort_by("id")
    ids, vectors = rows["id"].to_pylist(), vectors_of(rows["embedding"])
    other = rows if queries is None else table_of(folder / queries).sort_by("id")
    found = nearest(vectors, k, None if queries is None else vectors_of(other["embedding"]))
    return [
        (name, rank + 1, ids[index], similarity)
        for name, line, values in zip(
            other["id"].to_pylist(), found.indices, found.similarities.tolist(), strict=True
        )
        for rank, (index, similarity) in enumerate(zip(line, values, strict=True))
        if index >= 0
    ]


def held(folder, out="out"):
    rows = table_of(folder / out)
    return list(zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True))


def test_a_table_with_itself(tmp_path):
    fill(tmp_path, "base", texts(300))
    summary = near(tmp_path, k=5)
    assert (summary.n, summary.n_base, summary.n_searched, summary.table_version) == (
        300,
        300,
        300,
        1,
    )
    assert held(tmp_path) == expected(tmp_path, 5)
    assert table_of(tmp_path / "out").schema.field("rank").type == pa.int32()


def test_queries_of_another_table(tmp_path):
    fill(tmp_path, "base", texts(200))
    fill(tmp_path, "asked", texts(50, 180))
    near(tmp_path, queries=str(tmp_path / "asked"), k=3)
    rows = held(tmp_path)
    assert rows == expected(tmp_path, 3, queries="asked")
    same = [row for row in rows if row[1] == 1 and row[0] < "k0200"]
    assert all(row[0] == row[2] and row[3] == pytest.approx(1) for row in same)


def changed(n=300):
    """Some went, some came, some have another text, one is a twin of another."""
    now = texts(n)
    for index in (3, 77, 150):
        del now[f"k{index:04}"]
    now |= {"k0010": "other words", "k0200": "still others", "z1": "new", "z2": "text 40"}
    return now


def test_a_refresh_gives_what_a_fresh_run_gives_and_compares_less(tmp_path):
    fill(tmp_path, "base", texts(300))
    near(tmp_path, k=4)
    fill(tmp_path, "base", changed(), prune=True)
    summary = near(tmp_path, k=4)
    assert 4 <= summary.n_searched < 60
    assert held(tmp_path) == expected(tmp_path, 4)
    again = near(tmp_path, k=4)
    assert again.n_searched == 0
    assert held(tmp_path) == expected(tmp_path, 4)
    anew = near(tmp_path, k=4, anew=True)
    assert anew.n_searched == anew.n == 299
    other_k = near(tmp_path, k=6)
    assert other_k.n_searched == 299
    assert held(tmp_path) == expected(tmp_path, 6)


def test_a_refresh_of_queries_and_base(tmp_path):
    fill(tmp_path, "base", texts(200))
    fill(tmp_path, "asked", texts(90, 150))
    asked = {"queries": str(tmp_path / "asked"), "k": 3}
    near(tmp_path, **asked)
    fill(tmp_path, "base", changed(200) | {"k0160": "moved"}, prune=True)
    fill(tmp_path, "asked", texts(92, 148) | {"k0170": "another question"}, prune=True)
    summary = near(tmp_path, **asked)
    assert 3 <= summary.n_searched < 40
    assert held(tmp_path) == expected(tmp_path, 3, queries="asked")


def test_a_small_table_that_grows(tmp_path):
    fill(tmp_path, "base", texts(3))
    near(tmp_path, k=5)
    assert held(tmp_path) == expected(tmp_path, 5)
    assert len(held(tmp_path)) == 6
    fill(tmp_path, "base", texts(40))
    near(tmp_path, k=5)
    assert held(tmp_path) == expected(tmp_path, 5)
    assert len(held(tmp_path)) == 200


def test_one_row_and_rows_that_are_all_the_same(tmp_path):
    fill(tmp_path, "base", texts(1))
    assert near(tmp_path).mean_similarity is None
    assert held(tmp_path) == []
    fill(tmp_path, "base", dict.fromkeys(texts(40), "the same"), prune=True)
    near(tmp_path, k=2)
    assert [row[2] for row in held(tmp_path)][:4] == ["k0001", "k0002", "k0000", "k0002"]


def test_when_the_past_was_swept_all_is_compared(tmp_path):
    fill(tmp_path, "base", texts(50))
    near(tmp_path, k=2)
    old = {file.name for file in Table.open(str(tmp_path / "base")).files()}
    fill(tmp_path, "base", texts(50) | {"k0001": "other"})
    for name in old - {file.name for file in Table.open(str(tmp_path / "base")).files()}:
        (tmp_path / "base" / name).unlink()
    assert near(tmp_path, k=2).n_searched == 50
    assert held(tmp_path) == expected(tmp_path, 2)


def test_what_is_derived_has_a_status_and_its_old_files_can_go(tmp_path, capsys):
    fill(tmp_path, "base", texts(40))
    for n in (40, 42, 44):
        fill(tmp_path, "base", texts(n))
        near(tmp_path, k=3)
    assert main(["status", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "rows      132" in told
    assert "command   neighbours" in told
    assert main(["vacuum", str(tmp_path / "out"), "--hours", "0", "--json"]) == 0
    swept = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert len(swept) >= 1
    assert near(tmp_path, k=3).n_searched == 0
    assert held(tmp_path) == expected(tmp_path, 3)


def test_mistakes_are_told(tmp_path):
    fill(tmp_path, "base", texts(5))
    fill(tmp_path, "other", texts(5), dim=8)
    with pytest.raises(ValueError, match="--k is 0"):
        near(tmp_path, k=0)
    with pytest.raises(StoreError, match="no table of vectors at"):
        near(tmp_path, queries=str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="two spaces"):
        near(tmp_path, queries=str(tmp_path / "other"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"no table and not empty \(it holds notes.txt\)"):
        run(NeighboursConfig(str(tmp_path / "base"), str(tmp_path / "mine")))
    with pytest.raises(StoreError, match="Give another OUT"):
        near(tmp_path, out="other")
    fill(tmp_path, "base", {"a": ""}, prune=True, force_prune=True, max_failures=1.0)
    with pytest.raises(StoreError, match="holds no rows"):
        near(tmp_path)


def test_the_command(tmp_path, capsys):
    fill(tmp_path, "base", texts(30))
    arguments = ["neighbours", str(tmp_path / "base"), str(tmp_path / "out"), "--k", "3"]
    assert main(arguments) == 0
    assert "30  rows with 3 neighbours each" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["n"], found["k"], found["n_searched"]) == (30, 3, 0)


@pytest.mark.parametrize("own", [True, False])
def test_tiles_through_ray(local_ray, own):
    chance = np.random.default_rng(3)
    base = chance.normal(size=(250, 8)).round(1).astype(np.float32)
    queries = None if own else chance.normal(size=(90, 8)).round(1).astype(np.float32)
    told = []
    found = nearest_through_ray(local_ray, base, 4, queries, told.append, tile_rows=64)
    want = nearest(base, 4, queries)
    np.testing.assert_array_equal(found.indices, want.indices)
    np.testing.assert_array_equal(found.similarities, want.similarities)
    assert len(told) == (10 if own else 8)
    assert jobs.analysis.nearest_on_ray.TILE_ROWS > 64


@pytest.mark.parametrize("own", [True, False])
def test_an_index_says_what_it_misses(tmp_path, own):
    pytest.importorskip("faiss")
    fill(tmp_path, "base", texts(900))
    fill(tmp_path, "asked", texts(80, 850))
    asked = {} if own else {"queries": str(tmp_path / "asked")}
    summary = near(tmp_path, k=5, index="faiss", **asked)
    assert 0.95 <= summary.recall <= 1
    found = {(row[0], row[2]) for row in held(tmp_path)}
    want = expected(tmp_path, 5, queries=None if own else "asked")
    share = len(found & {(row[0], row[2]) for row in want}) / len(want)
    assert share == pytest.approx(summary.recall, abs=0.03)
    assert not own or all(row[0] != row[2] for row in held(tmp_path))
    exact = near(tmp_path, k=5, **asked)
    assert exact.n_searched == exact.n
    assert held(tmp_path) == want
