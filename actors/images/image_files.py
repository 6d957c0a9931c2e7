"""Decode an image file's bytes to 8-bit RGB: the first frame, upright, transparency on white.

    image = read_rgb(Path("dog.jpg").read_bytes())  # a PIL.Image.Image of mode RGB

Images of more than 8 bits a channel are scaled as a viewer shows them (`to_eight_bits`).
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

MAX_PIXELS = 89_478_485  # Pillow's own bound; a bomb of a few kB decodes to gigabytes
WHITES = (255, 4095, 65535)  # white in images of 8, 12 and 16 bits
BLOCK = 1 << 20  # pixels that are converted to 64-bit floats at a time
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

Image.init()  # else Pillow knows some of FORMATS only once it has failed with the others
# Pillow warns of too many pixels, which we refuse, and of broken EXIF blocks, which we do not need.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Images are decoded by several threads already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    pillow_heif.options.DECODE_THREADS = 1

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"),
    *(["AVIF"] if features.check("avif") else []),
    *(["HEIF"] if "HEIF" in Image.OPEN else []),
)
KNOWN_FORMATS = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}".replace("WEBP", "WebP")


class ImageError(ValueError):
    """An image cannot be embedded; the message becomes its reason in the failures table."""


def read_rgb(data: bytes, edge: int | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: Bytes of a file of one of FORMATS; of several frames the first is taken.
        edge: Shortest edge, in pixels, that a JPEG may be reduced to while it is decoded; None decodes it
            at its full size.

    Raises:
        ImageError: The file is empty, of another format, broken, or larger than MAX_PIXELS.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        return _decode(data, edge)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unknown_reason(data)) from None
    except Exception as error:  # decoders raise what they like, also SyntaxError
        raise ImageError(str(error) or type(error).__name__) from error


def _unknown_reason(data: bytes) -> str:
    """Reason why Pillow cannot open a file."""
    if "HEIF" not in FORMATS and data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        return "an image in HEIF (.heic), which needs pillow-heif: pip install -e '.[heif]'"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF that is broken, or whose kind of pixels Pillow does not read"
    return f"no image that can be read: expected {KNOWN_FORMATS}"


def _decode(data: bytes, edge: int | None) -> Image.Image:
    """Decode a file with Pillow; arguments as of `read_rgb`. Raises whatever Pillow's decoders raise."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as file:
        if file.width * file.height > MAX_PIXELS:
            raise ImageError(
                f"{file.width:,} x {file.height:,} pixels, more than {MAX_PIXELS:,} in all"
            )
        if edge is not None:
            file.draft("RGB", (edge, edge))
        file.load()
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith(("I", "F")):  # integers and floats of 12 bits and more
            return Image.fromarray(_to_grey(image, file)).convert("RGB")
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def _to_grey(image: Image.Image, file: Image.Image) -> np.ndarray:
    """Grey values (height, width) uint8 of an image of more than 8 bits.

    Args:
        image: The image, upright.
        file: The image as it was opened, which has the tags of a TIFF.
    """
    values = np.asarray(image)
    tags = getattr(file, "tag_v2", {})
    kind = tags.get(SAMPLEFORMAT, 1)
    if image.mode == "I" and tags and kind in (1, (1,)):
        values = values.view(np.uint32)  # Pillow has signed ones alone
    grey = to_eight_bits(values)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        grey = 255 - grey
    clear = image.info.get("transparency")
    if clear is not None:
        grey[values == clear] = 255
    return grey


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values of any depth to 8 bits, as a viewer shows them.

    Black is 0, and white the first of 1 (for floats), 255, 4095 and 65535 that no value exceeds: the 12
    bits of a camera, in an image of 16, count as 12. If values are negative or larger than all of these,
    black is the smallest value and white the largest; if both are equal, all is black. Infinite values
    are black or white, and NaN is black.

    >>> to_eight_bits(np.array([[0, 257, 65535]], np.uint16))
    array([[  0,   1, 255]], dtype=uint8)

    Args:
        values: (height, width) integers or floats.

    Returns:
        (height, width) uint8.

    Raises:
        ImageError: No value is a finite number.
    """
    black, white = _black_and_white(values)
    gain = 255 / (white - black) if white > black else 0.0
    flat = values.reshape(-1)
    grey = np.empty(len(flat), np.uint8)
    with np.errstate(invalid="ignore"):  # infinite times 0
        for start in range(0, len(flat), BLOCK):
            block = (flat[start : start + BLOCK].astype(np.float64) - black) * gain
            block = np.nan_to_num(block, nan=0.0, posinf=255.0, neginf=0.0)
            grey[start : start + BLOCK] = np.rint(block.clip(0, 255))
    return grey.reshape(values.shape)


def _black_and_white(values: np.ndarray) -> tuple[float, float]:
    """The values that `to_eight_bits` shows as black and as white; values (height, width)."""
    if values.dtype.kind == "f":
        is_finite = np.isfinite(values)
        low = float(values.min(initial=np.inf, where=is_finite))
        high = float(values.max(initial=-np.inf, where=is_finite))
        whites: tuple[int, ...] = (1, *WHITES)
    else:
        low, high, whites = float(values.min()), float(values.max()), WHITES
    if low > high:
        raise ImageError("no pixel of it is a finite number")
    white = next((white for white in whites if high <= white), None)
    return (0.0, float(white)) if low >= 0 and white is not None else (low, high)
