"""Image files: each file is one image, and its folder may be its label."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import pyarrow as pa
from PIL import features

from sources.formats.whole import read_whole
from sources.opening import SourceFile
from sources.rows import IMAGE, Rows, SourceOptions

HEIF_ENDINGS = (".heic", ".heif")
NEEDS_HEIF = " HEIC photos need pillow-heif: pip install -e '.[heif]'"
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"),
    *([".avif"] if features.check("avif") else []),
    *(HEIF_ENDINGS if find_spec("pillow_heif") else []),
)
"""Endings of image files that this machine can decode; a folder's other files are left out."""
ALL_IMAGE_ENDINGS = tuple(dict.fromkeys((*IMAGE_ENDINGS, ".avif", *HEIF_ENDINGS)))
"""Endings of all image files, also of those for which a library must be installed first."""


def image_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The column `image`, and the column `label` if folders are labels."""
    label = [pa.field("label", pa.string())] if options.label_from_folder else []
    return pa.schema([pa.field("image", IMAGE), *label])


def read_images(files: Sequence[SourceFile], options: SourceOptions) -> Iterator[Rows]:
    """Stream image files, each a row whose id is the file's name; images are not decoded here."""

    def table_of(contents: list[bytes], names: list[str]) -> pa.Table:
        columns = {"image": image_column(contents, names)}
        if options.label_from_folder:
            columns["label"] = pa.array(map(_folder, names), pa.string())
        return pa.table(columns)

    return read_whole(files, options, table_of)


def image_column(contents: Sequence[bytes | None], paths: Sequence[str]) -> pa.StructArray:
    """A column of IMAGE, from the bytes of images and the paths they came from."""
    parts = [pa.array(contents, pa.large_binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(parts, fields=list(IMAGE))


def _folder(name: str) -> str | None:
    """The folder that a file lies in, None for a file of SOURCE itself."""
    return name.split("/")[-2] if "/" in name else None
