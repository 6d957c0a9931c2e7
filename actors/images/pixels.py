"""Turn an image file's bytes into the pixels that a vision model takes, equal to its own processor's.

An image is decoded, turned upright, resized and cropped to uint8 pixels, on any machine; the encoder scales
them to floats. An image that fails never stops the others, whatever is in its file.

    preprocess = read_preprocess("models/clip-ViT-B-32")
    pixels = preprocess(Path("dog.jpg").read_bytes())  # (224, 224, 3) uint8
    pixels, reasons = decode([b"...", b"..."], preprocess, threads=4)
"""

import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from actors.images.image_files import MAX_PIXELS, ImageError, read_rgb
from actors.models import ModelError

IMAGE_SECONDS = 30.0
POLL_SECONDS = 0.5
WARPED_EDGE = 384  # from this edge on, ConvNext's processor resizes without cropping
PROCESSORS = ("CLIP", "ConvNext")  # transformers' image processors whose steps are known here


@dataclass(frozen=True)
class Preprocess:
    """Resizing, cropping and scaling of images, as a model's image processor does it.

    Attributes:
        size: (height, width) to resize to, or (edge,) for the shorter edge; empty leaves the size.
        crop: (height, width) to cut from the middle, padded with black if the image is smaller; empty
            cuts nothing.
        resample: Pillow's number of the filter to resize with.
        scale: Factor of pixels in 0..255, before mean and std are applied.
        mean: Mean of each channel, after the factor.
        std: Standard deviation of each channel, after the factor.
    """

    size: tuple[int, ...]
    crop: tuple[int, ...]
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each prepared image."""
        height, width = self.crop or self.size
        return height, width, 3

    @property
    def gain_and_shift(self) -> np.ndarray:
        """Gains and shifts of the channels, (2, 3) float32: the model takes pixel * gain + shift."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.stack([np.float32(self.scale) / std, -mean / std])

    def __call__(self, data: bytes) -> np.ndarray:
        """Decode and prepare an image: pixels of `shape`, uint8.

        They equal those of the model's image processor in transformers (its Pillow backend) before
        rescaling, for `ImageOps.exif_transpose` of the opened image.

        Args:
            data: Bytes of a file of one of `image_files.FORMATS`; of several frames the first is taken.

        Raises:
            ImageError: The file is empty, of another format, broken, or larger than MAX_PIXELS at any
                step.
        """
        image = read_rgb(data)
        if self.size:
            height, width = size_after_resizing(image.size[::-1], self.size)
            if height * width > MAX_PIXELS:
                raise ImageError(
                    f"{image.width:,} x {image.height:,} pixels would be {width:,} x {height:,} for"
                    f" the model, more than {MAX_PIXELS:,} in all"
                )
            image = image.resize((width, height), resample=Image.Resampling(self.resample))
        return _crop(np.asarray(image), self.crop) if self.crop else np.asarray(image)


def size_after_resizing(size: tuple[int, int], wanted: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image after resizing.

    Args:
        size: Height and width before.
        wanted: `Preprocess.size`.

    For (300, 600) and a shorter edge of (100,): (100, 200).
    """
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    height, width = size
    edge = wanted[0]
    longer = int(edge * max(height, width) / min(height, width))
    return (longer, edge) if width <= height else (edge, longer)


def _crop(pixels: np.ndarray, crop: tuple[int, ...]) -> np.ndarray:
    """Cut the middle, (*crop, 3) uint8, out of an image (height, width, 3); pad a smaller one with black."""
    lacking = [max(0, want - have) for want, have in zip(crop, pixels.shape, strict=False)]
    if any(lacking):
        # The larger half of the padding comes first, as the reference has it.
        sides = [(-(-lack // 2), lack // 2) for lack in lacking]
        pixels = np.pad(pixels, [*sides, (0, 0)])
    top, left = ((have - want) // 2 for want, have in zip(crop, pixels.shape, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]


def read_preprocess(folder: str | Path) -> Preprocess:
    """Read a model folder's preprocessor_config.json or, in newer folders, processor_config.json.

    Raises:
        ModelError: The file is missing, or names steps that are not known here.
    """
    paths = [Path(folder) / f"{name}_config.json" for name in ("preprocessor", "processor")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ModelError(f"{folder} takes no images: it has no {paths[0].name}.")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}. Download the model again.") from error
    config = config.get("image_processor", config)
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIP")
    size, crop = _edges(config.get("size", 224)), _edges(config.get("crop_size", 224))
    known = kind.startswith(PROCESSORS) and config.get("do_normalize", True)
    known = known and config.get("do_rescale", True) and not config.get("do_pad")
    if kind.startswith("ConvNext"):
        edge = size[0]
        crop = (edge, edge)
        size = (int(edge / config.get("crop_pct", 224 / 256)),) if edge < WARPED_EDGE else crop
    elif not config.get("do_center_crop", True):
        crop = ()
    elif len(crop) == 1:
        crop = crop * 2
    if not config.get("do_resize", True):
        size = ()
    if not known or (len(size) != 2 and not crop):
        raise ModelError(
            f"{path} describes steps that are not hosted ({kind}): expected a processor of"
            f" {', '.join(PROCESSORS)} that gives images of one size."
        )
    return Preprocess(
        size=size,
        crop=crop,
        resample=int(config.get("resample", Image.Resampling.BICUBIC)),
        scale=float(config.get("rescale_factor", 1 / 255)),
        mean=tuple(config["image_mean"]),
        std=tuple(config["image_std"]),
    )


def _edges(size: int | dict[str, int]) -> tuple[int, ...]:
    """A size as a tuple: 224 and {"shortest_edge": 224} become (224,); with both edges (height, width)."""
    if isinstance(size, int):
        return (size,)
    return (size["shortest_edge"],) if "shortest_edge" in size else (size["height"], size["width"])


def decode(
    images: Sequence[bytes | None],
    preprocess: Preprocess,
    *,
    threads: int,
    seconds: float = IMAGE_SECONDS,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode and prepare many images in threads; an image that fails is reported with its reason.

    Args:
        images: Bytes of n files; None is passed over.
        preprocess: Resizing and cropping of each image.
        threads: Number of threads; Pillow releases the GIL while it decodes.
        seconds: Time after which an image is given up; its thread, stuck in the decoder, is abandoned.

    Returns:
        Pixels (n, *preprocess.shape) uint8, zeros where there is no image, and reasons of failed images by
        index.
    """
    pixels = np.zeros((len(images), *preprocess.shape), np.uint8)
    reasons: dict[int, str] = {}
    rows = itertools.count()
    changed = threading.Condition()
    begun: dict[
        threading.Thread, tuple[int, float]
    ] = {}  # image that each thread decodes, since when
    alive: set[threading.Thread] = set()

    def work() -> None:
        me = threading.current_thread()
        while True:
            with changed:
                if me not in alive:
                    return
                row = next(rows)
                if row >= len(images):
                    alive.remove(me)
                    changed.notify()
                    return
                begun[me] = row, time.monotonic()
            data = images[row]
            if data is None:
                continue
            try:
                found, why = preprocess(data), ""
            except Exception as error:  # memory ran out, say: one image never stops the others
                found, why = None, str(error) or type(error).__name__
            with changed:
                if me in alive and found is not None:
                    pixels[row] = found
                elif me in alive:
                    reasons[row] = why

    def start() -> None:
        thread = threading.Thread(target=work, daemon=True, name="decode")
        alive.add(thread)
        begun[thread] = -1, time.monotonic()
        thread.start()

    with changed:
        for _ in range(min(threads, len(images))):
            start()
        while alive:
            changed.wait(POLL_SECONDS)
            for thread in list(alive):
                row, since = begun[thread]
                if time.monotonic() - since > seconds:
                    alive.remove(thread)
                    reasons[row] = f"decoding took over {seconds:g} s"
                    start()
    return pixels, reasons
