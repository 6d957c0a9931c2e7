"""Sources of rows, one file a kind of source.

source = open_source(SourceOptions("corpus/"))
for piece in source.pieces():
    for table, failures in source.read(piece):
        ...
"""

from sources.delta import DeltaSource
from sources.feeds import FeedSource
from sources.folder import FolderSource
from sources.hub import DatasetSource
from sources.labels import LabelSource
from sources.listing import Place
from sources.rows import Failure, Piece, Rows, Source, SourceError, SourceOptions

__all__ = [
    "SOURCES",
    "Failure",
    "Piece",
    "Rows",
    "Source",
    "SourceError",
    "SourceOptions",
    "open_source",
]

SOURCES: dict[str, type[DatasetSource | DeltaSource | FeedSource | FolderSource | LabelSource]] = {
    "labels": LabelSource,
    "delta": DeltaSource,
    "feeds": FeedSource,
    "dataset": DatasetSource,
    "folder": FolderSource,
}
"""Kinds of source by name, tried in this order: the first kind that matches a SOURCE reads it."""


def open_source(options: SourceOptions) -> Source:
    """Open SOURCE: find out its kind, list its files, and check the columns asked for.

    Raises:
        SourceError: SOURCE does not exist, holds nothing that can be read, or lacks a column.
    """
    place = Place(options)
    return next(kind(place) for kind in SOURCES.values() if kind.matches(place))
