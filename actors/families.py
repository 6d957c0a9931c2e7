"""The families of models: how a folder is recognised as one, described, identified and loaded.

A family is one literal in `FAMILIES` and one file in `actors/encoders/`. Only the functions that load a
model import torch, so that a model can be resolved without it.

    family_of("models/all-MiniLM-L6-v2")  # "transformer"
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from actors import recipes
from actors.encoders.dpr import dpr_class, dpr_dim, packed_dpr
from actors.encoders.words import WordEncoder, read_word_weights
from actors.engine.engine import Encoder
from actors.files.defaults import CLIP_TOWERS
from actors.files.layout import (
    UNLIMITED,
    Layout,
    model_type_of,
    read_layout,
    read_text_layout,
    require_tokenizer,
)
from actors.files.settings import transformers_settings, vector_settings
from actors.files.vocabulary import is_vocabulary, words_spec
from actors.files.weights import read_scalar
from actors.models import ModelError, ModelSpec
from actors.recipes import AskedModel, Identity


class Machine(TypedDict):
    """Device, number of threads and precision of an encoder: the arguments of `Model.load`."""

    device: str
    threads: int | None
    precision: str


def refuse_word_weights(model: AskedModel) -> None:
    """Raise a ModelError if the user gave --word-weights, which only word vectors take."""
    if model.word_weights:
        raise ModelError(f"{model.name} is no file of word vectors; leave out --word-weights.")


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        recognises: True if a folder or file holds such a model.
        describe: Reads modality, dim, max_tokens and prompts of a folder or file; raises ModelError if it
            is incomplete. The caller adds the family and, for a model of the hub, its name.
        identify: Computes space and recipe of a model, by `actors.recipes`.
        load: Loads the encoder of a model; imports torch.
        check: Raises ModelError if the user asked for an option that the model does not take.
        logit_scale: Reads, from a folder, the factor of a cosine before a softmax over classes; None if
            models of the family are trained without one.
    """

    recognises: Callable[[str], bool]
    describe: Callable[[str], ModelSpec]
    identify: Callable[[AskedModel], Identity]
    load: Callable[[AskedModel, Machine], Encoder]
    check: Callable[[AskedModel], None] = refuse_word_weights
    logit_scale: Callable[[str], float] | None = None


def family_of(path: str) -> str | None:
    """Name of the family of a folder or file.

    A folder that no family recognises is a transformer; for such a file the answer is None.
    """
    found = (name for name, family in FAMILIES.items() if family.recognises(path))
    return next(found, "transformer" if os.path.isdir(path) else None)


def _spec(layout: Layout, dim: int, modality: str = "text", **more: Any) -> ModelSpec:  # noqa: ANN401
    """Description of a model folder in transformers' layout; `more` are further fields of it."""
    about: dict[str, Any] = {
        "pooling": layout.pooling,
        "prompts": layout.prompts,
        "space": layout.config.get("embatch_space"),
        "licence": "see model card",
        "source": "see model card",
    }
    return ModelSpec(
        layout.folder.name,
        dim=dim,
        max_tokens=layout.max_tokens,
        modality=modality,
        repository="",
        **about | more,
    )


def _check_tokens(model: AskedModel) -> None:
    """Raise a ModelError if max_tokens is below 3 or above a transformer's positions."""
    refuse_word_weights(model)
    n, most = model.max_tokens, read_layout(model.folder).positions
    if model.preprocess is None and not 3 <= n <= most:
        upper = f"at most {most}" if most < UNLIMITED else "3 or more"
        raise ModelError(f"max_tokens is {n}, {model.name} takes {upper}.")


def _load_text(model: AskedModel, machine: Machine, **more: Any) -> Encoder:  # noqa: ANN401
    from actors.encoders.transformer import TransformerEncoder

    return TransformerEncoder(
        model.folder,
        **machine,
        max_tokens=model.max_tokens,
        prompt=model.prompt,
        normalize=model.unit,
        **more,
    )


def _describe_transformer(folder: str) -> ModelSpec:
    layout = read_text_layout(folder)
    return _spec(layout, layout.dim)


def _identify_transformer(model: AskedModel) -> Identity:
    layout = read_layout(model.folder)
    pooling = model.spec.pooling if layout.plain else ""
    return recipes.identify_layout(model, layout, [*vector_settings(layout), pooling])


def _load_transformer(model: AskedModel, machine: Machine) -> Encoder:
    plain = read_layout(model.folder).plain
    return _load_text(model, machine, pooling=model.spec.pooling if plain else None)


def _is_dpr(path: str) -> bool:
    """True for a DPR folder in transformers' layout; one with modules.json is a transformer instead."""
    return model_type_of(path) == "dpr" and not (Path(path) / "modules.json").exists()


def _describe_dpr(folder: str) -> ModelSpec:
    layout = read_text_layout(folder)
    dpr_class(layout)
    return _spec(layout, dpr_dim(layout), pooling="cls", normalize=False)


def _describe_clip(folder: str) -> ModelSpec:
    layout = read_layout(folder)
    if {name for name, _, _ in layout.modules[1:]} - {"Normalize"}:
        raise ModelError(f"{folder} has modules behind CLIP's towers, which is not hosted.")
    require_tokenizer(layout)
    return _spec(layout, int(layout.config.get("projection_dim", 512)), "text and image")


def _identify_clip(model: AskedModel) -> Identity:
    layout = read_layout(model.folder)
    towers = {tower: layout.config[tower] for tower in CLIP_TOWERS}
    return recipes.identify_layout(model, layout, [towers, ""])


def _load_clip(model: AskedModel, machine: Machine) -> Encoder:
    from actors.encoders.clip import ClipImageEncoder, PackedClipText

    if model.preprocess is None:
        return _load_text(model, machine, network=PackedClipText)
    return ClipImageEncoder(model.folder, model.preprocess, **machine, normalize=model.unit)


def _logit_scale_of_clip(folder: str) -> float:
    files = next(iter(read_layout(folder).weight_files().values()))
    return math.exp(read_scalar(files, "logit_scale"))


def _describe_resnet(folder: str) -> ModelSpec:
    layout = read_layout(folder)
    return _spec(layout, int(layout.config["hidden_sizes"][-1]), "image")


def _identify_resnet(model: AskedModel) -> Identity:
    layout = read_layout(model.folder)
    pooling = model.spec.pooling if layout.plain else ""
    return recipes.identify_layout(
        model, layout, [transformers_settings(layout.modules[0][1]), pooling]
    )


def _load_resnet(model: AskedModel, machine: Machine) -> Encoder:
    from actors.encoders.resnet import ResNetEncoder

    assert model.preprocess is not None  # it takes images alone
    return ResNetEncoder(model.folder, model.preprocess, **machine, normalize=model.unit)


def _is_use(path: str) -> bool:
    return all((Path(path) / name).is_file() for name in ("weights.npz", "sp.model"))


def _describe_use(folder: str) -> ModelSpec:
    return ModelSpec(
        name=Path(folder).name,
        dim=512,
        max_tokens=2**20,
        pooling="mean",
        repository="",
        licence="Apache-2.0",
        source="Universal Sentence Encoder",
    )


def _check_use(model: AskedModel) -> None:
    refuse_word_weights(model)
    if model.prompt or model.max_tokens != model.spec.max_tokens:
        raise ModelError(f"{model.name} takes neither a prompt nor max_tokens; leave them out.")


def _load_use(model: AskedModel, machine: Machine) -> Encoder:
    from actors.encoders.use import UseEncoder

    # It computes in fp32 alone.
    return UseEncoder(model.folder, device=machine["device"], threads=machine["threads"])


def _check_words(model: AskedModel) -> None:
    if model.prompt or model.max_tokens != model.spec.max_tokens or model.templates:
        raise ModelError("A file of word vectors takes no prompt, no --max-tokens and no --labels.")
    if model.word_weights:
        read_word_weights(model.word_weights)  # a damaged file is better found now


FAMILIES: dict[str, Family] = {
    "transformer": Family(
        recognises=lambda path: False,  # it takes each folder that no other family recognises
        describe=_describe_transformer,
        identify=_identify_transformer,
        load=_load_transformer,
        check=_check_tokens,
    ),
    "dpr": Family(
        recognises=_is_dpr,
        describe=_describe_dpr,
        identify=_identify_transformer,
        load=lambda model, machine: _load_text(model, machine, network=packed_dpr),
        check=_check_tokens,
    ),
    "clip": Family(
        recognises=lambda path: model_type_of(path) == "clip",
        describe=_describe_clip,
        identify=_identify_clip,
        load=_load_clip,
        check=_check_tokens,
        logit_scale=_logit_scale_of_clip,
    ),
    "resnet": Family(
        recognises=lambda path: model_type_of(path) == "resnet",
        describe=_describe_resnet,
        identify=_identify_resnet,
        load=_load_resnet,
    ),
    "use": Family(
        recognises=_is_use,
        describe=_describe_use,
        identify=recipes.identify_use,
        load=_load_use,
        check=_check_use,
    ),
    "words": Family(
        recognises=lambda path: os.path.isfile(path) and is_vocabulary(path),
        describe=words_spec,
        identify=recipes.identify_words,
        load=lambda model, _: WordEncoder(model.folder, word_weights=model.word_weights),
        check=_check_words,
    ),
}
