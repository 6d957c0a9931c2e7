"""A folder of news feeds (`--feeds`): `CATEGORY/…/FEED-YYYY-MM-DD/hh-mm.txt`, a file a fetch.

A line that is one blank separates the items of a file. Items of 50 characters or fewer are left out
and counted. The id is the content hash, so that an item that a feed repeats is one row.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sources.columns import with_columns
from sources.listing import ListedFile, Listing, Place, endings
from sources.opening import SourceFile, ending
from sources.prepare import prepare
from sources.rows import MAX_ROWS, Piece, Rows, SourceError, file_failure, group_small

SEPARATOR = b"\n \n"
MIN_CHARS = 51
FETCH = "CATEGORY/…/FEED-YYYY-MM-DD/hh-mm.txt"
SHORT = f"items of fewer than {MIN_CHARS} characters"
OTHERS = pa.schema(
    [("label", pa.string()), ("feed", pa.string()), ("published", pa.timestamp("us", "UTC"))]
)
SCHEMA = pa.schema([pa.field("text", pa.large_string()), *OTHERS])
_NAME = re.compile(
    r"(?P<label>[^/]+)/(?:.+/)?(?P<feed>[^/]+)-(?P<day>\d{4}-\d\d-\d\d)/(?P<time>\d\d-\d\d)\.txt(\.\w+)?"
)


class FeedSource:
    """Items of news feeds as rows, with the columns `label` (the category), `feed` and `published`."""

    @staticmethod
    def matches(place: Place) -> bool:
        """True if the user said, by `--feeds`, that SOURCE is a folder of feeds."""
        return place.options.feeds

    def __init__(self, place: Place) -> None:
        """Check the names of files and the columns asked for.

        Raises:
            SourceError: No file is named like a fetch, or a column that feeds do not have.
        """
        self.fs, self.root = place.fs, place.listing.root
        self.options = with_columns(place.options, SCHEMA)
        self.columns = tuple(filter(self.options.wants, SCHEMA.names))
        feeds = [file for file in place.listing.files if _NAME.fullmatch(file.name)]
        if not feeds:
            found = ", ".join(file.name for file in place.listing.files[:3]) or "none"
            raise SourceError(
                f"{place.options.path} holds no feeds: expected files named {FETCH}, seen from there, "
                f"and found {found}. Without --feeds each file is a document."
            )
        held = tuple(file for file in feeds if file.size_bytes)
        self._listing: Listing | None = replace(place.listing, files=held)
        self._left_out = endings(f for f in place.listing.files if not _NAME.fullmatch(f.name))

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without the listing, which only the driver needs and which can be long."""
        return {**self.__dict__, "_listing": None}

    def pieces(self) -> list[Piece]:
        """Pieces of files in order of name, small files together."""
        assert self._listing is not None, "pieces are listed on the driver"
        files = (Piece((file.name,), file.size_bytes) for file in self._listing.files)
        return list(group_small(files, lambda _: None))

    def unlisted(self) -> list[tuple[str, str]]:
        """Folders and links that could not be followed, as (path, reason)."""
        assert self._listing is not None, "files are listed on the driver"
        return list(self._listing.unlisted)

    def left_out(self) -> dict[str, int]:
        """Number of files that are not named like fetches, by ending."""
        return self._left_out

    def remarks(self) -> list[str]:
        """An empty list: nothing is guessed."""
        return []

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the items of a piece; items too short for a text are left out and counted."""
        for number, name in enumerate(piece.files):
            file = SourceFile(self.fs, f"{self.root.rstrip('/')}/{name}", name, number)
            try:
                where = parse_fetch_name(name)
                with file.open_text(self.options.encoding) as stream:
                    items = stream.read().split(SEPARATOR)
            except Exception as error:  # each file system has errors of its own
                yield file_failure(name, 0, error)
                continue
            texts = [text for text in map(_strip, items) if text]  # a file ends with a separator
            for start in range(0, len(texts), MAX_ROWS):
                part = texts[start : start + MAX_ROWS]
                kept = [row for row, text in enumerate(part, start) if not _is_short(text)]
                columns = {
                    field.name: pa.repeat(pa.scalar(value, field.type), len(kept))
                    for field, value in zip(OTHERS, where, strict=True)
                }
                long = pa.array([texts[row] for row in kept], pa.large_binary())
                table = pa.table({"text": long, **columns})
                rows = prepare(table, self.options, name, kept, numbers=number, is_text_file=True)
                n_short = len(part) - len(kept)
                yield rows._replace(left_out={SHORT: n_short} if n_short else {})


def are_fetches(files: Iterable[ListedFile]) -> bool:
    """True if there are .txt files and all of them are named like fetches of feeds."""
    texts = [file.name for file in files if ending(file.name) == ".txt"]
    return bool(texts) and all(map(_NAME.fullmatch, texts))


def parse_fetch_name(name: str) -> tuple[str, str, datetime]:
    """Category, feed and time of a fetch, read from the name of its file.

    For `sport/de/kicker-2024-03-01/18-30.txt`: ("sport", "kicker", 2024-03-01 18:30 UTC).

    Raises:
        ValueError: There is no such day or time.
    """
    match = _NAME.fullmatch(name)
    assert match is not None, name
    published = datetime.strptime(f"{match['day']} {match['time']}", "%Y-%m-%d %H-%M")
    return match["label"], match["feed"], published.replace(tzinfo=UTC)


def _strip(item: bytes) -> bytes:
    """The item without white space around it; an item that is not UTF-8 stays as it is."""
    try:
        return item.decode().strip().encode()
    except UnicodeDecodeError:
        return item  # prepare says so


def _is_short(item: bytes) -> bool:
    return len(item.decode("utf-8", "replace")) < MIN_CHARS
