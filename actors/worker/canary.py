"""The canary: vectors of a few fixed texts or images, which show if a model's results have changed.

A recipe hashes weights, settings and tokenizer, but not the software that computes with them: a new
version of a library, a driver or a kernel shows here. The canary is always computed in fp32, so that the
precision of a run makes no difference; a half precision is compared with fp32 when it is chosen
(`actors.engine.precision`).

    canary_of(encoder, preprocess=None).values  # (3, 256) float32 at the most
"""

import importlib.metadata
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from actors.engine.engine import Encoder
from actors.images.pixels import Preprocess
from schemas.canary import Canary
from schemas.errors import named_error_line

VERSION = 1  # raised when the texts or images change
COMPUTE = ("torch", "transformers")
VALUES = 256  # values of each vector, evenly spread, that are compared
SENTENCES = (
    "A ferry left the harbour at dawn with forty passengers and a cargo of green apples.",
    "The bank raised its rates on Tuesday, and shares of builders fell by 3.2 percent.",
    "Nobody in the village remembers who planted the oak behind the school.",
    "Zwei Züge stehen seit gestern im Schnee, und niemand weiß, wann sie weiterfahren.",
    "Her brother repairs violins; his workshop smells of glue, spruce and coffee.",
    "El río creció durante la noche y se llevó el puente viejo.",
    "if (count > 0) { total += price * count; } // taxes come later",
    "Mix flour, salt and 250 ml of water, knead for ten minutes, and let it rest.",
    "今天的会议改到下午三点，地点不变。",
    "The comet will be seen low in the west after sunset until the end of the month.",
    "Judges asked why the letter had lain unopened in a drawer for eleven years.",
    "La neige est tombée sur les vignes, ce qui n'était plus arrivé depuis 1956.",
)
ROUNDS = 5  # over SENTENCES, in the long text: 139 words each, over 512 tokens for any tokenizer
# Each round takes the sentences in another order: a number without a divisor in common with 12.
STRIDES = (1, 5, 7, 11, 1)


def texts() -> list[str]:
    """The fixed texts: a word, two sentences, and a text of more than 512 tokens."""
    n = len(SENTENCES)
    rounds = [
        f"Part {turn + 1}. {SENTENCES[(turn + at * stride) % n]}"
        for turn, stride in enumerate(STRIDES[:ROUNDS])
        for at in range(n)
    ]
    return ["harbour", " ".join(SENTENCES[:2]), " ".join(rounds)]


def images() -> list[bytes]:
    """The fixed images, as PNG files: a wide one with slow gradients, one with fine stripes, a small one."""
    made = []
    for height, width, period in ((240, 320, 64), (500, 400, 5), (40, 60, 9)):
        y, x = np.mgrid[:height, :width]
        disc = (y - height / 3) ** 2 + (x - width / 2) ** 2 < (height / 4) ** 2
        stripes = ((x + 2 * y) // period * 37) % 256
        ramp = 255 * x // width
        pixels = np.stack([ramp, np.where(disc, 255 - ramp, stripes), 255 * y // height], axis=2)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    return made


class FixedItems:
    """Fixed texts or images that every worker embeds before its first window.

    Attributes:
        canary: Vectors of the fixed items, `schemas.canary.Canary` as text; None until they are embedded,
            and if that fails.
        remarks: Reason of a failure, for the user.
    """

    def __init__(self, model: str, preprocess: Preprocess | None) -> None:
        """Remember the model.

        Args:
            model: Name of the model, for remarks.
            preprocess: Resizing, cropping and scaling of images; None for a model of texts.
        """
        self.canary: str | None = None
        self.remarks: list[str] = []
        self._model, self._preprocess = model, preprocess

    def embed(self, encoder: Encoder) -> None:
        """Embed the fixed items and store their vectors in `canary`; the encoder computes in fp32."""
        try:
            self.canary = canary_of(encoder, self._preprocess).text()
        except Exception as error:  # whatever a forward pass raises, memory that ran out for one
            self.remarks.append(
                f"{self._model} could not embed the fixed texts or images by which its vectors are"
                f" compared with the table's: {named_error_line(error)}"
            )


def canary_of(encoder: Encoder, preprocess: Preprocess | None) -> Canary:
    """Embed `images` if a preprocess is given, else `texts`, one item at a time.

    Args:
        encoder: Encoder in fp32.
        preprocess: Resizing, cropping and scaling of images; None for a model of texts.

    Returns:
        The canary, with (n, at most VALUES) float32 values. A row is NaN if its item cannot be tokenised:
        a file of word vectors may hold none of its words.

    Raises:
        Exception: Whatever the encoder's forward pass raises.
    """
    items: Sequence[Any] = texts() if preprocess is None else [preprocess(f) for f in images()]
    at = np.linspace(0, encoder.dim - 1, min(encoder.dim, VALUES)).round().astype(int)
    values = np.full((len(items), len(at)), np.nan, np.float32)
    for row, item in enumerate(items):
        try:
            ids = encoder.tokenize([item] if preprocess is None else item[None]).ids
        except Exception:  # a family's own, as in `actors.engine.engine`
            continue
        values[row] = encoder.forward(ids)[0, at]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in COMPUTE]
    made_with = f"{' and '.join(versions)} on {encoder.setup.device}"
    return Canary(f"{'texts' if preprocess is None else 'images'} {VERSION}", values, made_with)
