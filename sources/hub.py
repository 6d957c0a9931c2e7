"""Hugging Face datasets as sources: a folder written by `save_to_disk`, or a name on the hub.

Ranges of rows are read from a memory map. A dataset of several splits gets a column `split`. Columns of
class numbers hold the names of classes instead.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from schemas.delta.places import in_store
from sources.class_names import with_class_names
from sources.columns import text_guess_remarks, with_columns
from sources.listing import Place, endings
from sources.prepare import prepare
from sources.rows import (
    MAX_BYTES,
    MAX_ROWS,
    Piece,
    Rows,
    SourceError,
    failure_reason,
    file_failure,
)

if TYPE_CHECKING:
    from datasets import Dataset

PIECE_BYTES = 64 << 20
PIECE_ROWS = 100_000
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:\w+)?")
_FILE_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")


class DatasetSource:
    """The splits of a Hugging Face dataset.

    Attributes:
        columns: The columns kept beside text, image and id, and `split` if there are several splits.
    """

    @staticmethod
    def matches(place: Place) -> bool:
        """True if SOURCE is a folder of `save_to_disk`, or looks like a name on the hub and is no path."""
        if in_store(place.options.path):
            names = {found.name for found in place.listing.files}
            return place.listing.root == place.path and _is_saved(names.__contains__)
        if place.exists:
            return _is_saved(lambda name: place.fs.isfile(f"{place.path}/{name}"))
        written = place.options.path
        ends_like_a_file = _FILE_ENDING.search(written.partition(":")[0])
        return bool(_HUB_NAME.fullmatch(written)) and not ends_like_a_file

    def __init__(self, place: Place) -> None:
        """Load the dataset; a dataset of the hub may be downloaded.

        Raises:
            SourceError: The dataset cannot be loaded, or a column does not exist.
        """
        on_disk = place.exists
        if in_store(place.options.path):
            raise SourceError(
                f"{place.options.path} is a datasets folder, which is read from a disk alone. Copy it to "
                "one, or write its rows to the store as Parquet files."
            )
        # A worker may stand in another folder: what is on disk is named in full.
        where = place.fs.unstrip_protocol(place.path) if on_disk else place.options.path
        storage = tuple(sorted(place.options.storage_options.items()))
        self._load_key = (where, on_disk, storage, uuid4().hex)
        try:
            splits = self._splits()
            self._left_out = _left_out(place) if on_disk else {}
        except Exception as error:  # datasets raises many kinds, some of them bare
            raise SourceError(_explain_load_error(place, error)) from error
        self.options = with_columns(place.options, _schema(splits))
        self.columns = tuple(filter(self.options.wants, _schema(splits).names))
        self._remarks = text_guess_remarks(place.options, self.options)

    def pieces(self) -> list[Piece]:
        """Pieces of ranges of rows, about 64 MB or 100,000 rows each."""
        pieces = []
        for name, split in self._splits().items():
            row_bytes = _row_bytes(split)
            step = max(1, min(PIECE_ROWS, PIECE_BYTES // row_bytes))
            for start in range(0, len(split), step):
                stop = min(start + step, len(split))
                pieces.append(Piece((name,), (stop - start) * row_bytes, (start, stop), start))
        return pieces

    def unlisted(self) -> list[tuple[str, str]]:
        """An empty list: a dataset loads as a whole."""
        return []

    def left_out(self) -> dict[str, int]:
        """Number of files of a folder that are no part of its dataset, by ending."""
        return self._left_out

    def remarks(self) -> list[str]:
        """Remarks on what was guessed, each with the option that says otherwise."""
        return self._remarks

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the rows of a piece."""
        name = piece.files[0]
        assert piece.part is not None
        start, stop = piece.part
        done = start
        try:
            splits = self._splits()
            split = splits[name].with_format("arrow")
            step = max(1, min(MAX_ROWS, MAX_BYTES // _row_bytes(split)))
            for done in range(start, stop, step):
                rows = split[done : min(done + step, stop)]
                table = with_class_names(rows, _class_names(split))
                if len(splits) > 1 and "split" not in table.column_names:
                    table = table.append_column("split", pa.array([name] * len(table), pa.string()))
                yield prepare(table, self.options, name, range(done, done + len(table)))
        except Exception as error:
            yield file_failure(name, done, error)

    def _splits(self) -> dict[str, "Dataset"]:
        return _load(*self._load_key)


def _is_saved(has: Callable[[str], bool]) -> bool:
    """True if a folder was written by `save_to_disk`; `has` says which files lie in it."""
    return has(SPLITS) or (has(STATE) and has(INFO))


def _left_out(place: Place) -> dict[str, int]:
    listing = place.listing

    def load_json(name: str) -> Any:  # noqa: ANN401
        with place.fs.open(f"{listing.root.rstrip('/')}/{name}", "rb") as stream:
            return json.load(stream)

    names = {found.name for found in listing.files}
    folders = [f"{split}/" for split in load_json(SPLITS)["splits"]] if SPLITS in names else [""]
    own = {SPLITS, *(folder + name for folder in folders for name in (STATE, INFO))}
    for folder in folders:
        own |= {folder + data["filename"] for data in load_json(folder + STATE)["_data_files"]}
    return endings(found for found in listing.files if found.name not in own)


@lru_cache(maxsize=4)
def _load(
    where: str, on_disk: bool, storage: tuple[tuple[str, str], ...], opened: str
) -> dict[str, "Dataset"]:
    """Load a dataset: its splits by name, memory-mapped; without splits, one named like the path's end.

    A dataset is loaded once in each process, but anew for each source that is opened (`opened` is its key):
    the same folder may have been written again since the last run.
    """
    import datasets

    if on_disk:
        loaded = datasets.load_from_disk(where, storage_options=dict(storage) or None)
    else:
        name, _, only = where.partition(":")
        loaded = datasets.load_dataset(name, split=only or None)
    if isinstance(loaded, Mapping):
        return {str(name): loaded[name] for name in sorted(loaded)}
    return {where.rstrip("/").rpartition("/")[2]: loaded}


def _schema(splits: Mapping[str, "Dataset"]) -> pa.Schema:
    first = next(iter(splits.values())).with_format("arrow")
    schema = with_class_names(first[:0], _class_names(first)).schema
    several = len(splits) > 1 and "split" not in schema.names
    return schema.append(pa.field("split", pa.string())) if several else schema


def _class_names(split: "Dataset") -> dict[str, list[str]]:
    from datasets import ClassLabel

    features = split.features.items()
    return {column: kind.names for column, kind in features if isinstance(kind, ClassLabel)}


def _row_bytes(split: "Dataset") -> int:
    """Average bytes of a row in the memory map, at least 1."""
    return int(split.data.nbytes // max(split.data.num_rows, 1)) + 1


def _explain_load_error(place: Place, error: Exception) -> str:
    if place.exists:
        return (
            f"Cannot load the datasets folder {place.options.path}: {failure_reason(error)}. "
            "Write it again with save_to_disk, or give the files of its rows as a glob."
        )
    return (
        f"{place.missing_message()} As a dataset of the hub it cannot "
        f"be loaded: {failure_reason(error)}. Check the path, or the name (owner/name or "
        "owner/name:split) and the network; offline, save_to_disk it elsewhere and give the folder."
    )
