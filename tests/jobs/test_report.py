import json
import re
import shutil
import zipfile

import pytest

from jobs.cli import main
from jobs.report import ReportConfig, run
from schemas.delta.store import StoreError
from tests.support import tables as made
from tests.support.hash_model import HashModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:Tensorflow not installed"),
    pytest.mark.usefixtures("few_rows_here"),
]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> <b>bold</b> @PLOTLY@ @DATA@"
FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-unsafe-swiftshader"
).split()


def fill(folder, n, **options):
    rows = [{"key": f"k{i:05}", "text": f"text {i}", "label": "ab"[i % 2]} for i in range(n)]
    rows[3]["text"], rows[5]["text"] = EVIL, ""
    return made.fill(folder, "t", rows, HashModel(), **options)


@pytest.fixture
def tables(tmp_path):
    table, plan, near = fill(tmp_path, 60), str(tmp_path / "map"), str(tmp_path / "near")
    assert main(["project", table, plan, "--method", "pca"]) == 0
    assert main(["neighbours", table, near, "--k", "4"]) == 0
    assert main(["project", table, str(tmp_path / "onto"), "--onto", plan]) == 0
    return table, plan, near


def held(path):
    """What a page holds."""
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    return page, json.loads(data)


def test_a_page_holds_what_it_shows(tables, tmp_path):
    out = tmp_path / "r.html"
    summary = run(ReportConfig(tables, out=str(out)))
    page, data = held(out)
    assert (summary.rows, summary.size_bytes) == (59, out.stat().st_size)
    points = data["points"]
    assert len(points["x"]) == len(points["id"]) == len(data["neighbours"]["index"]) == 59
    assert points["text"][points["id"].index("k00003")] == EVIL[:100]
    assert "<script>alert" not in page
    assert [points["labels"][code] for code in points["label"][:2]] == ["a", "b"]
    assert data["failures"] == [["text is empty", 1]]
    assert sum(data["lengths"]["count"]) == 59
    told = dict(map(tuple, data["tables"][0][1]))
    assert told["Model"] == "hash"
    assert any(name.startswith("Neighbours: ") for name in told)
    assert data["tables"][1][1][0][1] == "embedded 59, failed 1"


def test_a_table_alone_is_shown_on_its_principal_components(tmp_path):
    out = tmp_path / "r.html"
    run(ReportConfig((fill(tmp_path, 8, max_failures=1.0),), out=str(out)))
    data = held(out)[1]
    assert "principal components" in data["subtitle"]
    assert data["neighbours"] is None
    assert data["crosses"] == []


def test_small_pictures_come_from_the_folder_that_was_embedded(tmp_path, photos, small_clip):
    table, out = str(tmp_path / "t"), tmp_path / "r.html"
    assert main(["embed", str(photos), table, "--model", str(small_clip / "model")]) == 0
    run(ReportConfig((table,), out=str(out)))
    assert held(out)[1]["points"]["image"] == [None] * 12
    first, second = photos / "cat" / "01.png", photos / "cat" / "03.png"
    (tmp_path / "elsewhere.png").write_bytes(first.read_bytes())
    first.unlink()
    first.symlink_to(tmp_path / "elsewhere.png")
    second.unlink()
    run(ReportConfig((table,), out=str(out), images=str(photos)))
    images = held(out)[1]["points"]["image"]
    assert images[:2] == [None, None]
    assert all(image.startswith("data:image/jpeg;base64,") for image in images[2:])


def test_mistakes_are_told(tables, tmp_path):
    table, plan, near = tables
    with pytest.raises(ValueError, match="there is no such folder"):
        ReportConfig((table,), images=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="ends in .html"):
        ReportConfig((table,), out="report.pdf")
    for named, message in (
        ((plan,), "None of the tables holds vectors"),
        ((table, near, near), "second table of neighbours"),
        ((table, str(tmp_path / "nowhere")), "There is no table at"),
        ((table, f"{table}.failures"), "no table that a page shows"),
    ):
        with pytest.raises(StoreError, match=message):
            run(ReportConfig(named, out=str(tmp_path / "r.html")))
    other = made.fill(tmp_path, "other", [{"key": "x", "text": "x"}, {"key": "y", "text": "y"}])
    with pytest.raises(StoreError, match="share 0 ids, expected three or more"):
        run(ReportConfig((table,), out=str(tmp_path / "r.html"), before=other))
    with pytest.raises(StoreError, match="no column 'kind'"):
        run(ReportConfig((table,), out=str(tmp_path / "r.html"), label_column="kind"))
    assert not (tmp_path / "r.html").exists()


@pytest.fixture
def browser():
    """Chromium, to open pages in."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=binary, args=FLAGS)
        yield chromium
        chromium.close()


def open_page(browser, path):
    """A page that has drawn itself, and what it said and asked for."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    said = []
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: said.append(r.url) if not r.url.startswith("file:") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    return page, said


def place_of(page, row):
    """Where a row's point is in the window."""
    return page.evaluate(
        """row => {
            const map = document.getElementById("map"), box = map.getBoundingClientRect();
            const { xaxis, yaxis } = map._fullLayout;
            return [box.x + xaxis._offset + xaxis.l2p(points.x[row]), box.y + yaxis._offset + yaxis.l2p(points.y[row])];
        }""",
        row,
    )


def test_the_page_in_a_browser(browser, tables, tmp_path):
    run(ReportConfig(tables, out=str(tmp_path / "r.html")))
    data = held(tmp_path / "r.html")[1]
    page, said = open_page(browser, tmp_path / "r.html")
    drawn = page.evaluate("document.getElementById('map').data.reduce((n, t) => n + t.x.length, 0)")
    assert drawn == 59
    row = data["points"]["id"].index("k00003")
    page.mouse.move(*place_of(page, row))
    page.wait_for_selector(".hovertext", timeout=10_000)
    assert "</script><script>alert(1)" in page.text_content(".hovertext")
    page.mouse.click(*place_of(page, row))
    page.wait_for_selector(".chosen")
    assert EVIL[:100] in page.inner_text(".chosen")
    near = [data["points"]["text"][other] for other in data["neighbours"]["index"][row]]
    shown = page.locator("#found li").all_inner_texts()
    assert len(shown) == len(near) == 4
    assert all(text in line for text, line in zip(near, shown, strict=True))
    page.fill("#search", "text 17")
    assert "1 rows hold these words" in page.inner_text("#chosen")
    assert page.locator("#found li").all_inner_texts() == ["text 17"]
    assert "text is empty" in page.inner_text("#more")
    assert said == []


def test_a_map_of_three_dimensions_beside_what_was_before(browser, tmp_path):
    table, space = fill(tmp_path, 60), str(tmp_path / "space")
    past = made.fill(
        tmp_path, "past", [{"key": f"k{i:05}", "text": f"text {i}"} for i in range(40)]
    )
    assert main(["project", table, space, "--method", "pca", "--dim", "3"]) == 0
    run(ReportConfig((table, space), before=past, out=str(tmp_path / "r.html")))
    data = held(tmp_path / "r.html")[1]
    assert len(data["points"]["z"]) == 59
    assert sum(x is not None for x in data["before"]["x"]) == 39  # one text was empty
    assert {"knn_accuracy", "silhouette"} == set(data["before"]["separation"][0][1])
    page, said = open_page(browser, tmp_path / "r.html")
    kinds = page.evaluate("document.getElementById('map').data.map(trace => trace.type)")
    assert set(kinds) == {"scatter3d"}
    page.fill("#search", "text 17")
    assert page.locator("#found li").all_inner_texts() == ["text 17"]
    page.click("#found li")
    assert "text 17" in page.inner_text(".chosen")
    assert "How far labels lie apart" in page.inner_text("#more")
    assert said == []


def map_and_neighbours(table):
    """Both, as a person would make them; their places."""
    plan, near = f"{table}-map", f"{table}-near"
    assert main(["project", table, plan]) == 0
    assert main(["neighbours", table, near, "--k", "5"]) == 0
    return plan, near


def look_at(browser, path):
    """Open a page as a person would: hover over a point, click it; what it then shows."""
    data = held(path)[1]
    page, said = open_page(browser, path)
    drawn = page.evaluate("document.getElementById('map').data.reduce((n, t) => n + t.x.length, 0)")
    assert drawn == len(data["points"]["x"])
    page.mouse.move(*place_of(page, 0))
    page.wait_for_selector(".hovertext, #hover img", timeout=10_000)
    page.mouse.click(*place_of(page, 0))
    page.wait_for_selector(".chosen")
    assert page.locator("#found li").count() == 5
    assert said == []
    return page


@pytest.mark.slow
@pytest.mark.data
def test_the_page_of_a_thousand_articles(browser, data_folder, tmp_path):
    table = str(tmp_path / "articles")
    asked = ["--delimiter", ";", "--quote", "'", "--no-header", "--text-column", "column_2"]
    source = str(data_folder / "10kgnad" / "test.csv")
    asked += ["--columns", "column_1", "--model", "all-MiniLM-L6-v2"]
    assert main(["embed", source, table, *asked]) == 0
    out = str(tmp_path / "r.html")
    shown = [table, *map_and_neighbours(table), "--label-column", "column_1", "--out", out]
    assert main(["report", *shown]) == 0
    page = look_at(browser, tmp_path / "r.html")
    word = max(held(tmp_path / "r.html")[1]["points"]["text"][0].split(), key=len)
    page.fill("#search", word)
    assert page.locator("#found li").count() > 0


@pytest.mark.slow
@pytest.mark.data
def test_the_page_of_a_thousand_photos(browser, data_folder, tmp_path):
    photos, table = tmp_path / "photos", str(tmp_path / "table")
    with zipfile.ZipFile(data_folder / "flickr8k_1000" / "images.zip") as archive:
        archive.extractall(photos)
    assert main(["embed", str(photos), table, "--model", str(data_folder / "clip_tiny")]) == 0
    out = str(tmp_path / "r.html")
    shown = [table, *map_and_neighbours(table), "--images", str(photos), "--out", out]
    assert main(["report", *shown]) == 0
    images = held(tmp_path / "r.html")[1]["points"]["image"]
    assert len(images) == 1000
    assert all(image.startswith("data:image/jpeg;base64,") for image in images)
    page = look_at(browser, tmp_path / "r.html")
    assert page.locator(".chosen img").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("n", [100_000, 200_000])  # benchmarks.page says how fast
def test_so_many_points_are_drawn_and_can_be_used(browser, tmp_path, n):
    table, plan = fill(tmp_path, n), str(tmp_path / "map")
    assert main(["project", table, plan, "--method", "pca"]) == 0
    run(ReportConfig((table, plan), out=str(tmp_path / "r.html")))
    page, said = open_page(browser, tmp_path / "r.html")
    drawn = page.evaluate("document.getElementById('map').data.reduce((n, t) => n + t.x.length, 0)")
    assert drawn == n - 1
    page.mouse.click(*place_of(page, 777))
    page.wait_for_selector(".chosen")
    page.fill("#search", "text 17777")
    assert "text 17777" in page.locator("#found li").all_inner_texts()
    assert said == []
