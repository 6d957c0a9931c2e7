import base64
import io

import numpy as np
from PIL import Image

from jobs.analysis.plots import thumbnail
from tests.support.pictures import file_of, turned


def opened(address):
    data = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_thumbnail_shows_what_is_embedded():
    ramp = np.linspace(0, 65535, 192).astype(np.uint16)[None].repeat(96, 0)
    small = opened(thumbnail(file_of(Image.fromarray(ramp), exif=turned(6))))
    assert small.shape == (96, 48, 3)  # upright
    assert np.abs(small[:, 24, 0] - np.linspace(0, 255, 96)).max() < 8
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert opened(thumbnail(file_of(clear))).min() > 250
    assert thumbnail(b"no image") is None
