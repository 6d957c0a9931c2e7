"""Images for tests and benchmarks: noise in many sizes, and files that are broken in many ways."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(4)


def noise(width, height, channels=3):
    return RNG.integers(0, 256, (height, width, channels), np.uint8).squeeze()


def file_of(image, kind="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def turned(number):
    """An EXIF block that says how an image is to be turned upright."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def noise_photos(n, low=20, high=80):
    """Files of noise, each of another size."""
    return [file_of(Image.fromarray(noise(*RNG.integers(low, high, 2)))) for _ in range(n)]


def bomb(width, height):
    """A PNG of a few hundred bytes that says it is huge."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(values, photometric=1):
    """A TIFF of (height, width[, channels]) values of any dtype and byte order; 0 is white if 0."""
    end = ">" if values.dtype.str[0] == ">" else "<"
    kind = "iuf".index(values.dtype.kind)
    shape, data = values.shape, values.tobytes()
    tags = {256: shape[1], 257: shape[0], 258: 8 * values.itemsize, 259: 1, 262: photometric}
    tags |= {273: 8, 277: shape[2] if len(shape) > 2 else 1, 278: shape[0], 279: len(data)}
    tags |= {339: (2, 1, 3)[kind]}  # signed, unsigned, floats
    parts = [struct.pack(f"{end}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    mark = b"II*\0" if end == "<" else b"MM\0*"
    head = mark + struct.pack(f"{end}I", 8 + len(data))
    return head + data + struct.pack(f"{end}H", len(tags)) + b"".join(parts) + bytes(4)


def animated():
    first, *others = (Image.fromarray(noise(40, 30)).convert("P") for _ in range(3))
    return file_of(first, "GIF", save_all=True, append_images=others)


GOOD = file_of(Image.fromarray(noise(40, 30)), "JPEG")
CMYK = file_of(Image.fromarray(noise(40, 30, 4), "CMYK"), "JPEG", icc_profile=b"no profile at all")
BROKEN = {
    "truncated": (GOOD[: len(GOOD) // 2], "truncated"),
    "no header": (b"\x89PNG\r\n\x1a\n", "image"),
    "empty": (b"", "the file is empty"),
    "a text": (b"this is a text\n" * 20, "expected JPEG, PNG, WebP"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "expected JPEG"),
    "a bomb": (bomb(12_000, 10_000), "12,000 x 10,000"),
    "a larger bomb": (bomb(300_000, 300_000), "exceeds limit"),
    "a strip": (
        file_of(Image.new("RGB", (60_000, 10))),
        "60,000 x 10 pixels would be",
    ),
}
"""Contents that cannot be embedded, with a part of the reason."""


def write_broken(folder, index):
    """Put a broken file, a rare one, or what only looks like a file, into a folder: ten kinds.

    Returns:
        (name, reason): the reason is None where the file can be embedded all the same, and the name
        is None for what is no file.
    """
    kinds = ("truncated", "empty", "a text", "a bomb", "a larger bomb", "a strip")
    kind = index % 10
    path = folder / f"{index:06}-broken.jpg"
    if kind < len(kinds):
        content, reason = BROKEN[kinds[kind]]
        path.write_bytes(content)
        return path.name, reason
    if kind == 6:
        path.mkdir()
        return None, None
    if kind == 7:
        path.symlink_to(path)
        return path.name, "Too many levels of symbolic links"
    path.write_bytes(animated() if kind == 8 else CMYK)
    return path.name, None
