"""Answer questions about a table of words, by gensim.

    embatch words similar tables/words king --k 5
    embatch words similar tables/words king woman --without man
    embatch words similarity tables/words king queen
    embatch words similarity tables/words king,queen man,woman
    embatch words analogy tables/words "Paris is to France as Berlin is to ?"
    embatch words odd-one-out tables/words breakfast lunch dinner cereal
    embatch words map tables/words king Paris chemistry --picture words.png

A word is looked up as it is written, then in lower case, as `embed` does. A word that a fastText model lacks
gets a vector from its parts, as long as the model's file is there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs.analysis.plots import check_picture, draw_words
from jobs.analysis.projections import fit_tsne
from jobs.runtime.command import TableOptions, run_command, storage_options
from jobs.word_vectors.table import WordTable
from schemas.errors import UsageError

Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORD ...")]
FILLERS = ("is", "to", "as", "?")  # of an analogy that is written as a sentence
Answer = dict[str, Any]


@dataclass(frozen=True)
class SimilarConfig(TableOptions):
    """Words, and the number of similar words to show.

    Attributes:
        words: one or more words; for several, words that are like all of them are shown
        without: a word that the answers should be unlike, once for each
        k: number of words to show
    """

    words: Words = ()
    without: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    k: int = 10

    def __post_init__(self) -> None:
        if not self.words:
            raise UsageError("Name a word.")
        if self.k < 1:
            raise UsageError(f"--k is {self.k}, expected 1 or more.")


@dataclass(frozen=True)
class SimilarityConfig(TableOptions):
    """Two words, or two lists of words, to compare.

    Attributes:
        one: a word, or several with commas between them
        other: a word, or several with commas between them
    """

    one: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A[,B]")] = ""
    other: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="C[,D]")] = ""

    def __post_init__(self) -> None:
        if not self.one.strip(",") or not self.other.strip(","):
            raise UsageError("Name two words, or two lists: `king,queen man,woman`.")


@dataclass(frozen=True)
class AnalogyConfig(TableOptions):
    """An analogy: A is to B as C is to what?

    Attributes:
        words: A, B and C, or the whole sentence
        k: number of answers to show
    """

    words: Words = ()
    k: int = 5

    def __post_init__(self) -> None:
        if len(self.asked) != 3:
            raise UsageError(
                "An analogy has three words: `man king woman`, or `man is to king as woman is to ?`;"
                f" got {' '.join(self.words) or 'none'}."
            )

    @property
    def asked(self) -> list[str]:
        """The words A, B and C."""
        words = " ".join(self.words).replace("?", " ?").split()
        return words if len(words) == 3 else [word for word in words if word not in FILLERS]


@dataclass(frozen=True)
class OddOneOutConfig(TableOptions):
    """Words of which one does not belong.

    Attributes:
        words: three or more
    """

    words: Words = ()

    def __post_init__(self) -> None:
        if len(self.words) < 3:
            raise UsageError("Name three words or more.")


@dataclass(frozen=True)
class MapConfig(TableOptions):
    """Words to draw among their neighbours, and the file of the picture.

    Attributes:
        words: words whose neighbours are drawn
        k: number of neighbours of each word
        picture: a .png, .svg or .pdf file
        seed: of the map; the same seed gives the same map
    """

    words: Words = ()
    k: int = 10
    picture: Annotated[str, tyro.conf.arg(metavar="FILE")] = "words.png"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.words:
            raise UsageError("Name a word, or several.")
        if self.k < 2:
            raise UsageError(f"--k is {self.k}, expected 2 or more.")
        check_picture(self.picture)


def similar(config: SimilarConfig) -> Answer:
    """Words that are like the words asked for and unlike those of `without`, with their cosines."""
    table = WordTable(config.table, storage_options(config.storage_option))
    similar = table.most_similar(config.words, config.without, config.k)
    return _as_words(similar) | _forms(table, [*config.words, *config.without])


def similarity(config: SimilarityConfig) -> Answer:
    """Cosine of two words, or of the means of two lists of words."""
    table = WordTable(config.table, storage_options(config.storage_option))
    one, other = ([w for w in words.split(",") if w] for words in (config.one, config.other))
    cosine = float(table.subset(one + other).n_similarity(one, other))
    return {"similarity": round(cosine, 6)} | _forms(table, one + other)


def analogy(config: AnalogyConfig) -> Answer:
    """Answers to an analogy: the words nearest to B - A + C (3CosAdd, Mikolov et al. 2013)."""
    table = WordTable(config.table, storage_options(config.storage_option))
    a, b, c = config.asked
    return _as_words(table.most_similar([b, c], [a], config.k)) | _forms(table, config.asked)


def odd_one_out(config: OddOneOutConfig) -> Answer:
    """Words sorted by their cosine with the mean of all their directions; the last is the odd one."""
    table = WordTable(config.table, storage_options(config.storage_option))
    ranked = table.subset(config.words).rank_by_centrality(config.words)
    words = [(word, cosine) for cosine, word in ranked]
    return {"odd": words[-1][0]} | _as_words(words) | _forms(table, config.words)


def draw_neighbours(config: MapConfig) -> Answer:
    """Draw words and their neighbours on a t-SNE, with their names."""
    table = WordTable(config.table, storage_options(config.storage_option))
    targets = list(dict.fromkeys(table.form(word) for word in config.words))
    similar = {word: table.most_similar([word], [], config.k) for word in targets}
    group = {near: word for word, some in similar.items() for near, _ in some}
    group |= {word: word for word in targets}
    words = list(group)
    points = fit_tsne(table.subset(words).get_normed_vectors(), 2, config.seed)
    draw_words(points, words, [group[word] for word in words], config.picture)
    near = {word: _as_words(some)["words"] for word, some in similar.items()}
    return {"picture": config.picture, "neighbours": near} | _forms(table, config.words)


def _as_words(pairs: Iterable[tuple[str, float]]) -> Answer:
    return {
        "words": [{"word": word, "similarity": round(float(cosine), 6)} for word, cosine in pairs]
    }


def _forms(table: WordTable, asked: Sequence[str]) -> Answer:
    """Words that were looked up in lower case, because the table has them in lower case only."""
    forms = {word: form for word in asked if (form := table.form(word)) != word}
    return {"looked_up_as": forms} if forms else {}


def _text(_: object, answer: Answer) -> str:
    remarks = [
        f"{word} is not in the table, and was looked up as {form}."
        for word, form in answer.get("looked_up_as", {}).items()
    ]
    return "\n".join([*remarks, _answer_text(answer)])


def _answer_text(answer: Answer) -> str:
    if "picture" in answer:
        lines = [
            f"{word}: {', '.join(other['word'] for other in near)}"
            for word, near in answer["neighbours"].items()
        ]
        return "\n".join([*lines, "", f"{answer['picture']} shows them."])
    if "similarity" in answer:
        return f"{answer['similarity']:.4f}"
    lines = [f"{word['similarity']:7.3f}  {word['word']}" for word in answer["words"]]
    if "odd" in answer:
        lines.append(f"\n{answer['odd']} is the odd one out.")
    return "\n".join(lines)


def command(arguments: list[str]) -> int:
    """Run the command line, whose first argument is the question; returns the exit code."""
    name, rest = f"words {arguments[0]}", arguments[1:]
    if arguments[0] == "similar":
        return run_command(SimilarConfig, name, __doc__, rest, similar, _text)
    if arguments[0] == "similarity":
        return run_command(SimilarityConfig, name, __doc__, rest, similarity, _text)
    if arguments[0] == "analogy":
        return run_command(AnalogyConfig, name, __doc__, rest, analogy, _text)
    if arguments[0] == "map":
        return run_command(MapConfig, name, __doc__, rest, draw_neighbours, _text)
    return run_command(OddOneOutConfig, name, __doc__, rest, odd_one_out, _text)
