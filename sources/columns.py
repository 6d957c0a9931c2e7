"""Choice of a source's columns: text or image, id and others, checked before work starts."""

from dataclasses import replace

import pyarrow as pa

from schemas.columns import plain_type
from sources.rows import SourceError, SourceOptions

IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")


def with_columns(options: SourceOptions, schema: pa.Schema) -> SourceOptions:
    """The options with the column of texts or images filled in, checked against a file's columns.

    Raises:
        SourceError: A column does not exist, holds no images, or must be named because it cannot be guessed.
    """
    names = schema.names
    for option, wanted in (
        ("text", options.text_column),
        ("image", () if options.image_column is None else (options.image_column,)),
        ("id", () if options.id_column is None else (options.id_column,)),
        ("other", options.columns or ()),
    ):
        for name in wanted:
            if name not in names:
                raise SourceError(
                    f"{options.path} has no column {name!r} (asked for as {option} column). "
                    f"It has: {', '.join(names)}."
                )
    if options.text_column:
        return options
    images = [field.name for field in schema if _holds_images(field)]
    if options.image_column is not None and not is_image(schema.field(options.image_column).type):
        raise SourceError(
            f"Column {options.image_column!r} of {options.path} holds no images: expected bytes, or "
            f"a struct of bytes and path, got {schema.field(options.image_column).type}."
        )
    if options.image_column is not None:
        return options
    if len(images) > 1:
        raise SourceError(
            f"{options.path} has several columns of images ({', '.join(images)}). Name one."
        )
    if images:
        return replace(options, image_column=images[0])
    strings = [f.name for f in schema if is_text(f.type) and f.name != options.id_column]
    if "text" in names:
        strings = ["text"]
    if len(strings) != 1:
        found = "several columns of strings" if strings else "no column of strings"
        raise SourceError(
            f"{options.path} has no column 'text' and {found}, so the text column must be named. "
            f"Its columns: {', '.join(f'{f.name} ({f.type})' for f in schema)}."
        )
    return replace(options, text_column=tuple(strings))


def with_partition_columns(
    options: SourceOptions, schema: pa.Schema, partitions: pa.Schema
) -> SourceOptions:
    """The options of `with_columns`, where the columns to keep may also be partition columns.

    Partition columns are in the names of folders, not in the files.

    Raises:
        SourceError: As `with_columns`, or a partition column was asked for as text, image or id.
    """
    for name in options.own_columns:
        if name in partitions.names:
            raise SourceError(
                f"Column {name!r} of {options.path} is one of partitions, not of files: it is kept "
                "beside the rows, and can be neither their text nor image nor id."
            )
    kept = options.columns and tuple(n for n in options.columns if n not in partitions.names)
    return replace(with_columns(replace(options, columns=kept), schema), columns=options.columns)


def text_guess_remarks(given: SourceOptions, found: SourceOptions) -> list[str]:
    """A remark on the text column, in a list, if it was guessed from its type; else an empty list."""
    if given.text_column or found.text_column in ((), ("text",)):
        return []
    (name,) = found.text_column
    return [
        f"column {name!r} is taken for the text, as the only one of strings. --text-column names one."
    ]


def is_image(kind: pa.DataType) -> bool:
    """True if a column may hold image files: bytes, or a struct of bytes and path."""
    kind = plain_type(kind)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_images(field: pa.Field) -> bool:
    """True if a column surely holds image files: a struct, or bytes whose name says so."""
    named = field.name.lower() in IMAGE_NAMES
    return is_image(field.type) and (pa.types.is_struct(field.type) or named)


def is_text(kind: pa.DataType) -> bool:
    """True if a column holds strings, also in a dictionary or as views."""
    kind = plain_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
