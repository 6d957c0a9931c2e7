import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from jobs.cli import main
from jobs.sync.config import EmbedConfig
from jobs.zero_shot import ClassError, ZeroShotConfig
from jobs.zero_shot import run as zero_shot
from schemas.columns import SchemaError
from schemas.delta.store import StoreError, Table
from schemas.tables.embeddings import Fingerprint
from tests.support.tables import embed, fill, rows_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning"),
    pytest.mark.usefixtures("few_rows_here"),
]


def tables_of(clip, folder):
    """Tables of the digits that a model never saw, and of their names."""
    model = clip / "model"
    embed(clip / "test", folder / "images", model, label_from_folder=True, precision="fp32")
    template = ("a photo of the number {}", "the digit {}")
    options = {"labels": True, "template": template, "precision": "fp32"}
    embed(clip / "classes.txt", folder / "classes", model, **options)
    return folder


@pytest.fixture(scope="session")
def digits(small_clip, tmp_path_factory):
    return tables_of(small_clip, tmp_path_factory.mktemp("digits"))


@pytest.mark.slow
def test_digits_are_told_apart_by_their_names(digits_clip, tmp_path):
    digits = tables_of(digits_clip, tmp_path)
    config = ZeroShotConfig(
        str(digits / "images"),
        str(digits / "classes"),
        str(tmp_path / "out"),
        picture=str(tmp_path / "confusion.png"),
    )
    summary = zero_shot(config)
    assert summary.n == summary.n_rows == 450
    assert summary.accuracy > 0.9
    assert summary.accuracy <= summary.top5_accuracy <= 1
    assert set(summary.per_class) == set("0123456789")
    counts = np.array(summary.confusion)
    assert counts.trace() / counts.sum() == pytest.approx(summary.accuracy)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"
    # The same by transformers and NumPy alone.
    folder = digits_clip / "model"
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    paths = sorted((digits_clip / "test").rglob("*.png"))
    pixels = images([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
    shown = unit(model.get_image_features(**pixels).pooler_output)
    names = [
        line.split(": ")[1] for line in (digits_clip / "classes.txt").read_text().split("\n")[:10]
    ]
    said = []
    for name in names:
        texts = [t.format(name) for t in ("a photo of the number {}", "the digit {}")]
        tokens = words(texts, padding=True, return_tensors="pt")
        said.append(unit(model.get_text_features(**tokens).pooler_output).mean(axis=0))
    logits = summary.logit_scale * shown @ unit(np.array(said)).T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    rows = rows_of(tmp_path / "out")
    ids = [str(path.relative_to(digits_clip / "test")) for path in paths]
    assert rows["id"].to_pylist() == ids
    assert rows["predicted"].to_pylist() == [str(k) for k in shares.argmax(axis=1)]
    np.testing.assert_allclose(rows["probability"].to_numpy(), shares.max(axis=1), atol=1e-4)
    top = rows["top"][0].as_py()
    assert [one["label"] for one in top] == [str(k) for k in np.argsort(-shares[0])[:5]]


def unit(vectors):
    vectors = np.array(vectors.tolist())
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


SENTENCES = [f"a photo of a {name}" for name in ("seven", "four", "zero")]


def told_by_clip(folder, images, sentences):
    """transformers' own numbers: logits_per_image, softmax."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor([Image.open(path).convert("RGB") for path in images], return_tensors="pt")
    with torch.inference_mode():
        out = model(**pixels, **words(sentences, padding=True, return_tensors="pt"))
    return out.logits_per_image.softmax(dim=1).numpy()


@pytest.mark.parametrize(
    ("lines", "template"),
    [
        ("seven\nfour\nzero", ()),
        ("seven\nfour\nzero", ("a photo of a {}",)),
        ("\n".join(SENTENCES), ()),
        ("\n".join(SENTENCES), ("a photo of a {}",)),
        ("7: a photo of a seven\n4: a photo of a four\n0: a photo of a zero", ()),
        ("7: seven\n4: four\n0: zero", ("a photo of a {}",)),
    ],
    ids=["names", "names, asked", "sentences", "sentences, asked", "wordings", "wordings, asked"],
)
def test_names_and_sentences_come_out_as_clips_own_numbers(
    small_clip, digits, tmp_path, lines, template
):
    (tmp_path / "classes.txt").write_text(lines)
    model, classes = small_clip / "model", tmp_path / "classes"
    told = {"labels": True, "template": template, "precision": "fp32"}
    summary = embed(tmp_path / "classes.txt", classes, model, **told)
    assert summary.templates == ["a photo of a {}"]
    assert "names put into: a photo of a {}" in summary.text()
    assert sorted(rows_of(classes)["text"].to_pylist()) == sorted(SENTENCES)
    images = sorted((small_clip / "test").rglob("*.png"))[::90]
    (tmp_path / "images").mkdir()
    for number, path in enumerate(images):
        shutil.copy(path, tmp_path / "images" / f"{number:03}.png")
    embed(tmp_path / "images", tmp_path / "t", model, precision="fp32")
    zero_shot(ZeroShotConfig(*(str(tmp_path / name) for name in ("t", "classes", "out"))))
    expected = told_by_clip(model, images, SENTENCES)
    order = [line.split(": ")[0] for line in lines.split("\n")]
    for row, shares in zip(rows_of(tmp_path / "out").to_pylist(), expected, strict=True):
        got = {one["label"]: one["probability"] for one in row["top"]}
        assert [got[name] for name in order] == pytest.approx(shares.tolist(), abs=1e-5)


def test_templates_are_told_wherever_the_table_is_looked_at(digits, embatch, small_clip, tmp_path):
    put = ["a photo of the number {}", "the digit {}"]
    status = embatch("status", digits / "classes")
    assert status["templates"] == status["runs"][0]["templates"] == put
    assert embatch("runs", digits / "classes")[0]["templates"] == put
    texts = rows_of(digits / "classes")["text"].to_pylist()
    assert texts[7] == "a photo of the number seven\nthe digit seven"
    again = embed(
        small_clip / "classes.txt", digits / "classes", small_clip / "model",
        labels=True, template=tuple(put), dry_run=True,
    )  # fmt: skip
    assert (again.unchanged, again.templates) == (10, put)
    (tmp_path / "classes.txt").write_text("a seven\n4: four\nzero\n")
    told = embatch("embed", "--labels", tmp_path / "classes.txt", tmp_path / "t", "--model",
                   small_clip / "model")  # fmt: skip
    assert told["templates"] == ["a photo of a {}"]
    assert [warning.split(" (")[1].split(")")[0] for warning in told["warnings"]] == [
        "'a seven'", "'four'"
    ]  # fmt: skip
    assert rows_of(tmp_path / "t")["text"].to_pylist() == ["four", "a seven", "a photo of a zero"]


def test_the_command_prints_and_gives_json(digits, tmp_path, capsys):
    tables = [str(digits / "images"), str(digits / "classes"), str(tmp_path / "out")]
    assert main(["zero-shot", *tables]) == 0
    shown = capsys.readouterr().out
    assert "450  rows classified into 10 classes" in shown
    assert "names put into: a photo of the number {} | the digit {}" in shown
    assert main(["zero-shot", *tables, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n"] == 450
    assert {"accuracy", "macro_f1", "per_class", "top5_accuracy"} <= found.keys()
    assert found["table_version"] == 2  # made, written, replaced
    assert list(found["inputs"]) == tables[:2]


def test_texts_are_classified_too(tmp_path):
    news = {"a": ("Rapid gewann das Spiel mit 3:0", "Sport"), "b": ("Die Börse fiel", "Wirtschaft")}
    lines = (json.dumps({"id": k, "text": t, "label": c}) for k, (t, c) in news.items())
    (tmp_path / "news.jsonl").write_text("\n".join(lines))
    (tmp_path / "classes.txt").write_text("Sport: Fußball und Sport\nWirtschaft: Geld und Aktien\n")
    model = "use-multilingual-v3"
    embed(tmp_path / "news.jsonl", tmp_path / "news", model, id_column="id")
    embed(tmp_path / "classes.txt", tmp_path / "classes", model, labels=True)
    summary = zero_shot(
        ZeroShotConfig(*(str(tmp_path / name) for name in ("news", "classes", "out")))
    )
    assert (summary.n, summary.accuracy) == (2, 1.0)
    assert Fingerprint.of(Table.open(str(tmp_path / "classes")).schema).logit_scale is None


def test_lists_are_no_labels_to_classify_by(tmp_path):
    classes = fill(tmp_path, "classes", [{"key": name, "text": name} for name in "ab"])
    table = fill(tmp_path, "t", [{"key": "k", "text": "a", "label": ["a"]}])
    with pytest.raises(SchemaError, match="'label' of .*/t holds list<.*>, which is no label"):
        zero_shot(ZeroShotConfig(table, classes, str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told(digits, small_clip, photos, tmp_path):
    images, classes, out = (
        str(place) for place in (digits / "images", digits / "classes", tmp_path / "o")
    )
    with pytest.raises(ClassError, match="no column 'kind'. It has: id"):
        zero_shot(ZeroShotConfig(images, classes, out, label_column="kind"))
    with pytest.raises(StoreError, match="no table of vectors at nowhere"):
        zero_shot(ZeroShotConfig("nowhere", classes, out))
    with pytest.raises(StoreError, match="Give another OUT"):
        zero_shot(ZeroShotConfig(images, classes, images))
    embed(photos, tmp_path / "photos-table", small_clip / "model", label_from_folder=True)
    with pytest.raises(ClassError, match="'cat', 'dog'.*Its classes: '0', '1'"):
        zero_shot(ZeroShotConfig(str(tmp_path / "photos-table"), classes, out))
    assert not Path(out).exists()
    embed(small_clip / "classes.txt", tmp_path / "other", "all-MiniLM-L6-v2", labels=True)
    with pytest.raises(StoreError, match="two spaces"):
        zero_shot(ZeroShotConfig(images, str(tmp_path / "other"), out))
    for option in ({"template": ("a photo of a",)}, {"template": ("{} and {}",)}):
        with pytest.raises(ValueError, match="expected {} in it once"):
            EmbedConfig(classes, out, "m", labels=True, **option)
    with pytest.raises(ValueError, match="Add --labels"):
        EmbedConfig(classes, out, "m", template=("a {}",))


def test_rows_without_labels_are_classified_and_not_counted(digits, small_clip, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(small_clip / "test" / "7", some)
    embed(some, tmp_path / "t", small_clip / "model")
    tables = (str(place) for place in (tmp_path / "t", digits / "classes", tmp_path / "out"))
    summary = zero_shot(ZeroShotConfig(*tables))
    assert (summary.n, summary.accuracy, summary.n_rows) == (0, None, len(list(some.iterdir())))
    assert set(rows_of(tmp_path / "out")["predicted"].to_pylist()) <= set("0123456789")


@pytest.mark.data
@pytest.mark.parametrize(
    ("data", "template", "wording", "expected"),
    [
        pytest.param("cifar10_2000", "a photo of a {}", None, 0.572, marks=pytest.mark.slow),
        (
            "mnist_2000",
            "a photo of the number {}",
            "zero one two three four five six seven eight nine".split(),
            0.869,
        ),
    ],
)
def test_real_images_with_a_trained_model(data_folder, tmp_path, data, template, wording, expected):
    with zipfile.ZipFile(data_folder / data / "images.zip") as archive:
        archive.extractall(tmp_path / "images")
    model = data_folder / "clip_tiny"
    embed(tmp_path / "images", tmp_path / "t", model, label_from_folder=True)
    names = sorted({path.parent.name for path in (tmp_path / "images").rglob("*.*")})
    said = wording or names
    lines = (f"{name}: {word}\n" for name, word in zip(names, said, strict=True))
    (tmp_path / "classes.txt").write_text("".join(lines))
    embed(tmp_path / "classes.txt", tmp_path / "c", model, labels=True, template=(template,))
    tables = (str(tmp_path / name) for name in ("t", "c", "out"))
    summary = zero_shot(ZeroShotConfig(*tables))
    assert (summary.n, round(summary.accuracy, 3)) == (2000, expected)
