import json

import numpy as np
import pytest
from deltalake import DeltaTable
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_info, threadpool_limits

import jobs.analysis.projections
from jobs.analysis.projections import fit_tsne, judge, place
from jobs.cli import main
from jobs.embed import run as embed
from jobs.project import ProjectConfig, run
from jobs.sync.config import EmbedConfig
from schemas.columns import SchemaError
from schemas.delta.store import StoreError, Table
from schemas.tables.projections import points_of
from schemas.vectors import vectors_of
from tests.support import tables
from tests.support.hash_model import HashModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:Tensorflow not installed"),
    pytest.mark.usefixtures("few_rows_here"),
]
METHODS = ["pca", "umap", "tsne"]


def rows(n, start=0):
    return {f"k{i:03}": (f"text {i}", "ab"[i % 2]) for i in range(start, start + n)}


def fill(folder, table, held, dim=16, **options):
    lines = [{"key": k, "text": text, "label": label} for k, (text, label) in held.items()]
    return tables.fill(folder, table, lines, HashModel(dim=dim), **options)


def on_map(path):
    table = Table.open(str(path)).read()
    return dict(zip(table["id"].to_pylist(), points_of(table).tolist(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_map_that_stays(tmp_path, method):
    table = fill(tmp_path, "t", rows(80))
    config = ProjectConfig(
        table, str(tmp_path / "map"), method=method, picture=str(tmp_path / "m.png")
    )
    summary = run(config)
    assert (summary.n, summary.n_fitted, summary.n_placed) == (80, 80, 0)
    assert 0.5 < summary.trustworthiness <= 1
    assert 0 < summary.kept_neighbours <= 1
    first = on_map(tmp_path / "map")
    assert np.isfinite(list(first.values())).all()
    again = run(ProjectConfig(table, str(tmp_path / "twin"), method=method))
    assert again.trustworthiness == summary.trustworthiness
    assert on_map(tmp_path / "twin") == first  # the same seed, the same map
    held = rows(83)
    del held["k005"]
    held["k007"] = ("another text", "a")
    fill(tmp_path, "t", held, prune=True)
    later = run(config)
    assert (later.n, later.n_fitted, later.n_placed) == (82, 0, 4)
    second = on_map(tmp_path / "map")
    assert set(second) == set(held)
    moved = {name for name in set(first) & set(second) if first[name] != second[name]}
    assert moved == {"k007"}
    DeltaTable(str(tmp_path / "map")).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert run(config).n_placed == 0
    assert on_map(tmp_path / "map") == second
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.format == "PNG"


def test_pca_is_that_of_scikit_learn(tmp_path):
    table = fill(tmp_path, "t", rows(60))
    run(ProjectConfig(table, str(tmp_path / "map"), method="pca", dim=3))
    held = Table.open(table).read(["id", "embedding"]).sort_by("id")
    want = PCA(3).fit_transform(vectors_of(held["embedding"]))
    np.testing.assert_allclose(list(on_map(tmp_path / "map").values()), want, atol=1e-5)
    other = fill(tmp_path, "other", rows(10, 55))
    run(ProjectConfig(other, str(tmp_path / "there"), onto=str(tmp_path / "map")))
    there, here = on_map(tmp_path / "there"), on_map(tmp_path / "map")
    for name in ("k055", "k059"):
        np.testing.assert_allclose(there[name], here[name], atol=1e-5)


def test_rows_of_another_table_on_the_map(tmp_path):
    table = fill(tmp_path, "t", rows(60))
    run(ProjectConfig(table, str(tmp_path / "map"), sample=40))
    other = fill(tmp_path, "other", rows(20, 50))
    summary = run(
        ProjectConfig(other, str(tmp_path / "there"), onto=str(tmp_path / "map"), method="pca")
    )
    assert (summary.n, summary.n_placed, summary.method) == (20, 20, "umap")
    corners = np.array(list(on_map(tmp_path / "map").values()))
    there = np.array(list(on_map(tmp_path / "there").values()))
    assert (there >= corners.min(axis=0)).all()
    assert (there <= corners.max(axis=0)).all()


@pytest.mark.slow
@pytest.mark.data
def test_new_articles_lie_with_their_kind(tmp_path, data_folder):
    """As well as if the map had been made anew, and no old point moves."""
    options = {"delimiter": ";", "quote": "'", "no_header": True, "text_column": "column_2"}
    options |= {"precision": "fp32"}
    lines = next((data_folder / "10kgnad").glob("*.csv")).read_text(encoding="utf-8").splitlines()
    chosen = np.random.default_rng(1).permutation(len(lines))
    source = tmp_path / "news.csv"

    def sync(n):
        source.write_text("\n".join(lines[at] for at in chosen[:n]), encoding="utf-8")
        table = str(tmp_path / "t")
        embed(EmbedConfig(str(source), table, "all-MiniLM-L6-v2", max_tokens=64, **options))
        return table

    config = ProjectConfig(sync(700), str(tmp_path / "map"))
    run(config)
    before = on_map(tmp_path / "map")
    sync(1028)
    summary = run(config)
    after = on_map(tmp_path / "map")
    assert summary.n_placed == len(after) - len(before) > 320
    assert all(after[name] == point for name, point in before.items())
    run(ProjectConfig(config.table, str(tmp_path / "anew")))
    anew = on_map(tmp_path / "anew")
    rows = Table.open(config.table).read(["id", "column_1"])
    label = dict(zip(rows["id"].to_pylist(), rows["column_1"].to_pylist(), strict=True))

    def accuracy(points):
        old, new = list(before), sorted(set(after) - set(before))
        known = KNeighborsClassifier(10).fit([points[n] for n in old], [label[n] for n in old])
        return known.score([points[n] for n in new], [label[n] for n in new])

    assert accuracy(after) >= accuracy(anew) - 0.03


def test_more_rows_than_are_fitted(tmp_path):
    table = fill(tmp_path, "t", rows(90))
    summary = run(ProjectConfig(table, str(tmp_path / "map"), method="tsne", sample=50, dim=3))
    assert (summary.n_fitted, summary.n_placed) == (50, 40)
    assert len(on_map(tmp_path / "map")) == 90


def test_a_row_is_placed_where_most_of_its_neighbours_are():
    angles = np.array([0.05, 0.1, 0.12, 0.15, 0.02, 1.5, 1.6])
    on_the_map = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    points = np.float32([[0, 0], [0.1, 0], [0, 0.1], [0.1, 0.1], [9, 9], [5, 5], [9, 0]])
    placed = place(np.float32([[1, 0]]), on_the_map, points)
    assert np.abs(placed).max() < 0.2  # the nearest neighbour lies alone, far away
    same = place(np.float32([[0, 1]]), on_the_map[5:6], points[5:6])
    np.testing.assert_allclose(same, [[5, 5]])


def test_quality_is_one_where_nothing_is_lost():
    chance = np.random.default_rng(0)
    angles = np.sort(chance.random(50)) * np.pi
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    quality = judge(circle, circle, 0)
    assert (quality.trustworthiness, quality.n) == (1.0, 50)
    assert quality.kept > 0.99
    shuffled = judge(circle, chance.permutation(circle), 0)
    assert shuffled.trustworthiness < 0.7
    assert judge(circle[:3], circle[:3], 0) is None


def test_mistakes_and_corners(tmp_path):
    table = fill(tmp_path, "t", rows(30))
    out = str(tmp_path / "map")
    with pytest.raises(ValueError, match="--dim is 4"):
        ProjectConfig(table, out, dim=4)
    with pytest.raises(StoreError, match="There is no map at"):
        run(ProjectConfig(table, out, onto=str(tmp_path / "t")))
    drawn = str(tmp_path / "m.png")
    with pytest.raises(StoreError, match="no column 'kind'"):
        run(ProjectConfig(table, out, method="pca", picture=drawn, label_column="kind"))
    assert not (tmp_path / "map").exists()
    run(ProjectConfig(table, out, method="pca"))
    with pytest.raises(StoreError, match="Give another OUT"):
        run(ProjectConfig(table, out, method="pca", dim=3))
    with pytest.raises(StoreError, match="two spaces"):
        run(ProjectConfig(fill(tmp_path, "u", rows(9), dim=8), str(tmp_path / "v"), onto=out))
    with pytest.raises(StoreError, match="3 rows, too few"):
        run(ProjectConfig(fill(tmp_path, "few", rows(3)), str(tmp_path / "w")))
    assert not (tmp_path / "w").exists()
    lists = fill(tmp_path, "lists", {k: (text, ["a"]) for k, (text, _) in rows(30).items()})
    with pytest.raises(SchemaError, match="'label' of .*/lists holds list<.*>, which is no label"):
        run(ProjectConfig(lists, str(tmp_path / "w")))
    assert not (tmp_path / "w").exists()
    same = fill(tmp_path, "same", {k: ("the same", "a") for k in rows(25)})
    for method in METHODS:
        assert run(ProjectConfig(same, str(tmp_path / f"same-{method}"), method=method)).n == 25
    old = {file.name for file in Table.open(table).files()}
    fill(tmp_path, "t", rows(30) | {"k001": ("new", "a")})
    for name in old - {file.name for file in Table.open(table).files()}:
        (tmp_path / "t" / name).unlink()
    with pytest.raises(StoreError, match="--refit makes a new map"):
        run(ProjectConfig(table, out, method="pca"))
    assert run(ProjectConfig(table, out, method="pca", refit=True)).n_fitted == 30
    assert jobs.analysis.projections.NEIGHBOURS == 15


def test_the_command(tmp_path, capsys):
    table = fill(tmp_path, "t", rows(30))
    arguments = ["project", table, str(tmp_path / "map"), "--method", "pca"]
    assert main(arguments) == 0
    assert "30  rows on the map (pca)" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["n"], found["n_fitted"]) == (30, 0)


def test_few_points_of_a_tsne_map_are_fitted_by_one_thread(monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((31, 8)).astype(np.float32)
    threads, fit = [], TSNE.fit_transform

    def spy(self, rows):
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(self, rows)

    theirs = TSNE(perplexity=10, metric="cosine", init="pca", random_state=3).fit_transform(vectors)
    with threadpool_limits(2):
        monkeypatch.setattr(TSNE, "fit_transform", spy)
        points = fit_tsne(vectors, 2, seed=3)
        assert set(threads) == {1}
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    np.testing.assert_array_equal(points, theirs)
    threads.clear()
    monkeypatch.setattr(jobs.analysis.projections, "POINTS_A_THREAD", 10)
    monkeypatch.setattr(jobs.analysis.projections, "cores", lambda: 2)
    fit_tsne(vectors, 2, seed=3)
    assert set(threads) == {2}
