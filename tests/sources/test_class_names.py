import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sources.class_names import class_names, with_class_names

CLASSES = datasets.ClassLabel(names=["no", "yes"])
FEATURES = datasets.Features({"text": datasets.Value("string"), "label": CLASSES})


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def written(path, texts, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=FEATURES)
    rows.to_parquet(path)
    return path


def test_numbers_of_classes_become_names_in_parquet_that_datasets_wrote(tmp_path, read):
    result = read(written(tmp_path / "a.parquet", ["a", "b", "c", "d"], [1, 0, -1, None]))
    assert [(row["text"], row["label"]) for row in result.rows] == [
        ("a", "yes"),
        ("b", "no"),
        ("c", None),
        ("d", None),
    ]
    assert result.tables[0].schema.field("label").type == pa.string()


def test_a_folder_as_push_to_hub_lays_it_out_is_a_folder(tmp_path, read):
    for split in ("train", "test"):
        written(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [split], [0])
    (tmp_path / "README.md").write_text("about the dataset")
    result = read(tmp_path)
    assert [(row["text"], row["label"]) for row in result.rows] == [("test", "no"), ("train", "no")]
    assert result.source.columns == ("label",)
    assert result.source.left_out() == {".md": 1}


def test_the_same_row_has_the_same_hash_from_disk_and_from_parquet(tmp_path, read):
    file = written(tmp_path / "a.parquet", ["a"], [1])
    datasets.Dataset.from_parquet(str(file), cache_dir=tmp_path / "cache").save_to_disk(
        tmp_path / "saved"
    )
    one, two = read(file).rows, read(tmp_path / "saved").rows
    assert one == two


def test_a_label_may_be_the_text_that_is_embedded(tmp_path, read):
    file = written(tmp_path / "a.parquet", ["a"], [1])
    assert read(file, text_column=("label", "text")).texts() == ["yes\na"]


def test_a_number_without_a_name_stays(tmp_path, read):
    file = written(tmp_path / "a.parquet", ["a", "b"], [0, 1])
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "label", pa.array([7, 1])), file)
    assert [row["label"] for row in read(file).rows] == ["7", "yes"]


@pytest.mark.parametrize(
    "told",
    [
        b"no JSON",
        b"[]",
        b'{"info": {"features": null}}',
        b'{"info": {"features": {"label": null}}}',
        b'{"info": {"features": {"label": {"_type": "Value"}}}}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
        b'{"info": {"features": {"text": {"_type": "ClassLabel", "names": ["no"]}}}}',
    ],
)
def test_what_names_no_classes_changes_nothing(told):
    table = pa.table({"text": ["a"], "label": [0]}).replace_schema_metadata({b"huggingface": told})
    assert class_names(table.schema) == {}
    assert with_class_names(table, class_names(table.schema)) is table
