import io
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import transformers
from deltalake import DeltaTable
from PIL import Image

from actors.checkpoints import resolve
from actors.engine import Engine, ModelError
from jobs.cli import main
from jobs.embed import EmbedConfig, run
from jobs.planning import SyncError
from jobs.zero_shot import ClassError, ZeroShotConfig
from jobs.zero_shot import run as zero_shot
from schemas.embeddings import Fingerprint, vectors_of
from schemas.store import StoreError, Table
from sources import SourceOptions, open_source
from tests.pictures import BROKEN, GOOD, file_of, noise, write_broken

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning"),
    pytest.mark.usefixtures("few_rows_here"),
]


@pytest.fixture(params=["here", "with Ray"])
def somewhere(request):
    """Few rows are embedded in the process of the run, others by Ray's workers."""
    if request.param == "with Ray":
        request.getfixturevalue("through_ray")
    return request.param


def embed(source, table, model, **options):
    return run(EmbedConfig(str(source), str(table), str(model), **options))


def rows_of(table):
    return Table.open(str(table)).read().sort_by("id")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for index in range(12):
        path = folder / ("cat" if index % 2 else "dog") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(Image.fromarray(noise(20 + index, 30))))
    return folder


def test_a_folder_becomes_a_table_of_its_images(photos, tmp_path, digits_clip, somewhere):
    model = digits_clip / "model"
    summary = embed(photos, tmp_path / "t", model, label_from_folder=True)
    assert (summary.embedded, summary.failed) == (12, 0)
    rows = rows_of(tmp_path / "t")
    assert set(rows.column_names) == {
        *("id", "content_hash", "row_hash", "image", "label", "embedding", "embedded_at")
    }
    assert rows["id"].to_pylist() == sorted(
        str(path.relative_to(photos)) for path in photos.rglob("*.png")
    )
    assert rows["image"][0].as_py() == {"bytes": None, "path": "cat/01.png"}
    assert set(rows["label"].to_pylist()) == {"cat", "dog"}
    hosted = resolve(str(model), modality="image")
    files = [(photos / name).read_bytes() for name in rows["id"].to_pylist()]
    want = Engine(hosted.load()).encode(np.stack([hosted.preprocess(file) for file in files]))
    np.testing.assert_allclose(vectors_of(rows["embedding"]), want.vectors, atol=1e-5)


def test_a_changed_set_costs_what_changed(photos, tmp_path, digits_clip):
    model, table = digits_clip / "model", tmp_path / "t"
    embed(photos, table, model, label_from_folder=True)
    before = rows_of(table)
    again = embed(photos, table, model, label_from_folder=True)
    assert (again.unchanged, again.embedded) == (12, 0)
    (photos / "cat" / "01.png").write_bytes(GOOD)
    shutil.copy(photos / "cat" / "03.png", photos / "cat" / "twin.png")
    (photos / "dog" / "00.png").unlink()
    third = embed(photos, table, model, label_from_folder=True, prune=True)
    assert (third.unchanged, third.replaced, third.embedded, third.deleted) == (10, 1, 1, 1)
    fourth = embed(photos, table, model)
    assert fourth.updated == 12  # no labels any more: other columns changed, no model was asked
    rows = rows_of(table)
    twins = rows.filter(pa.compute.is_in(rows["id"], pa.array(["cat/03.png", "cat/twin.png"])))
    np.testing.assert_array_equal(*vectors_of(twins["embedding"]))
    held = dict(zip(before["id"].to_pylist(), vectors_of(before["embedding"]), strict=True))
    np.testing.assert_array_equal(vectors_of(twins["embedding"])[0], held["cat/03.png"])


def test_images_stay_in_the_table_on_request(photos, tmp_path, digits_clip):
    embed(photos, tmp_path / "t", digits_clip / "model", keep_images=True)
    rows = rows_of(tmp_path / "t")
    for image in rows["image"].to_pylist():
        assert image["bytes"] == (photos / image["path"]).read_bytes()
    assert DeltaTable(str(tmp_path / "t")).to_pandas()["image"][0]["path"]


def test_a_table_holds_images_or_texts(photos, tmp_path, digits_clip):
    model = digits_clip / "model"
    embed(photos, tmp_path / "t", model)
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(SyncError, match="holds images, and SOURCE holds texts"):
        embed(tmp_path / "a.txt", tmp_path / "t", model)
    with pytest.raises(ModelError, match="embeds text, and SOURCE holds images"):
        embed(photos, tmp_path / "u", "all-MiniLM-L6-v2")
    with pytest.raises(ValueError, match="--max-chars, --no-text is about texts"):
        embed(photos, tmp_path / "u", model, max_chars=5, no_text=True)


def test_a_dry_run_times_the_model(photos, tmp_path, digits_clip):
    summary = embed(photos, tmp_path / "t", digits_clip / "model", dry_run=True)
    assert (summary.rows_to_embed, summary.tokens_to_embed) == (12, 12 * 16)
    assert summary.rows_per_second > 0
    assert not (tmp_path / "t").exists()


def test_every_broken_file_has_its_reason(photos, tmp_path, digits_clip):
    for name, (data, _) in BROKEN.items():
        (photos / f"{name}.jpg").write_bytes(data)
    summary = embed(photos, tmp_path / "t", digits_clip / "model", max_failures=1.0)
    # A strip is none for a small model; nothing else of them can be embedded.
    broken = {name for name in BROKEN if name != "a strip"}
    assert (summary.embedded, summary.failed) == (12 + 1, len(broken))
    failures = Table.open(str(tmp_path / "t.failures")).read().to_pylist()
    reasons = {row["id"]: (row["stage"], row["reason"]) for row in failures}
    assert set(reasons) == {f"{name}.jpg" for name in broken}
    for name in broken:
        stage, reason = reasons[f"{name}.jpg"]
        assert stage == ("read" if name == "empty" else "decode")
        assert BROKEN[name][1] in reason
    again = embed(photos, tmp_path / "t", digits_clip / "model", max_failures=1.0)
    assert (again.unchanged, again.embedded, again.failed) == (13, 0, len(broken))
    (photos / "truncated.jpg").write_bytes(GOOD)
    mended = embed(photos, tmp_path / "t", digits_clip / "model", max_failures=1.0)
    assert (mended.embedded, mended.failed) == (1, len(broken) - 1)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_every_file_is_in_the_table_or_failed(photos, tmp_path, digits_clip, monkeypatch):
    monkeypatch.setattr("actors.pixels.MAX_PIXELS", 1_000_000)  # the model's images are small
    (photos / "round").symlink_to(photos, target_is_directory=True)
    files = {name: why for name, why in (write_broken(photos, i) for i in range(20)) if name}
    summary = embed(photos, tmp_path / "t", digits_clip / "model", max_failures=1.0)
    rows = rows_of(tmp_path / "t")["id"].to_pylist()
    assert {name for name in rows if name in files} == {n for n, why in files.items() if not why}
    failures = Table.open(str(tmp_path / "t.failures")).read().to_pylist()
    reasons = {row["id"] or row["source_file"]: row["reason"] for row in failures}
    assert len(rows) + len(reasons) == 12 + len(files) == 12 + 18
    assert (summary.embedded, summary.failed) == (len(rows), len(reasons))
    for name in reasons:
        assert files[name] in reasons[name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read files as somebody else")
def test_a_file_that_may_not_be_read_is_a_failure():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone
        os.chmod(folder, 0o755)
        for name, mode in (("locked.png", 0), ("open.png", 0o644)):
            Path(folder, name).write_bytes(GOOD)
            Path(folder, name).chmod(mode)
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                source = open_source(SourceOptions(folder))
                (rows,) = [
                    table
                    for piece in source.pieces()
                    for table in source.read(piece)
                    if table.failures
                ]
                found = rows.failures.to_pylist()
                os.write(sender, repr([(f["source_file"], f["reason"]) for f in found]).encode())
            finally:
                os._exit(0)
        os.close(sender)
        os.waitpid(child, 0)
        assert os.read(receiver, 1000) == b"[('locked.png', 'Permission denied')]"
        os.close(receiver)


# Words for classes


@pytest.fixture(scope="session")
def digits(digits_clip, tmp_path_factory):
    """Tables of the digits that the model never saw, and of their names."""
    folder = tmp_path_factory.mktemp("digits")
    model = digits_clip / "model"
    embed(digits_clip / "test", folder / "images", model, label_from_folder=True)
    template = ("a photo of the number {}", "the digit {}")
    embed(digits_clip / "classes.txt", folder / "classes", model, labels=True, template=template)
    return folder


def test_digits_are_told_apart_by_their_names(digits, digits_clip, tmp_path):
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


def test_the_command_prints_and_gives_json(digits, tmp_path, capsys):
    tables = [str(digits / "images"), str(digits / "classes"), str(tmp_path / "out")]
    assert main(["zero-shot", *tables]) == 0
    shown = capsys.readouterr().out
    assert "450  rows classified into 10 classes" in shown
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


def test_mistakes_are_told(digits, digits_clip, photos, tmp_path):
    images, classes, out = (
        str(place) for place in (digits / "images", digits / "classes", tmp_path / "o")
    )
    with pytest.raises(ClassError, match="no column 'kind'. It has: id"):
        zero_shot(ZeroShotConfig(images, classes, out, label_column="kind"))
    with pytest.raises(StoreError, match="no table of vectors at nowhere"):
        zero_shot(ZeroShotConfig("nowhere", classes, out))
    with pytest.raises(StoreError, match="Give another OUT"):
        zero_shot(ZeroShotConfig(images, classes, images))
    embed(photos, tmp_path / "photos-table", digits_clip / "model", label_from_folder=True)
    with pytest.raises(ClassError, match="'cat', 'dog'.*Its classes: '0', '1'"):
        zero_shot(ZeroShotConfig(str(tmp_path / "photos-table"), classes, out))
    assert not Path(out).exists()
    embed(digits_clip / "classes.txt", tmp_path / "other", "all-MiniLM-L6-v2", labels=True)
    with pytest.raises(StoreError, match="two spaces"):
        zero_shot(ZeroShotConfig(images, str(tmp_path / "other"), out))
    for option in ({"template": ("a photo of a",)}, {"template": ("{} and {}",)}):
        with pytest.raises(ValueError, match="expected {} in it once"):
            EmbedConfig(classes, out, "m", labels=True, **option)
    with pytest.raises(ValueError, match="Add --labels"):
        EmbedConfig(classes, out, "m", template=("a {}",))


def test_rows_without_labels_are_classified_and_not_counted(digits, digits_clip, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(digits_clip / "test" / "7", some)
    embed(some, tmp_path / "t", digits_clip / "model")
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


def test_tars_and_digits_in_bytes(tmp_path, digits_clip):
    import tarfile

    paths = sorted((digits_clip / "test").rglob("*.png"))[:5]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in paths:
            for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.txt", b"a digit")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    summary = embed(tmp_path / "a.tar", tmp_path / "t", digits_clip / "model")
    assert summary.embedded == 5
    rows = rows_of(tmp_path / "t")
    assert rows["caption"].to_pylist() == ["a digit"] * 5
    assert rows["id"].to_pylist() == [f"a.tar/{path.stem}" for path in paths]
