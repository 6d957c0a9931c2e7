"""A file of class names as source, one name a line, perhaps with a wording of its own: `7: seven`.

The text of a class is what the model sees: sentences made of the name by templates, a line each, or the
class's own wording. A name or wording that is a sentence already is put into no template.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from sources.listing import Place
from sources.opening import Lines, SourceFile
from sources.prepare import prepare
from sources.rows import Piece, Rows, SourceError, SourceOptions, file_failure

N_SHOWN = 3
LONG_WORDS = 4  # of a name: it may be a sentence
BARE = ("{}",)
# What is a sentence whatever it would be put into, and what would come twice in some templates.
DEPICTION = re.compile(
    r"\b(photo(graph)?|picture|image|drawing|painting|sketch|illustration|view)s? of\b", re.I
)
OPENING = re.compile(r"(this|that|it|there|these|those|here) (is|are|was|were|shows?)\b", re.I)
ENDED = re.compile(r"(\S+\s+){3,}\S*[.!?]")
ARTICLE = re.compile(r"(an?|the|this|that|these|those|some)\s", re.I)
AFTER_ARTICLE = re.compile(r"\b(an?|the)\s+\{\}", re.I)


class Class(NamedTuple):
    """One class, a line of the file.

    Attributes:
        name: The part of the line before the colon, or all of it.
        text: What the model sees, a sentence a line.
        worded: True if the class has a wording of its own.
        stands: True if the name or wording was put into no template.
    """

    name: str
    text: str
    worded: bool
    stands: bool


def class_of(line: str, templates: Sequence[str], *, asked: bool) -> Class:
    """The class that a line of the file names.

    Args:
        line: A line without blanks around it.
        templates: Sentences in which {} stands for a name.
        asked: The user gave the templates: wordings that are no sentences are put into them too.
    """
    name, colon, wording = (part.strip() for part in line.partition(": "))
    worded = bool(colon)
    said = wording if worded else name
    stands = is_sentence(said, templates) or (worded and not asked)
    used = BARE if stands else templates
    return Class(name, "\n".join(one.replace("{}", said) for one in used), worded, stands)


def is_sentence(text: str, templates: Sequence[str]) -> bool:
    """True if a text already reads like a sentence that the templates would make of a name.

    `a photo of a cat` does, and `a cat` where the template is `a photo of a {}`; `ice cream` does not.
    """
    if DEPICTION.search(text) or OPENING.match(text) or ENDED.fullmatch(text):
        return True
    return bool(ARTICLE.match(text)) and any(map(AFTER_ARTICLE.search, templates))


class LabelSource:
    """The classes of one file: the id is the class name, the text what the model sees of the class.

    Attributes:
        columns: Empty: a class has only id and text.
        options: The options with the columns that this source gives its rows.
    """

    columns: tuple[str, ...] = ()

    @staticmethod
    def matches(place: Place) -> bool:
        """True if the user said, by `--labels`, that SOURCE is a file of class names."""
        return place.options.labels

    def __init__(self, place: Place) -> None:
        """Find the one file.

        Raises:
            SourceError: SOURCE is not one file.
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
        """One piece, the whole file."""
        return [Piece((self._file.name,), self._size)]

    def unlisted(self) -> list[tuple[str, str]]:
        """An empty list: the source is one file."""
        return []

    def left_out(self) -> dict[str, int]:
        """An empty dict: the source is one file."""
        return {}

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Stream the classes; blank lines and lines that begin with # are no classes."""
        lines = Lines(self._file, self.options.encoding)
        found = list(self._classes(lines))
        columns = {"name": [one.name for one in found], "wording": [one.text for one in found]}
        table = pa.table({name: _bytes(values) for name, values in columns.items()})
        if found:
            name, positions = self._file.name, range(len(found))
            yield prepare(table, self.options, name, positions, is_text_file=True)
        if lines.error:
            yield file_failure(self._file.name, len(found), lines.error)

    def remarks(self) -> list[str]:
        """Remarks on long names that were put into templates, and on sentences and wordings that were not."""
        if self.options.templates == BARE:
            return []
        found = list(self._classes(Lines(self._file, self.options.encoding)))
        sentences = [one.text for one in found if one.stands and not one.worded]
        wordings = [one.text for one in found if one.stands and one.worded]
        told = []
        long = [one.name for one in found if not one.stands and _is_long(one)]
        if long:
            told.append(
                f"{_shorten(long)} are long for names and were put into templates all the same. A sentence"
                " that should stand as it is goes behind a name: `name: sentence`."
            )
        if sentences:
            told.append(
                f"{_shorten(sentences)} read like sentences and stand as they are, in no template. To say"
                " how a class is worded write `name: wording`."
            )
        if wordings:
            told.append(
                f"{_shorten(wordings)} are wordings of their own and stand as they are, in no template."
                " A --template that is given is put around those that are no sentences."
            )
        return told

    def _classes(self, lines: Lines) -> Iterator[Class]:
        options = self.options
        for line in lines.as_text():
            text = line.strip()
            if text and not text.startswith("#"):
                yield class_of(text, options.templates, asked=options.templates_asked)


def _bytes(texts: Sequence[str]) -> pa.Array:
    """Texts as the bytes that stood in the file, so that `prepare` finds those that are not UTF-8."""
    encoded = (text.encode("utf-8", "surrogateescape") for text in texts)
    return pa.array(encoded, pa.large_binary())


def _is_long(one: Class) -> bool:
    return not one.worded and len(one.name.split()) >= LONG_WORDS


def _shorten(texts: list[str]) -> str:
    shown = ", ".join(map(repr, texts[:N_SHOWN]))
    return f"{len(texts):,} of the classes ({shown}{', …' if len(texts) > N_SHOWN else ''})"
