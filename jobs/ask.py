"""Find passages that answer a question; a reader also marks the words that answer it.

    embatch ask tables/passages "Who discovered radium?"
    embatch ask tables/passages "Who discovered radium?" --reader deepset/roberta-base-squad2
    embatch ask tables/passages < questions.txt

The question is embedded by the question encoder that belongs to the model of the table, or by the model
itself. The partner of DPR's passage encoder is looked for beside its folder: the folder that declares the same
`embatch_space` in its config.json, or that has the same name with `question` in place of `ctx`. Cut documents
into passages first: `embatch embed … --chunk-tokens 100`.
"""

import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from actors.heads.reader import Span, SpanReader
from jobs.runtime.command import TableOptions, parse, user_errors
from jobs.search import UNPRINTABLE, Hit, Search, SearchConfig, answer_each
from schemas.delta.store import StoreError
from schemas.errors import UsageError
from schemas.tables.embeddings import textless_kind

Name = Annotated[str, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]


@dataclass(frozen=True)
class AskConfig(TableOptions):
    """The table of passages, the question, and the models.

    Attributes:
        question: a question (default: the lines of stdin)
        k: number of passages to find
        model: model that embeds the question (default: the partner of the model that made the table, or that model)
        reader: model that marks the answer: a folder or hub name of a model for question answering
    """

    question: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION", help_behavior_hint="")
    ] = ""
    k: int = 5
    model: Name = ""
    reader: Name = ""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"--k is {self.k}, expected 1 or more.")


class Asker:
    """A table of passages and the models for questions about it.

    Asker(AskConfig("tables/passages", reader="models/reader"))("Who discovered radium?")["answer"]
    """

    def __init__(self, config: AskConfig) -> None:
        """Open the table and load the reader.

        Raises:
            StoreError: there is no such table, or it holds no texts.
            ModelError: a model cannot be had, or is not of the table's space.
        """
        if textless := textless_kind(config.open().schema):
            raise StoreError(
                f"{config.table} is {textless}: it holds no texts to find answers in. Name a table that"
                " `embatch embed` made of texts without --no-text."
            )
        self._search = Search(
            SearchConfig(config.table, config.storage_option, k=config.k, model=config.model),
            shown_characters=None,
        )
        self._reader = SpanReader(config.reader) if config.reader else None

    def __call__(self, question: str) -> dict[str, Any]:
        """Answer a question.

        Returns:
            `question`; `passages`, best first, each with its answer; with a reader also `answer`, the one
            with the highest score.

        Raises:
            ModelError: the question cannot be embedded, or is too long for the reader.
        """
        hits = self._search(question)
        spans: list[Span | None] = [None] * len(hits)
        if self._reader is not None:
            spans = self._reader.read(question, [hit.shown or "" for hit in hits])
        passages = [_passage(hit, span) for hit, span in zip(hits, spans, strict=True)]
        reply: dict[str, Any] = {"question": question, "passages": passages}
        if self._reader is not None:
            answered = [passage for passage in passages if passage["answer"] is not None]
            best = max(answered, key=lambda passage: passage["answer"]["score"], default=None)
            reply["answer"] = None if best is None else {**best["answer"], "id": best["id"]}
        return reply


def _passage(hit: Hit, span: Span | None) -> dict[str, Any]:
    answer = span and {**asdict(span), "score": round(span.score, 6)}
    return {"id": hit.id, "similarity": hit.similarity, "text": hit.shown, "answer": answer}


def _text(reply: dict[str, Any]) -> str:
    lines = []
    if "answer" in reply:
        answer = reply["answer"]
        line = "The reader finds no answer in these passages."
        if answer is not None:
            line = f"{_plain(answer['text'])}  (score {answer['score']:.3f}, from {answer['id']})"
        lines += [line, ""]
    for passage in reply["passages"]:
        text, answer = passage["text"] or "", passage["answer"]
        if answer is not None:
            start, end = answer["start"], answer["end"]
            text = f"{text[:start]}>>{text[start:end]}<<{text[end:]}"
        lines += [f"{passage['similarity']:7.3f}  {passage['id']}", f"         {_plain(text)}"]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = parse(AskConfig, "ask", __doc__, arguments)

    def answer(question: str) -> str:
        reply = asker(question)
        return json.dumps(reply) if config.json else _text(reply)

    with user_errors() as outcome, contextlib.suppress(KeyboardInterrupt):
        asker = Asker(config)
        answer_each(config.question, "ask> ", outcome, answer)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
