import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from actors.checkpoints import resolve
from actors.engine.engine import Engine
from actors.models import ModelError
from jobs.sync.errors import SyncError
from schemas.delta.store import Table
from schemas.vectors import vectors_of
from sources import SourceOptions, open_source
from tests.support.pictures import BROKEN, GOOD, write_broken
from tests.support.tables import embed, rows_of

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


def test_a_folder_becomes_a_table_of_its_images(photos, tmp_path, small_clip, somewhere):
    model = small_clip / "model"
    summary = embed(photos, tmp_path / "t", model, label_from_folder=True, precision="fp32")
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


def test_a_changed_set_costs_what_changed(photos, tmp_path, small_clip):
    model, table = small_clip / "model", tmp_path / "t"
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


def test_images_stay_in_the_table_on_request(photos, tmp_path, small_clip):
    embed(photos, tmp_path / "t", small_clip / "model", keep_images=True)
    rows = rows_of(tmp_path / "t")
    for image in rows["image"].to_pylist():
        assert image["bytes"] == (photos / image["path"]).read_bytes()
    assert DeltaTable(str(tmp_path / "t")).to_pandas()["image"][0]["path"]


def test_a_table_holds_images_or_texts(photos, tmp_path, small_clip):
    model = small_clip / "model"
    embed(photos, tmp_path / "t", model)
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(SyncError, match="holds images, and SOURCE holds texts"):
        embed(tmp_path / "a.txt", tmp_path / "t", model)
    with pytest.raises(ModelError, match="embeds text, and SOURCE holds images"):
        embed(photos, tmp_path / "u", "all-MiniLM-L6-v2")
    with pytest.raises(ValueError, match="--max-chars, --no-text is about texts"):
        embed(photos, tmp_path / "u", model, max_chars=5, no_text=True)


def test_a_dry_run_times_the_model(photos, tmp_path, small_clip):
    summary = embed(photos, tmp_path / "t", small_clip / "model", dry_run=True)
    assert (summary.rows_to_embed, summary.tokens_to_embed) == (12, 12 * 16)
    assert summary.rows_per_second > 0
    assert not (tmp_path / "t").exists()


def test_every_broken_file_has_its_reason(photos, tmp_path, small_clip):
    for name, (data, _) in BROKEN.items():
        (photos / f"{name}.jpg").write_bytes(data)
    summary = embed(photos, tmp_path / "t", small_clip / "model", max_failures=1.0)
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
    again = embed(photos, tmp_path / "t", small_clip / "model", max_failures=1.0)
    assert (again.unchanged, again.embedded, again.failed) == (13, 0, len(broken))
    (photos / "truncated.jpg").write_bytes(GOOD)
    mended = embed(photos, tmp_path / "t", small_clip / "model", max_failures=1.0)
    assert (mended.embedded, mended.failed) == (1, len(broken) - 1)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_every_file_is_in_the_table_or_failed(photos, tmp_path, small_clip, monkeypatch):
    monkeypatch.setattr(
        "actors.images.pixels.MAX_PIXELS", 1_000_000
    )  # the model's images are small
    (photos / "round").symlink_to(photos, target_is_directory=True)
    files = {name: why for name, why in (write_broken(photos, i) for i in range(20)) if name}
    summary = embed(photos, tmp_path / "t", small_clip / "model", max_failures=1.0)
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


def test_tars_and_digits_in_bytes(tmp_path, small_clip):
    import tarfile

    paths = sorted((small_clip / "test").rglob("*.png"))[:5]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in paths:
            for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.txt", b"a digit")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    summary = embed(tmp_path / "a.tar", tmp_path / "t", small_clip / "model")
    assert summary.embedded == 5
    rows = rows_of(tmp_path / "t")
    assert rows["caption"].to_pylist() == ["a digit"] * 5
    assert rows["id"].to_pylist() == [f"a.tar/{path.stem}" for path in paths]
