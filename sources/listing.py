"""Listing of the files that a SOURCE names: one file, a folder, or a glob, local or at any fsspec address.

Files and folders whose names begin with a dot are hidden, AppleDouble's `._x` among them. What tables and
archives keep beside their rows is not listed either: the folders `_delta_log`, `_spark_metadata`,
`_temporary` and `__MACOSX`, and the files `_SUCCESS`, `_metadata`, `_common_metadata`, `_committed_*` and
`_started_*`. All other files are listed, also those whose names begin with `_`: a source reads each of them
or counts it as left out.

The files of a Delta, Iceberg or Hudi table also hold deleted and overwritten rows. A SOURCE with such a
table below it is refused; `sources.delta` reads a SOURCE that is a Delta table itself.
"""

import contextlib
import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate
from pyarrow.fs import FileSelector, FileType

from schemas.delta.places import StoreError, filesystem, in_store, reason, split_bucket
from sources.opening import ending
from sources.partitions import NONE, partition_columns, partition_of
from sources.rows import SourceError, SourceOptions, failure_reason

_MAGIC = re.compile(r"[*?[]")
_BESIDE_ROWS = re.compile(
    r"(?:^|/)(?:(?:_delta_log|_spark_metadata|_temporary|__MACOSX|\.hoodie)/"
    r"|(?:_SUCCESS|_metadata|_common_metadata|_(?:committed|started)_[^/]*)$)"
)
_MARK_OF_TABLE = re.compile(r"(?:^|/)(_delta_log/|\.hoodie/|metadata/[^/]+\.metadata\.json$)")
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}


class ListedFile(NamedTuple):
    """A file in the listing of a SOURCE.

    Attributes:
        name: Path relative to SOURCE, with `/`.
        size_bytes: Size in the file system.
        partition: Values of partition columns for all rows of the file, by column.
    """

    name: str
    size_bytes: int
    partition: Mapping[str, object] = NONE


@dataclass(frozen=True)
class Listing:
    """The files of a SOURCE.

    Attributes:
        root: The folder that the names are relative to.
        files: The files sorted by name, without hidden files and what tables keep beside their rows.
        unlisted: (name, reason) of each folder or link that could not be listed.
        partitions: The partition columns of all files.
    """

    root: str
    files: tuple[ListedFile, ...]
    unlisted: tuple[tuple[str, str], ...] = ()
    partitions: pa.Schema = pa.schema([])


class Place:
    """The place of a SOURCE, path and file system; its files are listed when first asked for.

    Attributes:
        fs: The file system of SOURCE; in an object store, that of its bucket.
        path: The path of SOURCE in that file system.
    """

    def __init__(self, options: SourceOptions) -> None:
        """Find the file system of SOURCE.

        Raises:
            SourceError: The protocol is unknown or its library is not installed.
        """
        self.options = options
        try:
            if in_store(options.path):
                bucket, path = split_bucket(options.path)
                folder = filesystem(bucket, options.storage_options)
                self.fs, path = ArrowFSWrapper(folder, skip_instance_cache=True), f"/{path}"
            else:
                self.fs, path = url_to_fs(options.path, **_fsspec_options(options.storage_options))
        except StoreError as error:
            raise SourceError(f"Cannot read {options.path}: {error}") from error
        except (ImportError, ValueError, TypeError) as error:
            raise SourceError(
                f"Cannot open {options.path}: {failure_reason(error)}. Expected a local path or an "
                "address (s3://, gs://, or one that fsspec knows, with its library installed)."
            ) from error
        self.path = path.rstrip("/") or "/"

    @property
    def exists(self) -> bool:
        """True if SOURCE is an existing file or folder, or a glob or an address."""
        written = self.options.path
        return "://" in written or bool(_MAGIC.search(written)) or self.fs.exists(self.path)

    @cached_property
    def listing(self) -> Listing:
        """The files that SOURCE names.

        Raises:
            SourceError: There is no such path, the glob matches nothing, or the folder is empty.
        """
        path, shown = self.path, self.options.path
        if self.kind == "file":
            root, _, name = path.rpartition("/")
            return Listing(root or "/", (ListedFile(name, self.fs.size(path)),))
        unlisted: list[tuple[str, str]] = []
        if self.kind == "directory":
            files = self._files(path, unlisted)
            if not files and not unlisted:
                raise SourceError(
                    f"Folder {shown} is empty, or holds hidden files alone (their names begin with a "
                    "dot) and what tables keep beside their rows, such as _SUCCESS."
                )
            return _with_partitions(path, files, unlisted)
        root = self.base
        if root == path:
            raise SourceError(self.missing_message())
        files = self._files(root, unlisted, glob_translate(path[len(root) :].lstrip("/")))
        if not files:
            raise SourceError(
                f"The glob {shown} matches no file. {describe_nearest_folder(self.fs, root + '/*')} A glob names "
                "files, not folders: `*` is any name, `**/` any folders; quote it for the shell."
            )
        return _with_partitions(root, files, unlisted)

    @cached_property
    def base(self) -> str:
        """The path of SOURCE, or of a glob the folder before its first wildcard."""
        magic = None if self.kind else _MAGIC.search(self.path)
        if magic is None:
            return self.path
        return self.path[: magic.start()].rpartition("/")[0] or "/"

    def _files(
        self, root: str, unlisted: list[tuple[str, str]], pattern: str = ".*"
    ) -> list[ListedFile]:
        """The files below a folder whose names match a pattern, sorted.

        Args:
            root: The folder.
            unlisted: A list to which folders and links that cannot be listed are added.
            pattern: Regular expression that names match from their start.

        Raises:
            SourceError: Some of the files belong to a table below the folder.
        """
        matches = re.compile(pattern, re.DOTALL).match
        files, tables = [], {}
        for file in _walk(self.fs, root, unlisted):
            is_beside = _BESIDE_ROWS.search(file.name)
            if is_beside or file.name.endswith(".metadata.json"):
                mark = _MARK_OF_TABLE.search(file.name)
                if mark:
                    tables[file.name[: mark.start()]] = _TABLES[mark[1].partition("/")[0]]
            if not is_beside and matches(file.name):
                files.append(file)
        for folder, kind in sorted(tables.items()):
            is_source = kind == "Delta" and not folder  # then its rows are read
            if not is_source and any(f.name.startswith(f"{folder}/" * bool(folder)) for f in files):
                way = "Give that folder as SOURCE." if kind == "Delta" else "Export its rows first."
                raise SourceError(
                    f"{self.options.path} holds files of a table of {kind}, "
                    f"{root.rstrip('/')}/{folder}. Read one by one they bring back deleted and "
                    f"overwritten rows. {way}"
                )
        return sorted(files)

    @cached_property
    def kind(self) -> str:
        """`file`, `directory`, or empty if SOURCE is neither.

        Raises:
            SourceError: The object store refuses the question, or there is no such bucket.
        """
        if not isinstance(self.fs, ArrowFSWrapper):
            is_folder = "directory" if self.fs.isdir(self.path) else ""
            return "file" if self.fs.isfile(self.path) else is_folder
        try:
            with contextlib.suppress(FileNotFoundError):
                return str(self.fs.info(self.path)["type"])
            self.fs.info("/")  # not before: who may read a folder may not always ask for its bucket
        except FileNotFoundError as error:
            raise SourceError(
                f"There is no bucket {split_bucket(self.options.path)[0]}. Check its name, AWS_REGION "
                "and AWS_ENDPOINT_URL."
            ) from error
        except OSError as error:
            raise SourceError(f"Cannot read {self.options.path}: {reason(error)}") from error
        return ""

    def missing_message(self) -> str:
        """The message that SOURCE does not exist, with what is where it was expected."""
        return f"There is no file or folder {self.options.path}. {describe_nearest_folder(self.fs, self.path)}"


def _with_partitions(
    root: str, files: Sequence[ListedFile], unlisted: Sequence[tuple[str, str]]
) -> Listing:
    found = tuple(
        file._replace(partition=partition_of(file.name)) if "=" in file.name else file
        for file in files
    )
    columns = partition_columns(file.partition for file in found)
    return Listing(root, found, tuple(unlisted), columns)


def endings(files: Iterable[ListedFile]) -> dict[str, int]:
    """Number of files of each ending, most first; `none` for files without an ending."""
    found = (ending(file.name) or PurePosixPath(file.name).suffix for file in files)
    counts = Counter(one or "none" for one in found)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_nearest_folder(fs: AbstractFileSystem, path: str) -> str:
    """A sentence on what is in the nearest folder above a path, and on the name most like the wanted one."""
    folder = PurePosixPath(path).parent
    while not fs.isdir(str(folder)) and folder != folder.parent:
        folder = folder.parent
    try:
        inside = (PurePosixPath(name).name for name in fs.ls(str(folder), detail=False))
        names = sorted(name for name in inside if not _is_hidden(name))
    except OSError:
        names = []
    wanted = PurePosixPath(path).relative_to(folder).parts[0]
    close = difflib.get_close_matches(wanted, names, n=1)
    named = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{folder} holds {named or 'nothing'}.{guess}"


def _walk(
    fs: AbstractFileSystem, root: str, unlisted: list[tuple[str, str]]
) -> Iterator[ListedFile]:
    """All files below a folder except hidden ones, in any order."""
    if isinstance(fs, LocalFileSystem):
        return _walk_local(root, unlisted)
    if isinstance(fs, ArrowFSWrapper):
        return _walk_store(fs, root)
    return _walk_other(fs, root, unlisted)


def _walk_other(
    fs: AbstractFileSystem, root: str, unlisted: list[tuple[str, str]]
) -> Iterator[ListedFile]:
    """Files below a folder of any file system that fsspec knows."""

    def failed(error: Exception) -> None:
        unlisted.append((root, failure_reason(error)))

    skip = len(root.rstrip("/")) + 1
    for path, info in fs.find(root, detail=True, on_error=failed).items():
        name = path[skip:]
        if not _is_hidden(name):
            yield ListedFile(name, info["size"] or 0)


def _walk_store(fs: ArrowFSWrapper, root: str) -> Iterator[ListedFile]:
    """Files below a prefix of an object store, a thousand keys a request."""
    folder = root.strip("/")
    try:
        found = fs.fs.get_file_info(FileSelector(folder, recursive=True))
    except OSError as error:
        raise SourceError(f"Cannot list {folder}: {reason(error)}") from error
    for info in found:
        name = info.path[len(folder) :].lstrip("/")
        if info.type == FileType.File and not _is_hidden(name):
            yield ListedFile(name, info.size)


def _walk_local(root: str, unlisted: list[tuple[str, str]]) -> Iterator[ListedFile]:
    """Files below a local folder; links are followed, but each real folder is entered once."""
    seen: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        unlisted.append((os.path.relpath(error.filename, root), failure_reason(error)))

    for folder, subfolders, names in os.walk(root, onerror=failed, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        below = os.path.relpath(folder, root)
        start = "" if below == "." else f"{below}/"
        for name in names:
            if _is_hidden(name):
                continue
            path, relative = os.path.join(folder, name), start + name
            try:
                status = os.stat(path)
            except OSError:  # a link that leads nowhere: to open it will tell why
                yield ListedFile(relative, os.lstat(path).st_size)
                continue
            if stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
                yield ListedFile(relative, status.st_size)


def _fsspec_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options for fsspec, without those of object stores, which may be meant for TABLE alone."""
    mine = ("aws_", "azure_", "google_")
    return {name: value for name, value in options.items() if not name.lower().startswith(mine)}


def _is_hidden(name: str) -> bool:
    """True if a part of a path begins with a dot; `.hoodie` is no hidden folder but marks a Hudi table."""
    return any(part.startswith(".") and part != ".hoodie" for part in name.split("/"))
