"""A file of class names, one a line, each perhaps with its own wording: `7: seven`."""

from collections.abc import Iterator

import pyarrow as pa

from sources.listing import Place
from sources.opening import Lines, SourceFile
from sources.prepare import prepare
from sources.rows import Piece, Rows, SourceError, SourceOptions, unread


class LabelSource:
    """The classes of one file: the id is the name, the text its wording, or the name again.

    Attributes:
        columns: None.
        options: With the columns that rows have here.
    """

    columns: tuple[str, ...] = ()

    @staticmethod
    def matches(place: Place) -> bool:
        """Whether SOURCE was said to be such a file."""
        return place.options.labels

    def __init__(self, place: Place) -> None:
        """Find the file.

        Raises:
            SourceError: It is not one file.
        """
        if len(place.listing.files) != 1:
            raise SourceError(
                f"--labels takes one file with a class name a line, and {place.options.path} is not."
            )
        found = place.listing.files[0]
        self.options: SourceOptions = place.options.with_names(text=("wording",), id_column="name")
        path = f"{place.listing.root.rstrip('/')}/{found.name}"
        self._file = SourceFile(place.fs, path, found.name)
        self._size = found.size_bytes

    def pieces(self) -> list[Piece]:
        """The file."""
        return [Piece((self._file.name,), self._size)]

    def unlisted(self) -> list[tuple[str, str]]:
        """Nothing."""
        return []

    def left_out(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def read(self, piece: Piece) -> Iterator[Rows]:
        """The classes; blank lines and lines that begin with # are none."""
        lines = Lines(self._file, self.options.encoding)
        names: list[bytes] = []
        wordings: list[bytes] = []
        for line in lines.as_text():
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            name, colon, wording = text.partition(": ")
            for column, value in ((names, name), (wordings, wording if colon else name)):
                column.append(value.strip().encode("utf-8", "surrogateescape"))
        columns = {"name": names, "wording": wordings}
        table = pa.table({name: pa.array(v, pa.large_binary()) for name, v in columns.items()})
        if names:
            name, positions = self._file.name, range(len(names))
            yield prepare(table, self.options, name, positions, is_text_file=True)
        if lines.error:
            yield unread(self._file.name, len(names), lines.error)
