"""From an image file's bytes to the pixels that a vision model takes, as its reference makes them.

Decoding, turning upright, RGB, resizing and cropping give uint8 and may happen far from the model;
scaling to floats happens beside it. One image never stops the others, whatever is in its file.

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
WARPED_EDGE = 384  # from here on ConvNext's processor resizes without cropping
PROCESSORS = ("CLIP", "ConvNext")  # those whose steps are known here


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image before a model sees it.

    Attributes:
        size: (height, width) to resize to, or (edge,) for the shorter edge; empty: not resized.
        crop: (height, width) cut from the middle, padded with black where the image is smaller.
        resample: Pillow's number of the filter.
        scale: Factor from 0..255 to the floats that mean and std are of.
        mean: Of each channel.
        std: Of each channel.
    """

    size: tuple[int, ...]
    crop: tuple[int, ...]
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image that comes out."""
        height, width = self.crop or self.size
        return height, width, 3

    @property
    def gain_and_shift(self) -> np.ndarray:
        """(2, 3) float32: a pixel times the gain of its channel, plus its shift, is what a model takes."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.stack([np.float32(self.scale) / std, -mean / std])

    def __call__(self, data: bytes) -> np.ndarray:
        """Pixels of `shape`, uint8.

        Equal to those of the model's image processor in transformers (its Pillow backend) before
        rescaling, for `ImageOps.exif_transpose` of the opened image.

        Args:
            data: A file of one of FORMATS; of several frames the first is taken.

        Raises:
            ImageError: Empty, of another format, broken, or larger than MAX_PIXELS at any step.
        """
        image = read_rgb(data)
        if self.size:
            height, width = resized(image.size[::-1], self.size)
            if height * width > MAX_PIXELS:
                raise ImageError(
                    f"{image.width:,} x {image.height:,} pixels would be {width:,} x {height:,} for"
                    f" the model, more than {MAX_PIXELS:,} in all"
                )
            image = image.resize((width, height), resample=Image.Resampling(self.resample))
        return _cropped(np.asarray(image), self.crop) if self.crop else np.asarray(image)


def resized(size: tuple[int, int], wanted: tuple[int, ...]) -> tuple[int, int]:
    """Height and width after resizing: (300, 600) with (100,) for the shorter edge: (100, 200)."""
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    height, width = size
    edge = wanted[0]
    longer = int(edge * max(height, width) / min(height, width))
    return (longer, edge) if width <= height else (edge, longer)


def _cropped(pixels: np.ndarray, crop: tuple[int, ...]) -> np.ndarray:
    """The middle, (height, width, 3)."""
    lacking = [max(0, want - have) for want, have in zip(crop, pixels.shape, strict=False)]
    if any(lacking):
        # The larger half of the padding comes first, as the reference has it.
        sides = [(-(-lack // 2), lack // 2) for lack in lacking]
        pixels = np.pad(pixels, [*sides, (0, 0)])
    top, left = ((have - want) // 2 for want, have in zip(crop, pixels.shape, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]


def read_preprocess(folder: str | Path) -> Preprocess:
    """What a model folder says in preprocessor_config.json, or in the processor_config.json of late.

    Raises:
        ModelError: The file is missing, or asks for steps that are not known here.
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
    """A size as a processor's config writes it: 224, {"shortest_edge": 224}, or both edges."""
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
    """Pixels of many images; one that cannot be had is named with its reason.

    Args:
        images: Files' bytes; None is left out.
        preprocess: What to do to each.
        threads: That decode at once; Pillow leaves other threads alone while it works.
        seconds: After which an image is given up. The thread that is stuck in it is left behind.

    Returns:
        (n, *preprocess.shape) uint8, zeros where there is no image, and reasons by index.
    """
    pixels = np.zeros((len(images), *preprocess.shape), np.uint8)
    reasons: dict[int, str] = {}
    rows = itertools.count()
    changed = threading.Condition()
    begun: dict[threading.Thread, tuple[int, float]] = {}  # what each thread is at, since when
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
