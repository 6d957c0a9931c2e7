"""Files of which each is one row, a text or an image; the id is the file's name."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa

from sources.opening import SourceFile
from sources.prepare import prepare
from sources.rows import MAX_BYTES, MAX_ROWS, Rows, SourceOptions, failure_reason, file_failure

THREADS = 16  # that read small files of an object store: each waits for the network, not for a core


def read_whole(
    files: Sequence[SourceFile],
    options: SourceOptions,
    table_of: Callable[[list[bytes], list[str]], pa.Table],
    *,
    is_text: bool = False,
) -> Iterator[Rows]:
    """Stream rows of whole files, one row a file.

    Args:
        files: Files of one kind.
        options: Which columns are which.
        table_of: Makes rows of files' contents and names.
        is_text: Convert contents to UTF-8 from the encoding of the files.
    """
    contents: list[bytes] = []
    read: list[SourceFile] = []
    n_bytes = 0

    def rows() -> Rows:
        names, numbers = [file.name for file in read], [file.number for file in read]
        table = table_of(contents, names)
        places = [0] * len(read)
        return prepare(
            table, options, names, places, numbers=numbers, ids=names, is_text_file=is_text
        )

    def open_file(file: SourceFile) -> IO[bytes]:
        return file.open_text(options.encoding) if is_text else file.open()

    for file, content in zip(files, _contents(files, open_file), strict=True):
        if isinstance(content, Exception):
            yield file_failure(file.name, 0, failure_reason(content))
            continue
        contents.append(content)
        read.append(file)
        n_bytes += len(content)
        if len(contents) >= MAX_ROWS or n_bytes >= MAX_BYTES:
            yield rows()
            contents, read, n_bytes = [], [], 0
    if contents:
        yield rows()


def _contents(
    files: Sequence[SourceFile], open_file: Callable[[SourceFile], IO[bytes]]
) -> Iterator[bytes | Exception]:
    """The content of each file, or the error that came up when it was read."""

    def content(file: SourceFile) -> bytes | Exception:
        try:
            with open_file(file) as stream:
                return stream.read()
        except Exception as error:  # each file system has errors of its own
            return error

    if any(file.is_far for file in files):
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(content, files)
    else:
        yield from map(content, files)
