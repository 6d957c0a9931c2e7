import shutil
import subprocess
import sys

import datasets
import pyarrow as pa
import pytest

from sources import SourceError, SourceOptions, hub, open_source
from sources.hub import DatasetSource

FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "n": datasets.Value("int64"),
    }
)


def dataset(n_rows=5, prefix="text"):
    columns = {
        "text": [f"{prefix} {n}" for n in range(n_rows)],
        "label": [n % 2 for n in range(n_rows)],
    }
    return datasets.Dataset.from_dict({**columns, "n": list(range(n_rows))}, features=FEATURES)


@pytest.fixture(autouse=True)
def _fresh():
    datasets.disable_progress_bars()
    hub._load.cache_clear()


def test_a_saved_dataset_is_read_with_names_of_classes(tmp_path, read):
    dataset().save_to_disk(tmp_path / "d")
    result = read(tmp_path / "d")
    assert isinstance(result.source, DatasetSource)
    assert result.source.columns == ("label", "n")
    assert [(r["text"], r["label"], r["position"]) for r in result.rows[:2]] == [
        ("text 0", "no", 0),
        ("text 1", "yes", 1),
    ]
    assert result.tables[0].schema.field("label").type == pa.string()
    assert [(piece.files, piece.part) for piece in result.pieces] == [(("d",), (0, 5))]


def test_a_class_that_is_unknown_is_null(tmp_path, read):
    dataset().map(lambda row: {"label": -1}).save_to_disk(tmp_path / "d")
    assert {row["label"] for row in read(tmp_path / "d").rows} == {None}


def test_splits_come_together_with_a_column_of_their_names(tmp_path, read):
    both = {"train": dataset(3), "test": dataset(2, "other")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "d")
    result = read(tmp_path / "d")
    assert [(r["split"], r["text"]) for r in result.rows[1:3]] == [
        ("test", "other 1"),
        ("train", "text 0"),
    ]
    assert result.source.columns == ("label", "n", "split")
    assert [piece.files for piece in result.pieces] == [("test",), ("train",)]
    chosen = read(tmp_path / "d", columns=("split",))
    assert chosen.tables[0].column_names[6:] == ["split"]


def test_files_that_are_no_part_of_a_dataset_are_counted(tmp_path, read):
    both = {"train": dataset(3), "test": dataset(2, "other")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d").source.left_out() == {}
    for name in ("README.md", "photo.jpg", "old/state.json", "train/data-00009-of-00010.arrow"):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_text("{}")
    left_out = {".arrow": 1, ".jpg": 1, ".json": 1, ".md": 1}
    assert read(tmp_path / "d").source.left_out() == left_out


def test_a_file_named_state_makes_no_datasets_folder(tmp_path, read):
    (tmp_path / "state.json").write_text('{"text": "a"}\n')
    assert read(tmp_path).texts() == ["a"]


def test_rows_are_read_by_range_also_after_select(tmp_path, read, monkeypatch):
    monkeypatch.setattr(hub, "PIECE_ROWS", 2)
    monkeypatch.setattr(hub, "MAX_ROWS", 1)
    dataset(9).select([8, 1, 5, 3, 0]).save_to_disk(tmp_path / "d")
    result = read(tmp_path / "d")
    assert [piece.part for piece in result.pieces] == [(0, 2), (2, 4), (4, 5)]
    assert result.texts() == ["text 8", "text 1", "text 5", "text 3", "text 0"]
    assert [r["position"] for r in result.rows] == [0, 1, 2, 3, 4]
    assert len(result.tables) == 5


def test_a_dataset_written_again_is_read_anew(tmp_path, read):
    dataset(2).save_to_disk(tmp_path / "d")
    assert len(read(tmp_path / "d").rows) == 2
    dataset(3).save_to_disk(tmp_path / "d")
    assert len(read(tmp_path / "d").rows) == 3


def test_columns_are_checked(tmp_path, read):
    dataset().save_to_disk(tmp_path / "d")
    with pytest.raises(SourceError, match="no column 'key'.*It has: text, label, n"):
        read(tmp_path / "d", id_column="key")


def test_a_broken_folder_is_refused(tmp_path, read):
    dataset().save_to_disk(tmp_path / "d")
    next((tmp_path / "d").glob("*.arrow")).unlink()
    with pytest.raises(
        SourceError, match="Cannot load the datasets folder .*Write it again with save_to_disk"
    ):
        read(tmp_path / "d")


def test_rows_that_vanish_while_reading_are_a_failure(tmp_path):
    dataset().save_to_disk(tmp_path / "d")
    source = open_source(SourceOptions(str(tmp_path / "d")))
    pieces = source.pieces()
    hub._load.cache_clear()
    for file in (tmp_path / "d").iterdir():
        file.unlink()
    ((table, failures, _),) = source.read(pieces[0])
    assert (len(table), failures["stage"].to_pylist()) == (0, ["file"])


@pytest.mark.parametrize("name", ["owner/corpus", "corpus", "corpus:train"])
def test_a_hub_name_that_cannot_be_reached_says_what_to_do(tmp_path, read, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceError,
        match=f"no file or folder {name}.*dataset of the hub.*Check the path, or the name",
    ):
        read(name)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The hub's dataset owner/name as an earlier run has cached it."""
    cache = tmp_path / "cache"
    dataset().to_parquet(tmp_path / "train.parquet")
    datasets.load_dataset(
        "parquet", data_files={"train": str(tmp_path / "train.parquet")}, cache_dir=cache
    )
    (info,) = cache.glob("parquet/*/*/*/dataset_info.json")
    folder = cache / "owner___name" / "default" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(info.parent, folder)
    (folder / "parquet-train.arrow").rename(folder / "name-train.arrow")
    named = info.read_text().replace('"dataset_name": "parquet"', '"dataset_name": "name"')
    (folder / "dataset_info.json").write_text(named)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("name", ["owner/name", "owner/name:train"])
def test_a_hub_name_is_loaded(tmp_path, read, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    result = read(name)
    assert result.texts() == [f"text {n}" for n in range(5)]
    assert result.rows[1]["label"] == "yes"
    assert result.source.columns == ("label", "n")


def test_a_relative_folder_is_found_by_a_worker_elsewhere(tmp_path, monkeypatch):
    dataset().save_to_disk(tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    source = open_source(SourceOptions("d"))
    monkeypatch.chdir("/")
    hub._load.cache_clear()
    ((table, _, _),) = source.read(source.pieces()[0])
    assert len(table) == 5


def test_datasets_is_imported_for_datasets_alone(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    code = (
        "import sys; from sources import *; "
        f"open_source(SourceOptions({str(tmp_path)!r})).pieces(); sys.exit('datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
