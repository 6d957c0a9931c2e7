import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from transformers import ConvNextImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from actors.images.pixels import (
    MAX_PIXELS,
    ImageError,
    decode,
    read_preprocess,
    size_after_resizing,
)
from actors.models import ModelError
from tests.support.pictures import BROKEN, CMYK, GOOD, animated, file_of, noise, turned

CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 24},
    "crop_size": {"height": 24, "width": 24},
    "do_center_crop": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
SIZES = [(40, 30), (30, 41), (24, 24), (7, 5), (24, 300), (1, 1)]


def preprocess_of(folder, **changes):
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP | changes))
    return read_preprocess(folder)


@pytest.fixture
def preprocess(tmp_path):
    return preprocess_of(tmp_path)


def palette(transparent):
    image = Image.fromarray(noise(30, 40)).convert("P", palette=Image.Palette.ADAPTIVE)
    if transparent:
        image.info["transparency"] = 3
    return image


def oriented(number):
    return file_of(Image.fromarray(noise(30, 40)), "JPEG", exif=turned(number))


MODES = {
    "jpeg": lambda: file_of(Image.fromarray(noise(40, 30)), "JPEG"),
    "progressive": lambda: file_of(Image.fromarray(noise(40, 30)), "JPEG", progressive=True),
    "grey jpeg": lambda: file_of(Image.fromarray(noise(40, 30, 1)), "JPEG"),
    "cmyk": lambda: file_of(Image.fromarray(noise(40, 30, 4), "CMYK"), "JPEG"),
    "cmyk with a broken profile": lambda: CMYK,
    "grey": lambda: file_of(Image.fromarray(noise(40, 30, 1))),
    "1 bit": lambda: file_of(Image.fromarray(noise(40, 30, 1)).convert("1")),
    "alpha": lambda: file_of(Image.fromarray(noise(40, 30, 4), "RGBA")),
    "grey alpha": lambda: file_of(Image.fromarray(noise(40, 30, 2), "LA")),
    "palette": lambda: file_of(palette(transparent=False)),
    "palette with a transparent colour": lambda: file_of(palette(True), transparency=3),
    "webp": lambda: file_of(Image.fromarray(noise(40, 30)), "WEBP"),
    "webp with alpha": lambda: file_of(Image.fromarray(noise(40, 30, 4), "RGBA"), "WEBP"),
    "tiff": lambda: file_of(Image.fromarray(noise(40, 30)), "TIFF"),
    "avif": lambda: file_of(Image.fromarray(noise(40, 30)), "AVIF"),
    "avif with alpha": lambda: file_of(Image.fromarray(noise(40, 30, 4), "RGBA"), "AVIF"),
    "avif on its side": lambda: file_of(Image.fromarray(noise(40, 30)), "AVIF", exif=turned(6)),
    "bmp": lambda: file_of(Image.fromarray(noise(40, 30)), "BMP"),
    "animated gif": animated,
    **{f"orientation {n}": (lambda n=n: oriented(n)) for n in range(1, 9)},
    **{
        f"{w} x {h}": (lambda w=w, h=h: file_of(Image.fromarray(noise(w, h)))) for w, h in SIZES[:5]
    },
    "1 x 1": lambda: file_of(Image.new("RGB", (1, 1), "red")),
}


def expected(data, processor):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    out = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    return out["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.parametrize("kind", MODES)
def test_pixels_equal_the_reference_exactly(preprocess, tmp_path, kind):
    if kind.startswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = MODES[kind]()
    got = preprocess(data)
    assert (got.dtype, got.shape) == (np.uint8, (24, 24, 3))
    np.testing.assert_array_equal(
        got, expected(data, CLIPImageProcessorPil.from_pretrained(tmp_path))
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("processor", "config"),
    [
        (CLIPImageProcessorPil, {"size": 20, "crop_size": 28}),
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 21}, "crop_size": 25}),
        (CLIPImageProcessorPil, {"size": {"height": 26, "width": 18}, "resample": 2}),
        (CLIPImageProcessorPil, {"size": {"height": 26, "width": 18}, "do_center_crop": False}),
        (ConvNextImageProcessorPil, {"size": {"shortest_edge": 22}, "crop_pct": 0.8}),
        (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}, "do_center_crop": False}),
    ],
)
def test_settings_mean_what_they_mean_to_the_reference(tmp_path, processor, config, size):
    kind = processor.__name__.removesuffix("Pil")
    if kind != "CLIPImageProcessor":
        config = {"do_center_crop": False} | config
    preprocess = preprocess_of(tmp_path, image_processor_type=kind, **config)
    data = file_of(Image.fromarray(noise(*size).reshape(size[1], size[0], 3)))
    want = expected(data, processor.from_pretrained(tmp_path))
    np.testing.assert_array_equal(preprocess(data), want)


def test_a_config_of_unknown_steps_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no preprocessor_config.json"):
        read_preprocess(tmp_path)
    for changes in (
        {"image_processor_type": "LlavaImageProcessor"},
        {"do_normalize": False},
        {"do_center_crop": False},
    ):
        with pytest.raises(ModelError, match="not hosted"):
            preprocess_of(tmp_path, **changes)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_preprocess(tmp_path)


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_have_a_reason(preprocess, monkeypatch, kind):
    data, reason = BROKEN[kind]
    if kind == "a strip":  # a strip of this model's small size would do
        monkeypatch.setattr("actors.images.pixels.MAX_PIXELS", 3_000_000)
    with pytest.raises(ImageError, match=reason):
        preprocess(data)
    assert MAX_PIXELS < 1e8


def test_resized():
    assert size_after_resizing((300, 600), (100,)) == (100, 200)
    assert size_after_resizing((600, 300), (100,)) == (200, 100)
    assert size_after_resizing((5, 7), (9, 8)) == (9, 8)


@pytest.mark.parametrize("threads", [1, 3])
def test_one_image_never_stops_the_others(preprocess, threads):
    images = [GOOD, b"", None, MODES["grey"](), b"no image"]
    pixels, reasons = decode(images, preprocess, threads=threads)
    assert sorted(reasons) == [1, 4]
    assert pixels.shape == (5, 24, 24, 3)
    for row in (0, 3):
        np.testing.assert_array_equal(pixels[row], preprocess(images[row]))
    assert not pixels[[1, 2, 4]].any()
    assert decode([], preprocess, threads=threads)[0].shape == (0, 24, 24, 3)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_that_takes_too_long_is_given_up(preprocess, threads):
    release = threading.Event()

    class Stuck(type(preprocess)):
        def __call__(self, data):
            if data == b"stuck":
                release.wait(20)
            return super().__call__(data)

    stuck = Stuck(**vars(preprocess))
    images = [GOOD, b"stuck", GOOD, b"stuck", GOOD]
    started = time.monotonic()
    pixels, reasons = decode(images, stuck, threads=threads, seconds=0.3)
    release.set()
    assert time.monotonic() - started < 15
    assert reasons == dict.fromkeys((1, 3), "decoding took over 0.3 s")
    for row in (0, 2, 4):
        np.testing.assert_array_equal(pixels[row], preprocess(GOOD))
