"""What identifies vectors: the space that they lie in, and the recipe that they are made by.

The space is a hash of weights, settings, normalisation and dim, or a name that several models declare; the
recipe is one of all that decides a row's vector. What goes into them is kept beside them, by name, so that
a message can say what differs between two.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from actors.files.layout import Layout
from actors.files.vocabulary import files_of
from actors.files.weights import hash_file, hash_parts, npz_parts, tensor_parts
from actors.images.pixels import Preprocess
from actors.models import ModelSpec

TOKENS_VERSION = 1  # raised when the same text would come out as other tokens
PIXELS_VERSION = 2  # raised when the same image would come out as other pixels


class AskedModel(Protocol):
    """What is known of a model before it is identified; `actors.checkpoints.Model` is one."""

    @property
    def spec(self) -> ModelSpec:
        """What its folder, or the list of known models, says of it."""

    @property
    def name(self) -> str:
        """What `--model` takes."""

    @property
    def folder(self) -> str:
        """Where its weights are."""

    @property
    def unit(self) -> bool:
        """True if vectors have unit length."""

    @property
    def prompt(self) -> str:
        """Text put before each text."""

    @property
    def max_tokens(self) -> int:
        """Tokens after which a text is cut."""

    @property
    def preprocess(self) -> Preprocess | None:
        """What happens to images; None where texts are embedded."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences that class names are put into."""

    @property
    def word_weights(self) -> str:
        """File that says how much each word counts."""


class Identity(NamedTuple):
    """What identifies a model's vectors.

    Attributes:
        space: A declared name, or 32 hex digits over weights, settings, normalisation and dim.
        recipe: 32 hex digits over all that decides a row's vector.
        ingredients: What went into them, as JSON; hashes of what is long.
    """

    space: str
    recipe: str
    ingredients: dict[str, Any]


def of_layout(model: AskedModel, layout: Layout, facets: list[Any]) -> Identity:
    """Of a folder in transformers' layout; facets are what shapes its vectors besides the weights.

    Raises:
        ModelError: A file of weights is damaged.
    """
    parts = (tensor_parts(module, files) for module, files in layout.weight_files().items())
    weights = hash_parts(part for module in parts for part in module)
    files = [] if model.preprocess else layout.tokenizer_files()
    return identity(model, weights, facets, files)


def of_use(model: AskedModel) -> Identity:
    """Of a Universal Sentence Encoder's folder."""
    weights = hash_parts(npz_parts(Path(model.folder) / "weights.npz"))
    return identity(model, weights, ["use", model.spec.pooling], [Path(model.folder) / "sp.model"])


def of_words(model: AskedModel) -> Identity:
    """Of a file of word vectors, and perhaps of one that says how much each word counts."""
    vectors = [hash_file(name) for name in files_of(model.folder)]
    space = hash_parts([vectors])
    weights = hash_file(model.word_weights) if model.word_weights else ""
    ingredients = {"weights": space, "word_weights": weights}
    return Identity(space, hash_parts([[space, weights, TOKENS_VERSION]]), ingredients)


def identity(
    model: AskedModel, weights: str, facets: list[Any], tokenizer_files: list[Path]
) -> Identity:
    """Of any model of texts or images.

    Args:
        model: What was asked for; its prompt, bound on tokens and preprocessing count.
        weights: Hash of its weights.
        facets: What shapes its vectors besides the weights, as JSON.
        tokenizer_files: Whose bytes decide which tokens a text becomes.
    """
    spec, preprocess = model.spec, model.preprocess
    own_space = hash_parts([[weights, facets, spec.normalize, spec.dim]])
    space = spec.space or own_space
    # The weights' own space also where another is declared: other weights make rows due.
    recipe: list[Any] = [space, own_space, model.prompt, model.max_tokens]
    recipe += [PIXELS_VERSION, asdict(preprocess)] if preprocess else [TOKENS_VERSION]
    tokenizer = [part for path in tokenizer_files for part in (path.name, path.read_bytes())]
    ingredients = {
        "weights": weights,
        "settings": facets,
        "prompt": model.prompt,
        "max_tokens": model.max_tokens,
        "tokenizer": hash_parts(tokenizer),
    }
    ingredients |= {"preprocess": asdict(preprocess)} if preprocess else {}
    ingredients = json.loads(json.dumps(ingredients))  # as a table gives it back
    return Identity(space, hash_parts([recipe, *tokenizer]), ingredients)
