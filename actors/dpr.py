"""DPR's pairs: which encoder of questions belongs to an encoder of passages.

Two encoders of a pair have other weights and one space. Known models name their partner; of others it is
the one beside it (a folder's neighbour, a repository's twin) that declares the same `embatch_space`, or
that has the same name but for the words that say which of the two it is: `dpr-ctx` and `dpr-question`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from actors.checkpoints import Model, resolve
from actors.encoders.dpr import dpr_class
from actors.families import family_of
from actors.files.layout import Layout, read_layout
from actors.models import ModelError

PASSAGES = re.compile(r"(?<![a-z])(ctx|context|passages?)(?![a-z])", re.IGNORECASE)
QUESTIONS = re.compile(r"(?<![a-z])(questions?|query|queries|q)(?![a-z])", re.IGNORECASE)


class Partner(NamedTuple):
    """Who embeds questions, and how that is known: "declared" or by "name"."""

    model: Model
    known_by: str


def is_of_passages(model: Model) -> bool:
    """Whether a model is one of DPR's encoders of passages, which embeds no questions."""
    return _class(model.folder) == "DPRContextEncoder"


def is_of_questions(model: Model) -> bool:
    """Whether a model is one of DPR's encoders of questions."""
    return _class(model.folder) == "DPRQuestionEncoder"


def partner_of(model: Model) -> Partner:
    """The encoder of questions that belongs to an encoder of passages.

    Raises:
        ModelError: None is known to; the message says what to write.
    """
    if model.spec.questions:
        return Partner(resolve(model.spec.questions), "declared")
    if model.spec.weights:
        return _twin(model)
    beside = [str(folder) for folder in _neighbours(model.folder)]
    if space := _declared(model.folder):
        same = [folder for folder in beside if _declared(folder) == space]
        if len(same) > 1:
            raise ModelError(
                f"{', '.join(same)} all declare the space {space!r} of {model.folder}: name the one for"
                " questions with --model."
            )
        if same:
            return Partner(resolve(same[0]), "declared")
    named = [folder for folder in beside if _are_named_alike(model.folder, folder)]
    if len(named) == 1 and _declared(named[0]) in (None, space):
        return Partner(resolve(named[0]), "name")
    raise ModelError(f"{model.name} is DPR's encoder of passages. {_advice(model.folder, beside)}")


def refusal(passages: Model, questions: Model) -> str:
    """Why questions of a model are not looked for among another model's passages, and what to write."""
    return (
        f"Nothing says that {questions.folder} embeds questions for {passages.folder}."
        f" {_advice(passages.folder, [questions.folder])}"
    )


def _advice(folder: str, others: list[str]) -> str:
    beside = f" (encoders of questions here: {', '.join(others)})" if others else ""
    return (
        f"A question needs the encoder that was trained with it{beside}. Put that folder beside {folder},"
        " named alike but for `question` in place of `ctx`; or write one line into the config.json of"
        ' both, "embatch_space": "NAME", and embed the table again with --replace, since its space has a'
        " name then."
    )


def _twin(model: Model) -> Partner:
    """The repository whose name is that of a model on the hub but for the word for its role."""
    name, n = PASSAGES.subn("question", model.spec.weights)
    try:
        if not n:
            raise ModelError("its name has no `ctx` in whose place `question` would stand")
        twin = resolve(name)
    except ModelError as error:
        raise ModelError(
            f"{model.name} is DPR's encoder of passages, and its partner for questions was not found"
            f" ({error}). Name it with --model."
        ) from error
    return Partner(twin, "name")


def _neighbours(folder: str) -> list[Path]:
    """The encoders of questions in the parent folder of a model's folder, sorted."""
    beside = sorted(path for path in Path(folder).parent.iterdir() if path.is_dir())
    return [path for path in beside if _class(str(path)) == "DPRQuestionEncoder"]


def _class(folder: str) -> str | None:
    """Which of DPR's encoders lies in a folder; None where it is none."""
    layout = _layout(folder)
    return dpr_class(layout) if layout is not None and family_of(folder) == "dpr" else None


def _declared(folder: str) -> str | None:
    layout = _layout(folder)
    return None if layout is None else layout.config.get("embatch_space")


def _layout(folder: str) -> Layout | None:
    if not os.path.isfile(os.path.join(folder, "config.json")):
        return None
    try:
        return read_layout(folder)
    except ModelError:  # a neighbour that is something else
        return None


def _are_named_alike(passages: str, questions: str) -> bool:
    one, other = os.path.basename(passages), os.path.basename(questions)
    return (
        PASSAGES.search(one) is not None
        and QUESTIONS.search(other) is not None
        and PASSAGES.sub("*", one).lower() == QUESTIONS.sub("*", other).lower()
    )
