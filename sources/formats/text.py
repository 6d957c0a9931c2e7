"""Text files: each file is one document, or each of its lines is one."""

from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence

import pyarrow as pa

from sources.formats.whole import read_whole
from sources.opening import Lines, SourceFile
from sources.prepare import prepare
from sources.rows import MAX_BYTES, MAX_ROWS, Rows, SourceOptions, file_failure


def text_schema(file: SourceFile, options: SourceOptions) -> pa.Schema:
    """The column `text`."""
    with file.open_text(options.encoding) as stream:
        stream.read(1)
    return pa.schema([("text", pa.string())])


def read_documents(files: Sequence[SourceFile], options: SourceOptions) -> Iterator[Rows]:
    """Stream text files, each a document whose id is the file's name."""

    def table_of(contents: list[bytes], _: list[str]) -> pa.Table:
        return text_table(contents)

    return read_whole(files, options, table_of, is_text=True)


def read_lines(file: SourceFile, options: SourceOptions) -> Iterator[Rows]:
    """Stream a file whose lines are documents; blank lines are not counted as rows."""
    texts: list[bytes] = []
    n_bytes = position = 0

    def rows() -> Rows:
        return prepare(
            text_table(texts),
            options,
            file.name,
            range(position, position + len(texts)),
            numbers=file.number,
            is_text_file=True,
        )

    lines = Lines(file, options.encoding)
    for line in lines.as_bytes():
        text = line.removeprefix(BOM_UTF8).rstrip(b"\r\n")
        if not text.strip():
            continue
        texts.append(text)
        n_bytes += len(text)
        if len(texts) >= MAX_ROWS or n_bytes >= MAX_BYTES:
            yield rows()
            position, texts, n_bytes = position + len(texts), [], 0
    if texts:
        yield rows()
    if lines.error:
        yield file_failure(file.name, position + len(texts), lines.error)


def text_table(texts: list[bytes]) -> pa.Table:
    """A table with the column `text`, not yet validated: `prepare` finds the rows that are not UTF-8."""
    return pa.table({"text": pa.array(texts, pa.large_binary())})
