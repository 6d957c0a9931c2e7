from importlib.util import find_spec

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import features
from xxhash import xxh3_128_digest

from sources import SourceError, SourceOptions, hub, open_source
from sources.formats.images import ALL_IMAGE_ENDINGS, HEIF_ENDINGS, IMAGE_ENDINGS

RNG = np.random.default_rng(2)


def png(value=0, size=8):
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("cat/a.png", "cat/b.JPG", "dog/c.webp", "top.gif"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"bytes of {name}".encode())
    return folder


def test_a_folder_of_images_is_read_undecoded(photos, read):
    result = read(photos)
    assert result.source.options.modality == "image"
    assert result.ids() == ["cat/a.png", "cat/b.JPG", "dog/c.webp", "top.gif"]
    first = result.rows[0]
    assert first["image"] == {"bytes": b"bytes of cat/a.png", "path": "cat/a.png"}
    assert first["content_hash"] == xxh3_128_digest(b"bytes of cat/a.png")
    assert result.source.columns == ()
    assert "label" not in first


def test_other_names_of_jpeg_and_what_pillow_reads_here_are_images(tmp_path, read):
    for name in ("a.jfif", "b.JPE", "c.avif", "d.heic", "e.HEIF", "f.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    expected = ["a.jfif", "b.JPE", "c.avif", "d.heic", "e.HEIF", "f.jpg"]
    if not features.check("avif"):
        expected.remove("c.avif")
    if find_spec("pillow_heif") is None:
        expected = [name for name in expected if not name.lower().endswith(HEIF_ENDINGS)]
    assert read(tmp_path).ids() == expected
    assert {".avif", *HEIF_ENDINGS, *IMAGE_ENDINGS} == set(ALL_IMAGE_ENDINGS)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_a_folder_of_heic_photos_says_what_they_need(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"bytes")
    with pytest.raises(SourceError, match=r"Found: .heic. .* need pillow-heif: pip install"):
        open_source(SourceOptions(str(tmp_path)))


def test_folders_are_labels_on_request(photos, read):
    result = read(photos, label_from_folder=True)
    assert [row["label"] for row in result.rows] == ["cat", "cat", "dog", None]
    assert result.source.columns == ("label",)
    assert result.rows[0]["row_hash"] != result.rows[2]["row_hash"]


def test_labels_from_folders_need_images(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(SourceError, match="no folder of images"):
        open_source(SourceOptions(str(tmp_path), label_from_folder=True))


def test_an_empty_file_is_a_failure_and_a_folder_that_is_named_so_is_entered(photos, read):
    (photos / "empty.png").touch()
    (photos / "x.png").mkdir()
    (photos / "x.png" / "y.png").write_bytes(b"bytes")
    (photos / "readme.md").write_text("about them")
    result = read(photos)
    assert result.reasons() == [(0, "read", "the file is empty")]
    assert [f["id"] for f in result.failures] == ["empty.png"]
    assert "x.png/y.png" in result.ids()


def test_images_and_texts_are_no_table(photos):
    (photos / "a.txt").write_text("a text")
    with pytest.raises(SourceError, match=r"cannot be one table: 1 .gif, 1 .jpg"):
        open_source(SourceOptions(str(photos)))


@pytest.mark.parametrize("as_struct", [True, False])
def test_parquet_with_a_column_of_images(tmp_path, read, as_struct):
    data = [b"one", b"two", None, b""]
    column = pa.array(data, pa.binary())
    if as_struct:
        paths = pa.array(["1.jpg", "2.jpg", "3.jpg", None])
        column = pa.StructArray.from_arrays([column, paths], names=["bytes", "path"])
    table = pa.table({"image": column, "caption": list("abcd"), "text": list("efgh")})
    pq.write_table(table, tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet")
    assert [row["image"]["bytes"] for row in result.rows] == [b"one", b"two"]
    assert result.rows[0]["image"]["path"] == ("1.jpg" if as_struct else None)
    assert result.rows[0]["id"] == xxh3_128_digest(b"one").hex()
    assert (result.rows[0]["caption"], result.rows[0]["source:text"]) == ("a", "e")
    lost = "image has no bytes, only the path '3.jpg'" if as_struct else "image is null"
    assert result.reasons() == [(2, "read", lost), (3, "read", "the file is empty")]
    texts = read(tmp_path / "a.parquet", text_column=("caption",))
    assert texts.source.options.modality == "text"
    assert texts.texts() == list("abcd")
    assert [row["source:image"] is None for row in texts.rows] == [
        False,
        False,
        not as_struct,
        False,
    ]


def test_a_column_of_bytes_is_images_if_it_is_said_or_named_so(tmp_path, read):
    table = pa.table({"blob": pa.array([b"one"], pa.binary()), "name": ["a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").texts() == ["a"]
    result = read(tmp_path / "a.parquet", image_column="blob", id_column="name")
    assert [(row["id"], row["image"]["bytes"]) for row in result.rows] == [("a", b"one")]
    for column, message in (("none", "no column 'none'"), ("name", "holds no images")):
        with pytest.raises(SourceError, match=message):
            open_source(SourceOptions(str(tmp_path / "a.parquet"), image_column=column))


def test_several_columns_of_images_have_to_be_told_apart(tmp_path, read):
    table = pa.table({name: pa.array([b"one"], pa.binary()) for name in ("image", "img")})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"several columns of images \(image, img\)"):
        open_source(SourceOptions(str(tmp_path / "a.parquet")))
    assert len(read(tmp_path / "a.parquet", image_column="img").rows) == 1


@pytest.mark.parametrize("column", ["img", "image"])  # as cifar10 and mnist have it
def test_a_dataset_of_images_needs_no_telling(tmp_path, read, column):
    hub._load.cache_clear()
    datasets.disable_progress_bars()
    names = ["airplane", "bird"]
    features = datasets.Features(
        {column: datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    rows = {column: [{"bytes": png(n), "path": None} for n in range(3)], "label": [0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    result = read(tmp_path / "d")
    assert [row["label"] for row in result.rows] == ["airplane", "bird", "bird"]
    assert [row["image"]["bytes"] for row in result.rows] == [png(n) for n in range(3)]
