"""WebDataset: tar files in which what belongs together follows each other under one name.

    000017.jpg  000017.txt  000017.json  000017.cls

becomes one row with the image and the columns `caption` (.txt), `json` (as it is) and `label`
(.cls). Its id is the tar's name and the common one, `shard-0.tar/000017`. Nothing is unpacked to
disk.
"""

import itertools
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from sources.images import IMAGE_ENDINGS, image_column
from sources.opening import SourceFile
from sources.prepare import prepare
from sources.rows import IMAGE, MAX_BYTES, MAX_ROWS, Rows, SourceOptions, unread

COLUMNS = {".txt": "caption", ".json": "json", ".cls": "label"}
MAX_MEMBER_BYTES = 512 << 20
SCHEMA = pa.schema([("image", IMAGE), *((name, pa.string()) for name in COLUMNS.values())])


class _Sample(NamedTuple):
    """What lies in a tar under one name: the image's member, and columns by name."""

    name: str
    image: bytes | None
    path: str
    columns: dict[str, bytes]


def webdataset_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The columns of every sample; raises where the file is no tar."""
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.next()
    return SCHEMA


def read_webdataset(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream a tar's samples; those without an image are failures."""
    waiting: list[_Sample] = []
    n_bytes = position = 0
    try:
        with file.open() as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for sample in _samples(tar):
                waiting.append(sample)
                n_bytes += len(sample.image or b"")
                if len(waiting) >= MAX_ROWS or n_bytes >= MAX_BYTES:
                    yield _rows(waiting, file, options, position)
                    position, waiting, n_bytes = position + len(waiting), [], 0
    except Exception as error:  # a tar that was cut off, or each file system's own
        if waiting:
            yield _rows(waiting, file, options, position)
        yield unread(file.name, position + len(waiting), error)
        return
    if waiting:
        yield _rows(waiting, file, options, position)


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    """Files that follow each other under one name, taken together."""
    members = (member for member in tar if member.isfile())
    for name, group in itertools.groupby(members, lambda member: _split(member.name)[0]):
        image, path, columns = None, name, {}
        for member in group:
            ending = _split(member.name)[1]
            if ending not in COLUMNS and ending not in IMAGE_ENDINGS:
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise ValueError(f"{member.name} has {member.size:,} bytes, more than is read")
            opened = tar.extractfile(member)
            content = opened.read() if opened is not None else b""
            if ending in COLUMNS:
                columns[COLUMNS[ending]] = content
            else:
                image, path = content, member.name
        yield _Sample(name, image, path, columns)


def _split(name: str) -> tuple[str, str]:
    """Name and ending; the ending begins at the first dot of the file's name, as WebDataset has it."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _rows(samples: list[_Sample], file: SourceFile, options: SourceOptions, position: int) -> Rows:
    tar = file.name
    columns = {
        "image": image_column([s.image for s in samples], [f"{tar}/{s.path}" for s in samples])
    }
    for name in COLUMNS.values():
        columns[name] = pa.array([_text(s.columns.get(name)) for s in samples], pa.string())
    positions = range(position, position + len(samples))
    ids = [f"{tar}/{sample.name}" for sample in samples]
    return prepare(pa.table(columns), options, tar, positions, numbers=file.number, ids=ids)


def _text(value: bytes | None) -> str | None:
    """A caption, a class or JSON; None where it is not UTF-8, which costs the image nothing."""
    if value is None:
        return None
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return None
