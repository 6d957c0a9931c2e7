"""Preparation of rows for embedding: from a reader's columns to text or image, content hash, id, row hash.

Every reader ends in `prepare`, so that a row is the same row whatever file it lay in. To hash a short row
takes about 0.4 microseconds, and as much again for each other column.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from schemas.cells import cast_column, json_column
from schemas.columns import SHADOWED, plain_type
from sources.opening import explain_not_utf8
from sources.row_hash import Hashes, hash_column
from sources.rows import (
    IMAGE,
    PREPARED_FIELDS,
    Failure,
    Rows,
    SourceOptions,
    failure_reason,
    failure_table,
)

Reasons = dict[int, str]


def prepare(
    table: pa.Table,
    options: SourceOptions,
    source_files: str | Sequence[str],
    positions: Sequence[int] | range,
    *,
    numbers: int | Sequence[int] = 0,
    ids: Sequence[str] | None = None,
    values: Mapping[str, Sequence[object]] = {},
    is_text_file: bool = False,
    failures: Iterable[Failure] = (),
) -> Rows:
    """Prepare rows; those that cannot be embedded become failures of stage `read`.

    Args:
        table: n rows with the text, id and other columns. Strings may hold invalid UTF-8.
        options: Which columns are which; `text_column` is not empty, or there is an `image_column`.
        source_files: The name of the file of all rows, or n names.
        positions: n indices of rows, each within its file.
        numbers: Index of the rows' file in the piece, one for all rows or n of them.
        ids: n ids where the file is the item; else the id column or the content hash is the id.
        values: n Python values for each other column that has no type of its own, as in JSON.
        is_text_file: The rows are of a file of plain text, which has an encoding and holds no NUL
            bytes.
        failures: Rows that the reader could not parse, to add to the failures.

    Returns:
        The good rows, in order, and all failures.
    """
    bad: Reasons = {}
    item = PREPARED_FIELDS[-1]
    if options.image_column is not None:
        images = _images(_plain(table[options.image_column]), bad)
        items, hashed = images, images.field("bytes")
        item = pa.field("image", images.type)
    else:
        columns = [_plain(table[name]) for name in options.text_column]
        items = hashed = _texts(columns, options.max_chars, bad)
    content = _content_hashes(hashed)
    found = pa.array(ids, pa.string()) if ids is not None else _ids(table, options, content, bad)
    others, row_hashes = _others(table, values, options, bad)
    number = pa.array(np.broadcast_to(np.asarray(numbers, np.uint32), len(table)))
    position = pa.array(positions, pa.uint32())
    good = pa.table(
        [
            found,
            content,
            pa.array(row_hashes, pa.uint64()),
            number,
            position,
            items,
            *others.values(),
        ],
        pa.schema([*PREPARED_FIELDS[:-1], item, *(pa.field(n, c.type) for n, c in others.items())]),
    )
    if is_text_file:
        _judge_text(table, bad, options.encoding)
    if bad:
        keep = np.ones(len(good), bool)
        keep[list(bad)] = False
        good = good.filter(pa.array(keep))
    return Rows(
        good,
        failure_table(
            [
                *failures,
                *(
                    Failure(
                        found[row].as_py(),
                        content[row].as_py() if hashed[row].is_valid else None,
                        positions[row],
                        source_files if isinstance(source_files, str) else source_files[row],
                        "read",
                        reason,
                    )
                    for row, reason in bad.items()
                ),
            ]
        ),
    )


def text_of(value: object) -> str | None:
    """A value as text: a string or None as it is, all else by `str`."""
    return value if value is None or isinstance(value, str) else str(value)


def id_of(value: object) -> str | None:
    """An id as a string, the same for 7 and 7.0, since readers infer different types."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return text_of(value)


def _texts(parts: list[pa.Array], max_chars: int | None, bad: Reasons) -> pa.Array:
    """The texts to embed, (n,) large_string; null where the text of a row is not valid."""
    strings = [_strings(part, "text", bad, text_of) for part in parts]
    texts = strings[0]
    if len(strings) > 1:
        known = pc.is_valid(pc.coalesce(*strings))
        newline, empty = (pa.scalar(part, pa.large_string()) for part in ("\n", ""))
        first = pc.if_else(known, strings[0], empty)  # Arrow drops rows whose parts are all null
        texts = pc.binary_join_element_wise(first, *strings[1:], newline, null_handling="skip")
        texts = pc.if_else(known, texts, pa.scalar(None, pa.large_string()))
    if max_chars is not None:
        texts = pc.utf8_slice_codeunits(texts, 0, max_chars)
    if bad:
        texts = _without(texts, bad)
    for row in _where(pc.is_null(texts)):
        bad.setdefault(row, "text is null")
    for row in _where(pc.equal(pc.binary_length(pc.utf8_ltrim_whitespace(texts)), 0)):
        bad.setdefault(row, "text is empty")
    return texts


def _judge_text(table: pa.Table, bad: Reasons, encoding: str) -> None:
    """Mark rows of a text file that hold NUL bytes as bad, and add to reasons how to name an encoding."""
    for name in table.column_names:
        column = _plain(table[name])
        data = column.buffers()[-1] if _holds_text(column.type) else None
        if data is not None and b"\0" in data.to_pybytes():
            for row in _where(pc.match_substring(column, "\0")):
                bad.setdefault(row, f"{name} holds a NUL byte, which no text has")
    bad.update({row: explain_not_utf8(reason, encoding) for row, reason in bad.items()})


def _images(column: pa.Array, bad: Reasons) -> pa.StructArray:
    """Images as a column of IMAGE; a row without bytes is marked as bad."""
    if pa.types.is_struct(column.type):
        names = [field.name for field in column.type]
        parts = dict(zip(names, column.flatten(), strict=True))  # a null struct has null fields
        data = parts["bytes"].cast(IMAGE.field("bytes").type)
        paths = parts["path"].cast(pa.string()) if "path" in parts else None
    else:
        data, paths = column.cast(IMAGE.field("bytes").type), None
    if paths is None:
        paths = pa.nulls(len(data), pa.string())
    for row in _where(pc.is_null(data)):
        named = paths[row].as_py()
        reason = f"image has no bytes, only the path {named!r}" if named else "image is null"
        bad.setdefault(row, reason)
    for row in _where(pc.equal(pc.binary_length(data), 0)):
        bad.setdefault(row, "the file is empty")
    return pa.StructArray.from_arrays([data, paths], fields=list(IMAGE))


def _content_hashes(items: pa.Array) -> pa.Array:
    encoded = items.cast(pa.large_binary()).fill_null(b"").to_pylist()
    digests = b"".join(map(xxh3_128_digest, encoded))
    return pa.Array.from_buffers(pa.binary(16), len(items), [None, pa.py_buffer(digests)])


def _ids(table: pa.Table, options: SourceOptions, content: pa.Array, bad: Reasons) -> pa.Array:
    if options.id_column is None:
        digits = content.buffers()[1].to_pybytes().hex().encode()
        offsets = np.arange(len(content) + 1, dtype=np.int32) * 32
        return pa.StringArray.from_buffers(
            len(content), pa.py_buffer(offsets), pa.py_buffer(digits)
        )
    wrong: Reasons = {}
    found = _strings(_plain(table[options.id_column]), "id", wrong, id_of).cast(pa.string())
    for row in _where(pc.is_null(found)):
        wrong.setdefault(row, "id is null")
    for row in _where(pc.equal(pc.binary_length(found), 0)):
        wrong[row] = "id is empty"
    for row, reason in wrong.items():
        bad.setdefault(row, reason)
    return found


def _others(
    table: pa.Table, untyped: Mapping[str, Sequence[object]], options: SourceOptions, bad: Reasons
) -> tuple[dict[str, pa.Array], Hashes]:
    """The other columns under the names they get, and the hash of each row, (n,) uint64."""
    hashes = np.zeros(len(table), np.uint64)
    ours = {"image", *(field.name for field in PREPARED_FIELDS)}
    others = {}
    for name in filter(options.wants, (*table.column_names, *untyped)):
        new = f"{SHADOWED}{name}" if name in ours else name
        if name in untyped:
            values = untyped[name]
            others[new] = json_column(values, options.types.get(new))
        else:
            others[new] = _plain(table[name])
            values = _values(others[new], name, bad)
        hashes += hash_column(name, values)
    return others, hashes


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array of a type that Arrow can filter and take: no views, no dictionaries."""
    return cast_column(column, plain_type(column.type))


def _strings(array: pa.Array, what: str, bad: Reasons, convert: Any) -> pa.Array:  # noqa: ANN401
    """A column as large_string of valid UTF-8; a row without valid text is null and marked as bad."""
    if pa.types.is_integer(array.type) or pa.types.is_null(array.type):
        return array.cast(pa.large_string())
    if not _holds_text(array.type):
        return pa.array(map(convert, _values(array, what, bad)), pa.large_string())
    encoded = array.cast(pa.large_binary())
    try:
        return encoded.cast(pa.large_string())  # Arrow validates UTF-8 only on the way from binary
    except pa.ArrowInvalid:
        wrong = _not_utf8(encoded, what)
        bad.update({row: reason for row, reason in wrong.items() if row not in bad})
        return _without(encoded, wrong).cast(pa.large_string())


def _holds_text(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_string,
            types.is_large_string,
            types.is_binary,
            types.is_large_binary,
        )
    )


def _not_utf8(encoded: pa.Array, what: str) -> Reasons:
    wrong = {}
    for row, value in enumerate(encoded.to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError as error:
            wrong[row] = f"{what} is not UTF-8: byte {error.start}"
    return wrong


def _values(array: pa.Array, what: str, bad: Reasons) -> list[object]:
    """The cells as Python values; a cell that Python cannot hold (bad UTF-8, year 10000) is None and bad."""
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        values = []
        for row, scalar in enumerate(array):
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError as error:
                bad.setdefault(row, f"{what} is not UTF-8: byte {error.start}")
                values.append(None)
            except (ValueError, OverflowError, pa.ArrowException) as error:
                bad.setdefault(row, f"{what} cannot be read: {failure_reason(error)}")
                values.append(None)
        return values


def _without(array: pa.Array, bad: Reasons) -> pa.Array:
    mask = np.zeros(len(array), bool)
    mask[list(bad)] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, array.type), array)


def _where(mask: pa.BooleanArray) -> list[int]:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()
