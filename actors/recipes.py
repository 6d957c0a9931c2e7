"""Space and recipe of a model: two hashes that identify its vectors.

The space is a hash of weights, settings, normalisation and dim, or a name that several models declare. The
recipe is a hash of all that decides a row's vector. The ingredients, the parts of both by name, are kept
too, so that a message can say in which part two models differ.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from actors.files.layout import Layout
from actors.files.vocabulary import vocabulary_files
from actors.files.weights import hash_file, hash_parts, npz_parts, tensor_parts
from actors.images.pixels import Preprocess
from actors.models import ModelSpec

TOKENS_VERSION = 1  # raised when the code makes other tokens of the same text
PIXELS_VERSION = 2  # raised when the code makes other pixels of the same image


class AskedModel(Protocol):
    """A model with the options a user asked for, before it is identified; `actors.checkpoints.Model` is one."""

    @property
    def spec(self) -> ModelSpec:
        """Description of the checkpoint."""

    @property
    def name(self) -> str:
        """Name of the model, as `--model` takes it."""

    @property
    def folder(self) -> str:
        """Folder of the weights; for word vectors, their file."""

    @property
    def unit(self) -> bool:
        """True if vectors have unit length."""

    @property
    def prompt(self) -> str:
        """Text to put before each text."""

    @property
    def max_tokens(self) -> int:
        """Tokens after which a text is cut."""

    @property
    def preprocess(self) -> Preprocess | None:
        """Resizing, cropping and scaling of images; None where texts are embedded."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences to put class names into; empty where texts are no class names."""

    @property
    def word_weights(self) -> str:
        """File of document frequencies of words, for word vectors; "" for none."""


class Identity(NamedTuple):
    """Space and recipe of a model.

    Attributes:
        space: Name that the model declares, or a hash of weights, settings, normalisation and dim, in 32
            hex digits.
        recipe: Hash of all that decides a row's vector, in 32 hex digits.
        ingredients: Parts of both, by name, as JSON; a hash stands for a long part.
    """

    space: str
    recipe: str
    ingredients: dict[str, Any]


def identify_layout(model: AskedModel, layout: Layout, settings: list[Any]) -> Identity:
    """Identify a model folder in transformers' layout.

    Args:
        model: The model, with the options that the user asked for.
        layout: Its folder.
        settings: Settings that shape vectors besides the weights, as JSON.

    Raises:
        ModelError: A file of weights is damaged.
    """
    parts = (tensor_parts(module, files) for module, files in layout.weight_files().items())
    weights_hash = hash_parts(part for module in parts for part in module)
    files = [] if model.preprocess else layout.tokenizer_files()
    return identify(model, weights_hash, settings, files)


def identify_use(model: AskedModel) -> Identity:
    """Identify a Universal Sentence Encoder."""
    weights_hash = hash_parts(npz_parts(Path(model.folder) / "weights.npz"))
    return identify(
        model, weights_hash, ["use", model.spec.pooling], [Path(model.folder) / "sp.model"]
    )


def identify_words(model: AskedModel) -> Identity:
    """Identify a file of word vectors, together with its file of word weights if the user gave one."""
    vectors = [hash_file(name) for name in vocabulary_files(model.folder)]
    space = hash_parts([vectors])
    word_weights = hash_file(model.word_weights) if model.word_weights else ""
    ingredients = {"weights": space, "word_weights": word_weights}
    return Identity(space, hash_parts([[space, word_weights, TOKENS_VERSION]]), ingredients)


def identify(
    model: AskedModel, weights_hash: str, settings: list[Any], tokenizer_files: list[Path]
) -> Identity:
    """Identify a network for texts or images.

    Args:
        model: The model; its prompt, max_tokens and preprocessing enter the recipe.
        weights_hash: Hash of its weights.
        settings: Settings that shape vectors besides the weights, as JSON.
        tokenizer_files: Files that decide which tokens a text becomes.
    """
    spec, preprocess = model.spec, model.preprocess
    own_space = hash_parts([[weights_hash, settings, spec.normalize, spec.dim]])
    space = spec.space or own_space
    # The weights' own space also where another is declared: other weights make rows due.
    recipe: list[Any] = [space, own_space, model.prompt, model.max_tokens]
    recipe += [PIXELS_VERSION, asdict(preprocess)] if preprocess else [TOKENS_VERSION]
    tokenizer = [part for path in tokenizer_files for part in (path.name, path.read_bytes())]
    ingredients = {
        "weights": weights_hash,
        "settings": settings,
        "prompt": model.prompt,
        "max_tokens": model.max_tokens,
        "tokenizer": hash_parts(tokenizer),
    }
    ingredients |= {"preprocess": asdict(preprocess)} if preprocess else {}
    ingredients = json.loads(json.dumps(ingredients))  # as a table gives it back
    return Identity(space, hash_parts([recipe, *tokenizer]), ingredients)
