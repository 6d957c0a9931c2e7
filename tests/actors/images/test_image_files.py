import numpy as np
import pytest
from PIL import Image, features

from actors.images import image_files
from actors.images.image_files import FORMATS, ImageError, read_rgb, to_eight_bits
from tests.support.pictures import file_of, noise, tiff, turned

NAN, INF = np.nan, np.inf
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200
needs_avif = pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow was built without AVIF")
needs_heif = pytest.mark.skipif("HEIF" not in FORMATS, reason="pillow-heif is not installed")


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 257, 32896, 65535], "u2", [0, 1, 128, 255]),  # 16 bits: 257 values are one of 255
        ([0, 257, 32896, 65535], ">u2", [0, 1, 128, 255]),
        ([4096, 4112, 5000], "u2", [16, 16, 19]),
        ([0, 1365, 2730, 4095], "u2", [0, 85, 170, 255]),  # 12 bits
        ([0, 2, 255, 7], "u2", [0, 2, 255, 7]),  # 8 bits
        ([0, 1365, 2730, 4095], "i4", [0, 85, 170, 255]),
        ([0, 65535, 51400], "i4", [0, 255, 200]),
        ([0, 100_000, 200_000], "u4", [0, 128, 255]),  # from the smallest to the largest
        ([2**31, 2**32 - 1], "u4", [0, 255]),
        ([-1000, 1000, 0, 500], "i2", [0, 255, 128, 191]),
        ([0, 0.5, 1, 0.25], "f4", [0, 128, 255, 64]),
        ([0, 12.4, 254.6], "f4", [0, 12, 255]),
        ([-1, 0, 3], "f4", [0, 64, 255]),
        ([0, 0.2, 1, NAN, INF, -INF], "f4", [0, 51, 255, 0, 255, 0]),
        ([-2, 2, NAN, INF, -INF], "f4", [0, 255, 0, 255, 0]),
        ([0, 0], "u2", [0, 0]),
        ([65535, 65535], "u2", [255, 255]),
        ([1, 1], "f4", [255, 255]),
        ([-7, -7], "i4", [0, 0]),
        ([1e6, 1e6, NAN, INF], "f4", [0, 0, 0, 0]),
    ],
)
def test_eight_bits(values, dtype, expected):
    grey = to_eight_bits(np.array([values, values], dtype))
    assert grey.dtype == np.uint8
    assert grey.tolist() == [expected, expected]


def test_what_holds_no_number_is_refused():
    with pytest.raises(ImageError, match="no pixel of it is a finite number"):
        read_rgb(tiff(np.array([[NAN, INF, NAN]], "f4")))


def test_blocks_are_scaled_alike(monkeypatch):
    values = np.arange(60_000, dtype=np.uint16).reshape(200, 300)
    whole = to_eight_bits(values)
    monkeypatch.setattr(image_files, "BLOCK", 1000)
    np.testing.assert_array_equal(to_eight_bits(values), whole)


UP = np.array([[0, 21845, 43690, 65535]])
GREY = [0, 85, 170, 255]


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    "file",
    [
        lambda up: file_of(Image.fromarray(up.astype("u2"))),
        lambda up: file_of(Image.fromarray(up.astype("u2")), "TIFF", compression="tiff_lzw"),
        lambda up: tiff(up.astype(">u2")),
        lambda up: tiff((65535 - up).astype("u2"), photometric=0),
        lambda up: tiff((up // 2 - 2**14).astype("i2")),
        lambda up: tiff((up // 2 - 2**14).astype(">i2")),
        lambda up: tiff(up.astype("i4")),
        lambda up: tiff(up.astype(">i4")),
        lambda up: tiff((up * 65537).astype("u4")),  # Pillow's integers end at half of it
        lambda up: tiff((up / 65535).astype("f4")),
        lambda up: tiff((up / 65535).astype(">f4")),
        lambda up: tiff((1 - up / 65535).astype("f4"), photometric=0),
    ],
    ids="png lzw big-endian inverted signed signed-big int32 int32-big uint32 f4 f4-big f4-inverted".split(),
)
def test_ramps_of_deep_images_are_told_apart(file, down):
    up = UP[:, ::-1] if down else UP
    image = read_rgb(file(up))
    assert (image.mode, image.size) == ("RGB", (4, 1))
    assert np.asarray(image)[0].tolist() == [[grey] * 3 for grey in (GREY[::-1] if down else GREY)]


def test_a_photo_of_16_bits_is_the_photo():
    photo = noise(40, 30, 1)
    deep = photo.astype(np.uint16) * 257
    for kind in ("PNG", "TIFF"):
        for exif in (None, turned(6)):
            given = {"exif": exif} if exif else {}
            np.testing.assert_array_equal(
                read_rgb(file_of(Image.fromarray(deep), kind, **given)),
                read_rgb(file_of(Image.fromarray(photo), kind, **given)),
            )


def test_a_transparent_grey_is_white_also_of_16_bits():
    file = file_of(Image.fromarray(UP.astype("u2")), transparency=21845)
    assert np.asarray(read_rgb(file))[0, :, 0].tolist() == [0, 255, 170, 255]


@pytest.mark.parametrize(
    "values", [np.zeros((2, 2, 3), "f4"), np.zeros((2, 2), "f8"), np.zeros((2, 2), ">u4")]
)
def test_a_tiff_that_pillow_cannot_read_is_not_called_another_format(values):
    with pytest.raises(ImageError, match="a TIFF that is broken, or whose kind of pixels"):
        read_rgb(tiff(values, photometric=2 if values.ndim > 2 else 1))


@pytest.mark.parametrize("form", [pytest.param("AVIF", marks=needs_avif), "TIFF"])
def test_size_is_bounded_in_each_format(monkeypatch, form):
    file = file_of(Image.fromarray(noise(40, 30)), form)
    assert read_rgb(file).size == (40, 30)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="40 x 30 pixels, more than 1,000"):
        read_rgb(file)


@needs_heif
def test_heif_is_upright_and_bounded(monkeypatch):
    photo = np.zeros((32, 64, 3), np.uint8)
    photo[:, :32] = 255
    file = file_of(Image.fromarray(photo), "HEIF", exif=turned(6).tobytes())
    image = read_rgb(file)
    assert image.size == (32, 64)
    assert np.abs(np.asarray(image)[:, :, 0] - np.rot90(photo[..., 0], -1).astype(int)).max() < 9
    with pytest.raises(ImageError):
        read_rgb(file[: len(file) // 2])
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="pixels, more than 1,000"):
        read_rgb(file)


@pytest.mark.skipif("HEIF" in FORMATS, reason="pillow-heif is installed")
def test_heif_says_what_reads_it():
    with pytest.raises(ImageError, match=r"HEIF \(.heic\), which needs pillow-heif: pip install"):
        read_rgb(HEIC)


def test_an_edge_that_is_enough_makes_a_photo_smaller():
    file = file_of(Image.fromarray(noise(800, 400)), "JPEG", exif=turned(6))
    assert read_rgb(file, edge=96).size == (100, 200)
    assert read_rgb(file).size == (400, 800)


def test_known_formats_are_those_of_this_pillow():
    assert ("AVIF" in FORMATS) == bool(features.check("avif"))
    with pytest.raises(ImageError, match="expected JPEG, PNG, WebP, GIF, TIFF"):
        read_rgb(b"a text")
