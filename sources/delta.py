"""Delta tables as sources: the rows that a table holds at its current version.

The table's log says which files are live, what their partitions are, and which columns there are; files
of deleted and overwritten rows are never read. A folder, a glob or a file inside the table stands for the
live files in it. Rows of a table of embatch keep their ids, so that a second model can embed what a first
model did; the columns that embatch added to the source's columns are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas.delta.fragments import OutsideTable
from schemas.delta.places import StoreError, in_store, split_bucket
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint, textless_kind
from sources.columns import text_guess_remarks, with_partition_columns
from sources.folder import parquet_pieces
from sources.formats.parquet import read_parquet
from sources.listing import ListedFile, Place
from sources.opening import SourceFile
from sources.partitions import NONE, append_partitions, assign_partitions
from sources.rows import Piece, Rows, SourceError, SourceOptions, group_small

ADDED = ("content_hash", "row_hash", "n_tokens", "truncated", "embedding", "embedded_at")
"""Columns that embatch adds to the columns of a source."""


class DeltaSource:
    """The live files of a Delta table, listed once when the source is opened.

    Attributes:
        columns: The columns of the table that are kept beside text, image and id.
    """

    @staticmethod
    def matches(place: Place) -> bool:
        """True if SOURCE is a Delta table, or lies in one."""
        return place.exists and _root(place) is not None

    def __init__(self, place: Place) -> None:
        """Open the table and check the columns asked for.

        Raises:
            SourceError: The table cannot be read, a column does not exist, or a table of embatch holds
                no texts or images.
        """
        root = _root(place)
        assert root is not None, "matches"
        options = place.options
        if options.lines or options.label_from_folder:
            raise SourceError(
                f"{options.path} is a Delta table, whose rows are no lines and whose folders are no "
                "labels. Leave out --lines and --label-from-folder."
            )
        try:
            table = _open_table(place, root)
            names = list(table.handle.metadata().partition_columns)
            files, schema = _live_files(table, names), table.schema
        except (StoreError, OutsideTable) as error:
            raise SourceError(str(error)) from error
        self.fs, self.root = place.fs, root
        self._files: tuple[ListedFile, ...] | None = _files_within(files, place, root)
        partitions = pa.schema(schema.field(name) for name in names)
        self._schema = pa.schema(f for f in schema if f.name not in partitions.names)
        self._remarks: list[str] = []
        if len(self._files) < len(files):
            self._remarks.append(
                f"{options.path} lies in the Delta table {root}: {len(self._files):,} of its "
                f"{len(files):,} files are read."
            )
        if Fingerprint.of(schema) is not None:
            options = self._of_embatch(options, schema)
        self.options = with_partition_columns(options, self._schema, partitions)
        self._remarks += text_guess_remarks(options, self.options)
        self._partitions = pa.schema(f for f in partitions if self.options.wants(f.name))
        self.columns = tuple(filter(self.options.wants, schema.names))

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without the list of files, which only the driver needs and which can be long."""
        return {**self.__dict__, "_files": None}

    def pieces(self) -> list[Piece]:
        """Pieces of the table's files: parts of large files by row groups, small files together."""
        assert self._files is not None, "pieces are listed on the driver"
        cut = parquet_pieces((self._file(file.name), file.size_bytes) for file in self._files)
        pieces = group_small(chain.from_iterable(cut), lambda _: None)
        return list(
            assign_partitions(pieces, {f.name: f.partition for f in self._files if f.partition})
        )

    def unlisted(self) -> list[tuple[str, str]]:
        """An empty list: the table's log names every file."""
        return []

    def left_out(self) -> dict[str, int]:
        """An empty dict: files that are not live are no part of the table."""
        return {}

    def remarks(self) -> list[str]:
        """Remarks on what was guessed or left out, each with the option that says otherwise."""
        return self._remarks

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the rows of a piece; a column that a file lacks is null."""
        for number, name in enumerate(piece.files):
            file = self._file(name, number)
            for rows in read_parquet(file, self.options, piece.part, piece.first_row, self._schema):
                if piece.partitions:
                    by_content = self.options.id_column is None
                    rows = append_partitions(rows, piece, self._partitions, by_content=by_content)
                yield rows

    def _of_embatch(self, options: SourceOptions, schema: pa.Schema) -> SourceOptions:
        """The options for a table of embatch as source: its texts or images, under its ids."""
        is_of_images = not options.text_column and "image" in schema.names
        if is_of_images or options.image_column == "image":
            assert self._files is not None, "files are listed on the driver"
            if self._files and not any(self._holds_bytes(file.name) for file in self._files):
                raise SourceError(
                    f"{options.path} is a table of images that holds their paths alone. Give the "
                    "images themselves as SOURCE, or embed them with --keep-images first."
                )
            options = replace(options, image_column=options.image_column or "image")
        elif not options.text_column and (textless := textless_kind(schema)):
            raise SourceError(
                f"{options.path} is {textless}: it holds no texts. Give what it was made of as SOURCE."
            )
        if options.columns is None:
            kept = tuple(name for name in schema.names if name not in ADDED)
            options = replace(options, columns=kept)
            left = ", ".join(name for name in schema.names if name in ADDED)
            self._remarks.append(
                f"{options.path} is a table of embatch: its rows keep their ids, and its columns {left} "
                "are left out. --id-column and --columns choose others."
            )
        return replace(options, id_column=options.id_column or "id")

    def _holds_bytes(self, name: str) -> bool:
        """True if a file of a table of images holds, or may hold, the bytes of at least one image."""
        try:
            with self._file(name).open(jumps=True) as stream:
                footer = pq.read_metadata(stream)
        except Exception:  # its failure is told when the file is read
            return True
        paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
        groups = (footer.row_group(i) for i in range(footer.num_row_groups))
        return any(_may_hold_values(group.column(paths.index("image.bytes"))) for group in groups)

    def _file(self, name: str, number: int = 0) -> SourceFile:
        return SourceFile(self.fs, f"{self.root.rstrip('/')}/{name}", name, number)


def _may_hold_values(column: pq.ColumnChunkMetaData) -> bool:
    """True if a column of a row group holds a value, or may hold one."""
    told = column.statistics
    return told is None or not told.has_null_count or told.null_count < column.num_values


def _root(place: Place) -> str | None:
    """The folder of the Delta table that SOURCE is or lies in; None where there is none."""
    base = PurePosixPath(place.base)
    is_known = isinstance(place.fs, LocalFileSystem) or in_store(place.options.path)
    for folder in (base, *(base.parents if is_known else ())):
        try:
            if place.fs.info(f"{folder}/_delta_log")["type"] == "directory":
                return str(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except Exception:  # who may read a folder may not look above it; listing it tells the rest
            return None
    return None


def _open_table(place: Place, root: str) -> Table:
    options = place.options
    uri = root if isinstance(place.fs, LocalFileSystem) else place.fs.unstrip_protocol(root)
    if in_store(options.path):
        uri = split_bucket(options.path)[0] + root
    table = Table.open(uri, options.storage_options)
    if table is None:
        raise SourceError(
            f"{options.path} has a folder _delta_log, and Delta Lake's library finds no table at {uri}. "
            "Copy the table to a disk or an object store, or give its current rows as files."
        )
    return table


def _live_files(table: Table, names: Sequence[str]) -> list[ListedFile]:
    """The files of the table's version, sorted by name, with the values of their partition columns."""
    actions = pa.table(table.handle.get_add_actions(flatten=True))
    columns = [actions[f"partition.{name}"].to_pylist() for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    paths = map(unquote, actions["path"].to_pylist()) if names else ()
    partitions = dict(zip(paths, rows, strict=True))
    return [
        ListedFile(file.name, file.size_bytes, partitions.get(file.name, NONE))
        for file in table.files()
    ]


def _files_within(files: Sequence[ListedFile], place: Place, root: str) -> tuple[ListedFile, ...]:
    """The table's files that SOURCE names."""
    if place.kind == "directory" and str(PurePosixPath(place.path)) == root:
        return tuple(files)
    listing = place.listing
    folder = listing.root[len(root) :].strip("/")
    named = {f"{folder}/{file.name}".lstrip("/") for file in listing.files}
    found = tuple(file for file in files if file.name in named)
    if not found:
        raise SourceError(
            f"{place.options.path} lies in the Delta table {root}, and the table as it is now has no "
            "file there: its rows were deleted or overwritten. Give the table as SOURCE."
        )
    return found
