"""WebDataset: tar files in which consecutive members with one key are one sample.

    000017.jpg  000017.txt  000017.json  000017.cls

becomes one row with the image and the columns `caption` (.txt), `json` (as it is) and `label`
(.cls). A key is the path up to the first dot of the file's name; the row's id is the tar's name and
the key, `shard-0.tar/000017`.

Of several images under one key each is a row. A name with more dots, such as `000017.left.jpg`, is an
id as it stands, `shard-0.tar/000017.left.jpg`, whatever stands beside it; its caption is
`000017.left.txt`, else that of the key. Of `000017.jpg` and `000017.png` the first by name has the key
for its id, and the other image its whole name. Columns that belong to no image are failures, files of
other kinds are left out. Nothing is unpacked to disk.
"""

import itertools
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple, cast

import pyarrow as pa

from sources.formats.images import ALL_IMAGE_ENDINGS, image_column
from sources.opening import SourceFile
from sources.prepare import prepare
from sources.rows import IMAGE, MAX_BYTES, MAX_ROWS, Failure, Rows, SourceOptions, file_failure

COLUMNS = {".txt": "caption", ".json": "json", ".cls": "label"}
MAX_MEMBER_BYTES = 512 << 20
BLOCK = 512  # bytes of a tar's header; two of zeros end it
SCHEMA = pa.schema([("image", IMAGE), *((name, pa.string()) for name in COLUMNS.values())])


class _Name(NamedTuple):
    """A member's path, and parts of it: `a/1.left.JPG` has key `a/1`, stem `a/1.left`, ending `.jpg`."""

    path: str
    key: str
    stem: str
    ending: str


class _Item(NamedTuple):
    """An image and its columns; or a member that failed, with a reason; or the ending of a member left out."""

    id: str
    path: str
    image: bytes = b""
    columns: Mapping[str, str] = {}
    reason: str = ""
    left_out: str = ""


class _TailStream:
    """A stream that is read once from start to end, and keeps its last block."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.last = (self.last + data)[-BLOCK:]
        return data


def webdataset_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The columns of every sample; raises an error if the file is no tar."""
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.next()
    return SCHEMA


def read_webdataset(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream the images of a tar; a member that belongs to no image is a failure, or left out."""
    items: list[_Item] = []
    n_bytes = position = 0
    error = None

    def rows() -> Rows:
        nonlocal items, n_bytes, position
        ready, items, n_bytes = items, [], 0
        start, position = position, position + sum(not item.left_out for item in ready)
        return _rows(ready, file, options, start)

    try:
        with file.open() as stream:
            watched = _TailStream(stream)
            with tarfile.open(fileobj=cast(IO[bytes], watched), mode="r|") as tar:
                for item in _items(tar):
                    items.append(item)
                    n_bytes += len(item.image)
                    if len(items) >= MAX_ROWS or n_bytes >= MAX_BYTES:
                        yield rows()
                _check_end(tar, watched)
    except Exception as stopped:  # a tar that was cut off, or each file system's own
        error = stopped
    if items:
        yield rows()
    if error:
        yield file_failure(file.name, position, error)


def _items(tar: tarfile.TarFile) -> Iterator[_Item]:
    """The items of a tar, in order; columns come with their images."""
    members = ((_name(member), member) for member in tar if not member.isdir())
    shown = (found for found in members if not found[0].path.rpartition("/")[2].startswith("."))
    for _, sample in itertools.groupby(shown, lambda found: found[0].key):
        yield from _sample(tar, sample)


def _name(member: tarfile.TarInfo) -> _Name:
    path = member.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    folder, slash, last = path.rpartition("/")
    stem, dot, ending = last.rpartition(".") if "." in last else (last, "", "")
    key = last.partition(".")[0]
    return _Name(path, folder + slash + key, folder + slash + stem, (dot + ending).lower())


def _sample(
    tar: tarfile.TarFile, members: Iterable[tuple[_Name, tarfile.TarInfo]]
) -> Iterator[_Item]:
    """The images under one key, and failures for the members that belong to none of them."""
    sample, stem = _Sample(), ""
    for name, member in members:
        if sample.n_bytes >= MAX_BYTES and name.stem != stem:  # one key may be a whole tar's
            yield from sample.rows()
        stem = name.stem
        if name.ending not in COLUMNS and name.ending not in ALL_IMAGE_ENDINGS:
            yield _Item(name.path, name.path, left_out=name.ending or "none")
            continue
        opened = None if (reason := sample.objection(name, member)) else tar.extractfile(member)
        if opened is not None:
            reason = sample.add(name, opened.read())
        if reason:
            yield _Item(name.path, name.path, reason=reason)
    yield from sample.rows()
    yield from sample.failures()


class _Sample:
    """Consecutive members of a tar under one key.

    Attributes:
        n_bytes: Size of the images that wait to become rows.
    """

    def __init__(self) -> None:
        self.n_bytes = 0
        self._has_rows = False
        self._images: list[tuple[_Name, bytes]] = []
        self._texts: dict[tuple[str, str], str] = {}  # by stem and ending
        self._lonely: dict[tuple[str, str], _Name] = {}  # texts that no image has taken so far

    def objection(self, name: _Name, member: tarfile.TarInfo) -> str:
        """The reason why a member is not read; empty if it is read."""
        if not member.isfile():
            return "a link or a device, which is not followed"
        if member.size > MAX_MEMBER_BYTES:
            return f"{member.size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that are read"
        if (name.stem, name.ending) in self._texts:
            return "another member of its name and ending stands before it"
        if name.ending in COLUMNS and name.stem == name.key and self._has_rows:
            return f"{MAX_BYTES:,} bytes of images of its key stand before it: put it first"
        return ""

    def add(self, name: _Name, data: bytes) -> str:
        """Add a member; return the reason why it cannot be added, empty if it was added."""
        if name.ending not in COLUMNS:
            self._images.append((name, data))
            self.n_bytes += len(data)
            return ""
        at = name.stem, name.ending
        try:
            self._texts[at] = data.decode().strip()
        except UnicodeDecodeError as error:
            return f"{COLUMNS[name.ending]} is not UTF-8: byte {error.start}"
        self._lonely[at] = name
        return ""

    def rows(self) -> Iterator[_Item]:
        """Take the images that wait, each with its columns."""
        plain = [name.path for name, _ in self._images if name.stem == name.key]
        first = min(plain, default="")
        for name, data in self._images:
            columns = {}
            for ending, column in COLUMNS.items():
                own, common = (name.stem, ending), (name.key, ending)
                at = own if own in self._texts else common
                if at in self._texts:
                    columns[column] = self._texts[at]
                    self._lonely.pop(at, None)
            named = name.key if name.path == first else name.path
            yield _Item(named, name.path, data, columns)
        self._has_rows |= bool(self._images)
        self._images, self.n_bytes = [], 0

    def failures(self) -> Iterator[_Item]:
        """Failures for the columns that belong to no image, one for each stem."""
        for _, group in itertools.groupby(self._lonely.values(), lambda name: name.stem):
            names = list(group)
            endings = ", ".join(name.ending for name in names)
            reason = f"no image beside it under its key, only {endings}"
            yield _Item(names[0].path, names[0].path, reason=reason)


def _rows(items: Sequence[_Item], file: SourceFile, options: SourceOptions, position: int) -> Rows:
    tar = file.name
    others = Counter(f"{item.left_out} in a tar" for item in items if item.left_out)
    read = list(enumerate((item for item in items if not item.left_out), position))
    images = [(at, item) for at, item in read if not item.reason]
    columns = {
        "image": image_column(
            [item.image for _, item in images], [f"{tar}/{item.path}" for _, item in images]
        )
    }
    for name in COLUMNS.values():
        columns[name] = pa.array([item.columns.get(name) for _, item in images], pa.string())
    prepared = prepare(
        pa.table(columns),
        options,
        tar,
        [at for at, _ in images],
        numbers=file.number,
        ids=[f"{tar}/{item.id}" for _, item in images],
        failures=[
            Failure(f"{tar}/{item.id}", None, at, tar, "read", item.reason)
            for at, item in read
            if item.reason
        ],
    )
    return prepared._replace(left_out=others)


def _check_end(tar: tarfile.TarFile, watched: _TailStream) -> None:
    """Raise an error if a tar does not end as a tar should; tarfile stops quietly at a broken header.

    Raises:
        ValueError: More follows, or the blocks of zeros that end a tar are missing.
    """
    assert tar.fileobj is not None
    while data := tar.fileobj.read(MAX_BYTES):
        if data.strip(b"\0"):
            raise ValueError(
                "more follows after a header that is broken, or after the end of a first tar"
            )
    if len(watched.last) < BLOCK or watched.last.strip(b"\0"):
        raise ValueError(
            "the tar stops without the zeros that end it: it was cut off or not closed"
        )
