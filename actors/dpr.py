"""Find the DPR encoder of questions that was trained together with an encoder of passages.

The two encoders of a pair have different weights and one space. A model in `MODELS` names its partner. For
a folder, the partner is a folder beside it that declares the same `embatch_space`, or whose name differs
only in the word for the role: `dpr-ctx` and `dpr-question`. For a repository it is found by name too.
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
    """Encoder of questions for an encoder of passages.

    Attributes:
        model: The encoder of questions.
        known_by: "declared" if MODELS or both config.json say so, "name" if only the names match.
    """

    model: Model
    known_by: str


def is_passage_encoder(model: Model) -> bool:
    """True if a model is a DPR encoder of passages, which must not embed questions."""
    return _class(model.folder) == "DPRContextEncoder"


def is_question_encoder(model: Model) -> bool:
    """True if a model is a DPR encoder of questions."""
    return _class(model.folder) == "DPRQuestionEncoder"


def find_partner(model: Model) -> Partner:
    """Find the encoder of questions that belongs to an encoder of passages.

    Raises:
        ModelError: No such encoder is known; the message says what to do.
    """
    if model.spec.questions:
        return Partner(resolve(model.spec.questions), "declared")
    if model.spec.repository:
        return _twin(model)
    beside = [str(folder) for folder in _neighbours(model.folder)]
    if space := _declared_space(model.folder):
        same = [folder for folder in beside if _declared_space(folder) == space]
        if len(same) > 1:
            raise ModelError(
                f"{', '.join(same)} all declare the space {space!r} of {model.folder}: name the one for"
                " questions with --model."
            )
        if same:
            return Partner(resolve(same[0]), "declared")
    named = [folder for folder in beside if _are_named_alike(model.folder, folder)]
    if len(named) == 1 and _declared_space(named[0]) in (None, space):
        return Partner(resolve(named[0]), "name")
    raise ModelError(f"{model.name} is DPR's encoder of passages. {_advice(model.folder, beside)}")


def refusal_message(passages: Model, questions: Model) -> str:
    """Message that two encoders are not known to be a pair, and what to do."""
    return (
        f"Nothing says that {questions.folder} embeds questions for {passages.folder}."
        f" {_advice(passages.folder, [questions.folder])}"
    )


def _advice(folder: str, others: list[str]) -> str:
    """Advice on how to make an encoder's partner known; `others` are folders that it may be."""
    beside = f" (encoders of questions here: {', '.join(others)})" if others else ""
    return (
        f"A question needs the encoder that was trained with it{beside}. Put that folder beside {folder},"
        " named alike but for `question` in place of `ctx`; or write one line into the config.json of"
        ' both, "embatch_space": "NAME", and embed the table again with --replace, since its space has a'
        " name then."
    )


def _twin(model: Model) -> Partner:
    """Partner on the hub: its repository's name has `question` in the place of `ctx`."""
    name, n = PASSAGES.subn("question", model.spec.repository)
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
    """Sorted folders with DPR question encoders, in the folder that holds the model's own folder."""
    beside = sorted(path for path in Path(folder).parent.iterdir() if path.is_dir())
    return [path for path in beside if _class(str(path)) == "DPRQuestionEncoder"]


def _class(folder: str) -> str | None:
    """Class name of the DPR encoder in a folder; None if it holds no DPR encoder."""
    layout = _layout(folder)
    return dpr_class(layout) if layout is not None and family_of(folder) == "dpr" else None


def _declared_space(folder: str) -> str | None:
    """Space that a folder's config.json declares; None if it declares none."""
    layout = _layout(folder)
    return None if layout is None else layout.config.get("embatch_space")


def _layout(folder: str) -> Layout | None:
    """Layout of a model folder; None if the folder holds no model."""
    if not os.path.isfile(os.path.join(folder, "config.json")):
        return None
    try:
        return read_layout(folder)
    except ModelError:  # a neighbour that is something else
        return None


def _are_named_alike(passages: str, questions: str) -> bool:
    """True if the names of two folders differ only in the word for passages or questions."""
    one, other = os.path.basename(passages), os.path.basename(questions)
    return (
        PASSAGES.search(one) is not None
        and QUESTIONS.search(other) is not None
        and PASSAGES.sub("*", one).lower() == QUESTIONS.sub("*", other).lower()
    )
