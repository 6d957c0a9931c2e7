import io
import json
import shutil

import pytest

from actors.models import ModelError
from jobs.cli import main
from jobs.embed import run as embed
from jobs.search import Search, SearchConfig
from jobs.sync.config import EmbedConfig
from schemas.delta.store import StoreError
from tests.support.hash_model import HashModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
TEXTS = {
    "a": "The shares fell after the central bank raised its rates.",
    "b": "The striker scored twice in the last ten minutes.",
    "c": "Rain and hail are expected along the coast.\x1b[31m\nBring an umbrella.",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    lines = (json.dumps({"key": key, "text": text}) + "\n" for key, text in TEXTS.items())
    (folder / "texts.jsonl").write_text("".join(lines))
    config = EmbedConfig(
        str(folder / "texts.jsonl"), str(folder / "t"), "all-MiniLM-L6-v2", id_column="key"
    )
    embed(config)
    return str(folder / "t")


def test_the_nearest_row_comes_first(table, capsys):
    hits = Search(SearchConfig(table, k=9))("football goals")
    assert hits[0].id == "b"
    assert hits[0].shown == TEXTS["b"]
    assert [hit.similarity for hit in hits] == sorted((h.similarity for h in hits), reverse=True)
    assert len(hits) == 3
    assert main(["search", table, "weather forecast", "--k", "1"]) == 0
    shown = capsys.readouterr().out
    assert "Rain and hail" in shown
    assert main(["search", table, "umbrella.jpg", "--k", "1"]) == 0
    assert "no file umbrella.jpg: it is taken as a text" in capsys.readouterr().err
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1


def test_queries_from_stdin(table, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(" stock\u2028markets \n\nfootball\n"))
    assert main(["search", table, "--json", "--k", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == [" stock\u2028markets ", "football"]
    assert [line["hits"][0]["id"] for line in lines] == ["a", "b"]


@pytest.mark.slow
def test_images_by_words_and_by_images(digits_clip, tmp_path):
    model = tmp_path / "model"  # a folder is found again by its path, not by its name
    shutil.copytree(digits_clip / "model", model)
    embed(
        EmbedConfig(
            str(digits_clip / "test"), str(tmp_path / "t"), str(model), label_from_folder=True
        )
    )
    search = Search(SearchConfig(str(tmp_path / "t"), k=5))
    labels = [hit.label for hit in search("a photo of the number seven")]
    assert labels.count("7") >= 4
    picture = next((digits_clip / "test" / "3").iterdir())
    hits = search(str(picture))
    assert hits[0].id == f"3/{picture.name}"
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ModelError, match="broken.png: no image that can be read"):
        search(str(tmp_path / "broken.png"))


def test_a_label_of_any_type_is_shown(tmp_path, capsys):
    for name, label in {"list": ["a", "b"], "number": 7}.items():
        source, place = tmp_path / f"{name}.jsonl", str(tmp_path / name)
        source.write_text(json.dumps({"text": "rain", "label": label}) + "\n")
        embed(EmbedConfig(str(source), place, "all-MiniLM-L6-v2", text_column="text"))
        capsys.readouterr()
        assert main(["search", place, "hail", "--json"]) == 0
        hit = json.loads(capsys.readouterr().out)["hits"][0]
        assert json.loads(hit["label"]) == label


def test_mistakes_are_told(table, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="--k is 0"):
        SearchConfig(table, k=0)
    with pytest.raises(StoreError, match="There is no table at"):
        Search(SearchConfig(str(tmp_path / "nowhere")))
    with pytest.raises(ModelError, match="they cannot be compared"):
        Search(SearchConfig(table, model="use-multilingual-v3"))("a")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    embed(EmbedConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "h"), "hash"), HashModel())
    assert main(["search", str(tmp_path / "h"), "a"]) == 1
    assert "Unknown model 'hash'" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert main(["search", table]) == 0
