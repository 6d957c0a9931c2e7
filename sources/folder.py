"""Files of texts, tables and images as a source: one file, a folder, or the files that a glob matches."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pyarrow as pa

from sources.columns import text_guess_remarks, with_partition_columns
from sources.feeds import FETCH, are_fetches
from sources.formats.delimited import delimited_schema, read_delimited
from sources.formats.images import (
    HEIF_ENDINGS,
    IMAGE_ENDINGS,
    NEEDS_HEIF,
    image_schema,
    read_images,
)
from sources.formats.jsonl import jsonl_schema, read_jsonl
from sources.formats.parquet import parquet_parts, parquet_schema, read_parquet
from sources.formats.text import read_documents, read_lines, text_schema
from sources.formats.webdataset import read_webdataset, webdataset_schema
from sources.listing import ListedFile, Listing, Place, endings
from sources.opening import SourceFile, ending
from sources.partitions import append_partitions, assign_partitions
from sources.rows import Piece, Rows, SourceError, SourceOptions, file_failure, group_small


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        family: Name of a family; files of one family fit into one table.
        by_name: True if ids come from the names of files, not from the content.
        schema: Returns the columns of a file; raises an error if the file cannot be read.
        read: Streams the rows of a file; None where a file is one item.
        read_items: Streams the rows of files of which each is one item; None for other kinds.
    """

    family: str
    schema: Callable[[SourceFile, SourceOptions], pa.Schema]
    read: Callable[[SourceFile, SourceOptions], Iterator[Rows]] | None = None
    read_items: Callable[[Sequence[SourceFile], SourceOptions], Iterator[Rows]] | None = None
    by_name: bool = False


PARQUET = Kind("typed tables", parquet_schema, read_parquet)
JSONL = Kind("typed tables", jsonl_schema, read_jsonl)
DELIMITED = Kind("tables of strings", delimited_schema, read_delimited)
DOCUMENTS = Kind("documents", text_schema, read_items=read_documents, by_name=True)
LINES = Kind("lines", text_schema, read_lines)
IMAGES = Kind("images", image_schema, read_items=read_images, by_name=True)
WEBDATASET = Kind("tar files of images", webdataset_schema, read_webdataset, by_name=True)

KINDS = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".json": JSONL,
    ".csv": DELIMITED,
    ".tsv": DELIMITED,
    ".txt": DOCUMENTS,
    ".md": DOCUMENTS,
    ".tar": WEBDATASET,
    **dict.fromkeys(IMAGE_ENDINGS, IMAGES),
}
"""Each also with .gz, .zst or .zstd behind it."""


class FolderSource:
    """The files of a folder, a glob or one name, of kinds that fit into one table.

    Attributes:
        columns: The columns kept beside text, image and id, as the first readable file has them.
        options: The options with the column of texts or images filled in.
    """

    @staticmethod
    def matches(place: Place) -> bool:
        """Always True: what no other source knows is files."""
        return True

    def __init__(self, place: Place) -> None:
        """Choose the files to read, and check their columns before work starts.

        Raises:
            SourceError: No file of a known kind, kinds that cannot be one table, or a column that
                the first readable file does not have.
        """
        options, listing = place.options, place.listing
        self.fs, self.root = place.fs, listing.root
        known, others = _choose_files(listing, options)
        self._listing: Listing | None = replace(listing, files=known)
        self._left_out = endings(others)
        if options.label_from_folder and any(
            _kind_of(file.name, options) is not IMAGES for file in self._listing.files
        ):
            raise SourceError(
                f"{options.path} is no folder of images, whose folders could be labels."
            )
        schema = self._schema(options)
        names = [] if schema is None else schema.names
        own = pa.schema(field for field in listing.partitions if field.name not in names)
        self.options = options if schema is None else with_partition_columns(options, schema, own)
        self._partitions = pa.schema(field for field in own if self.options.wants(field.name))
        self.columns = tuple(filter(self.options.wants, [*names, *own.names]))
        self._remarks = text_guess_remarks(options, self.options) + _partition_remarks(listing, own)
        if known and self._kind(known[0].name) is DOCUMENTS and are_fetches(known):
            self._remarks.append(
                f"the text files of {options.path} are named like fetches of news feeds ({FETCH}), and "
                "each is read as one document. --feeds reads the items in them."
            )

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without the listing, which only the driver needs and which can be long."""
        return {**self.__dict__, "_listing": None}

    def pieces(self) -> list[Piece]:
        """Pieces of files: parts of large Parquet files by row groups, small files of one kind together."""
        assert self._listing is not None, "pieces are listed on the driver"
        files = self._listing.files
        tables = [file for file in files if self._kind(file.name) is PARQUET]
        parts = parquet_pieces((self._file(file.name), file.size_bytes) for file in tables)
        cut = dict(zip((file.name for file in tables), parts, strict=True))
        whole = (cut.get(file.name, [Piece((file.name,), file.size_bytes)]) for file in files)
        pieces = group_small(chain.from_iterable(whole), self._kind)
        has_partitions = bool(self._listing.partitions.names)
        partitions = {file.name: file.partition for file in files if has_partitions}
        return list(assign_partitions(pieces, partitions))

    def unlisted(self) -> list[tuple[str, str]]:
        """Folders and links that could not be followed, as (path, reason)."""
        assert self._listing is not None, "files are listed on the driver"
        return list(self._listing.unlisted)

    def left_out(self) -> dict[str, int]:
        """Number of files of kinds that are not read, by ending."""
        return self._left_out

    def remarks(self) -> list[str]:
        """Remarks on what was guessed, each with the option that says otherwise."""
        return self._remarks

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the rows of a piece."""
        by_content = self.options.id_column is None and not self._kind(piece.files[0]).by_name
        for rows in self._read(piece):
            if piece.partitions:
                rows = append_partitions(rows, piece, self._partitions, by_content=by_content)
            yield rows

    def _read(self, piece: Piece) -> Iterator[Rows]:
        files = [self._file(name, number) for number, name in enumerate(piece.files)]
        kind = self._kind(piece.files[0])
        if not self.options.text_column and self.options.image_column is None:
            reason = "no file could be read when the run began, so its columns are unknown"
            for file in files:
                try:
                    holds_rows = bool(kind.schema(file, self.options).names)
                except Exception as error:
                    yield file_failure(file.name, 0, error)
                else:
                    if holds_rows:
                        yield file_failure(file.name, 0, reason)
        elif kind.read_items is not None:
            yield from kind.read_items(files, self.options)
        elif piece.part is not None:
            yield from read_parquet(files[0], self.options, piece.part, piece.first_row)
        elif kind.read is not None:
            for file in files:
                yield from kind.read(file, self.options)

    def _schema(self, options: SourceOptions) -> pa.Schema | None:
        """The columns of the first readable file, None where no file can be read.

        Raises:
            SourceError: No file can be read, and the error of one says what to do.
        """
        assert self._listing is not None
        refusal: SourceError | None = None
        for found in self._listing.files:
            file = self._file(found.name)
            try:
                schema = _kind_of(found.name, options).schema(file, options)
            except SourceError as error:
                refusal = refusal or SourceError(f"{file.path}: {error}")
            except Exception:  # its failure is told when the file is read
                continue
            else:
                if schema.names:
                    return schema
        if refusal:
            raise refusal
        return None

    def _file(self, name: str, number: int = 0) -> SourceFile:
        return SourceFile(self.fs, f"{self.root.rstrip('/')}/{name}", name, number)

    def _kind(self, name: str) -> Kind:
        return _kind_of(name, self.options)


def _kind_of(name: str, options: SourceOptions) -> Kind:
    return LINES if options.lines else KINDS[ending(name)]


def _choose_files(
    listing: Listing, options: SourceOptions
) -> tuple[tuple[ListedFile, ...], tuple[ListedFile, ...]]:
    """The files to read, of known kinds that fit into one table, and the files that are left out."""
    if options.lines:
        return listing.files, ()
    known = [file for file in listing.files if ending(file.name) in KINDS]
    if not known and listing.files:
        found = ", ".join(sorted({ending(file.name) or "none" for file in listing.files})[:8])
        raise SourceError(
            f"{options.path} holds no file of a known ending. Known: {', '.join(KINDS)}, each also "
            f"with .gz or .zst. Found: {found}. With --lines each line of any file is a document."
            + (NEEDS_HEIF if any(ending(f.name) in HEIF_ENDINGS for f in listing.files) else "")
        )
    families = {_kind_of(file.name, options).family for file in known}
    if len(families) > 1:
        # A README beside the tables is about them.
        known = [file for file in known if not _is_about(file.name)]
        families = {_kind_of(file.name, options).family for file in known}
    if len(families) > 1:
        counts = Counter(ending(file.name) for file in known)
        held = ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))
        example = f"{options.path.rstrip('/')}/**/*{max(counts, key=counts.__getitem__)}"
        raise SourceError(
            f"{options.path} holds files that cannot be one table: {held}. Parquet and JSON lines "
            f"go together, other kinds stand alone. Give a glob of one kind, such as '{example}'."
        )
    names = {file.name for file in known}
    return tuple(known), tuple(file for file in listing.files if file.name not in names)


def parquet_pieces(files: Iterable[tuple[SourceFile, int]]) -> list[list[Piece]]:
    """Pieces of Parquet files, given with their sizes in bytes: each file cut by row groups."""

    def cut(found: tuple[SourceFile, int]) -> list[Piece]:
        file, size_bytes = found
        whole = Piece((file.name,), size_bytes)
        try:
            parts = parquet_parts(file)
        except Exception:  # its failure is told when the file is read
            return [whole]
        return [whole] if len(parts) == 1 else parts

    with ThreadPoolExecutor(16) as pool:  # footers wait for the network, not for a core
        return list(pool.map(cut, files))


def _partition_remarks(listing: Listing, own: pa.Schema) -> list[str]:
    """Remarks on the columns that are read from the names of folders."""
    names = listing.partitions.names
    told = [f"partition columns are read from the names of folders: {', '.join(own.names)}."]
    both = ", ".join(name for name in names if name not in own.names)
    also = [f"partition columns that the files have too are read from the files: {both}."]
    return (told if own.names else []) + (also if both else [])


def _is_about(name: str) -> bool:
    return name.rpartition("/")[2].lower().startswith(("readme", "license"))
