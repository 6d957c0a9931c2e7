"""What identifies vectors: the space that they lie in, and the recipe that they are made by.

The space is a hash of weights, settings, normalisation and dim, or a name that several models declare; the
recipe is one of all that decides a row's vector. What goes into them is kept beside them, by name, so that
a message can say what differs between two.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from actors.files.layout import Layout
from actors.files.settings import facets_of
from actors.files.vocabulary import files_of
from actors.files.weights import count_layers, hash_file, hash_parts, npz_parts, tensor_parts
from actors.images.pixels import Preprocess
from actors.models import ModelSpec

TOKENS_VERSION = 1  # raised when the same text would come out as other tokens
PIXELS_VERSION = 2  # raised when the same image would come out as other pixels


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


def of_transformer(
    spec: ModelSpec, layout: Layout, prompt: str, max_tokens: int, preprocess: Preprocess | None
) -> Identity:
    """Of a model folder; `preprocess` is what happens to images, where those are embedded.

    Raises:
        ModelError: A file of weights is damaged, or transformers makes no sense of config.json.
    """
    parts = (tensor_parts(module, files) for module, files in layout.weight_files().items())
    weights = hash_parts(part for module in parts for part in module)
    n_layers = count_layers(next(iter(layout.weight_files().values())))
    pooling = spec.pooling if layout.plain and not layout.is_clip else ""
    facets = [*facets_of(layout, n_layers), pooling]
    files = [] if preprocess else layout.tokenizer_files()
    return _identity(spec, weights, facets, prompt, max_tokens, preprocess, files)


def of_use(spec: ModelSpec, folder: str) -> Identity:
    """Of a Universal Sentence Encoder's folder."""
    weights = hash_parts(npz_parts(Path(folder) / "weights.npz"))
    files = [Path(folder) / "sp.model"]
    return _identity(spec, weights, ["use", spec.pooling], "", spec.max_tokens, None, files)


def of_words(path: str, word_weights: str) -> Identity:
    """Of a file of word vectors, and perhaps of one that says how much each word counts."""
    vectors = [hash_file(name) for name in files_of(path)]
    space = hash_parts([vectors])
    weights = hash_file(word_weights) if word_weights else ""
    ingredients = {"weights": space, "word_weights": weights}
    return Identity(space, hash_parts([[space, weights, TOKENS_VERSION]]), ingredients)


def _identity(
    spec: ModelSpec,
    weights: str,
    facets: list[Any],
    prompt: str,
    max_tokens: int,
    preprocess: Preprocess | None,
    tokenizer_files: list[Path],
) -> Identity:
    own_space = hash_parts([[weights, facets, spec.normalize, spec.dim]])
    space = spec.space or own_space
    # The weights' own space also where another is declared: other weights make rows due.
    recipe: list[Any] = [space, own_space, prompt, max_tokens]
    recipe += [PIXELS_VERSION, asdict(preprocess)] if preprocess else [TOKENS_VERSION]
    tokenizer = [part for path in tokenizer_files for part in (path.name, path.read_bytes())]
    ingredients = {
        "weights": weights,
        "settings": facets,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "tokenizer": hash_parts(tokenizer),
    }
    ingredients |= {"preprocess": asdict(preprocess)} if preprocess else {}
    ingredients = json.loads(json.dumps(ingredients))  # as a table gives it back
    return Identity(space, hash_parts([recipe, *tokenizer]), ingredients)
