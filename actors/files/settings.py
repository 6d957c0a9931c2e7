"""What shapes a model's vectors besides its weights: its modules, and its config's settings as loaded.

Which settings count is no list of names. Where this project computes the network it is all that the
network reads; where transformers does, it is all that transformers' class makes of config.json, without
bookkeeping. A setting at its class's default is left out: a file that writes it out, a file that does
not and a newer transformers that adds it all tell of the same model.

    facets_of(read_layout("models/modernbert"))
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.files.defaults import BERTS
from actors.files.layout import Layout, pooling_modes
from actors.files.loading import quiet_transformers
from actors.files.weights import count_layers
from actors.models import ModelError
from schemas.errors import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

POOLINGS = ("mean", "cls", "max")
ACTIVATIONS = ("gelu", "relu")
TANH = "torch.nn.modules.activation.Tanh"  # what a dense layer has where its settings do not say
IDENTITY = "torch.nn.modules.linear.Identity"
DENSE_DEFAULTS = {"bias": True, "activation_function": TANH}
MODULE_DEFAULTS: dict[str, tuple[object, ...]] = {
    "module_input_name": (None, "sentence_embedding"),
    "module_output_name": (None, "sentence_embedding"),
    "use_residual": (False,),
}
SIZES = ("hidden_size", "dim", "max_position_embeddings", "projection_dim")  # shapes of weights
LAYERS = ("num_hidden_layers", "n_layers")
# No vector depends on these, nor on names that begin with "_" or end in "_version", nor on dropout.
BOOKKEEPING = (
    *("architectures", "auto_map", "dtype", "torch_dtype", "torchscript", "embatch_space"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("task_specific_params", "use_cache", "return_dict", "output_attentions"),
    *("output_hidden_states", "gradient_checkpointing", "chunk_size_feed_forward"),
    *("initializer_range", "initializer_factor", "initializer_cutoff_factor"),
)


def facets_of(layout: Layout) -> list[Any]:
    """All that shapes the vectors of a transformer of texts besides the weights, as JSON.

    Raises:
        ModelError: transformers cannot make sense of config.json, or a file of weights is damaged.
    """
    modules = [[kind, module_settings(kind, settings)] for kind, _, settings in layout.modules]
    if is_plain_bert(layout.config):
        n_layers = count_layers(next(iter(layout.weight_files().values())))
        return [modules, bert_settings(layout.config, n_layers)]
    return [modules, hosted_settings(layout.modules[0][1])]


def is_plain_bert(config: dict[str, Any]) -> bool:
    """Whether a config is of the BERT family, with nothing in it that `actors.kernels.packed` lacks."""
    return (
        config.get("model_type") in BERTS
        and config.get("hidden_act", config.get("activation")) in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and not config.get("add_cross_attention")
    )


def is_packable(layout: Layout, pooling: str | None, *, prompt: bool) -> bool:
    """Whether a folder's vectors are known to come out equal here; else its own modules host it.

    Args:
        layout: The folder.
        pooling: Given from outside, None takes the folder's.
        prompt: Whether a prompt precedes texts, which some poolings leave out.
    """
    kinds, settings = [kind for kind, _, _ in layout.modules], layout.modules[0][2]
    text = settings.get("modality_config", {"text": {"method_output_name": "last_hidden_state"}})
    return (
        is_plain_bert(layout.config)
        and layout.config["model_type"]
        != "dpr"  # its own family, or modules that pool it otherwise
        and not settings.get("do_lower_case")
        and not settings.get("query_expansion")
        and settings.get("module_output_name", "token_embeddings") == "token_embeddings"
        and text.get("text", {}).get("method_output_name") == "last_hidden_state"
        and (pooling or layout.pooling) in POOLINGS
        and all(_is_known(kind, settings, prompt) for kind, _, settings in layout.modules[1:])
        and kinds.count("Pooling") == (0 if layout.plain else 1)
        and (layout.plain or kinds[1] == "Pooling")
    )


def _is_known(kind: str, settings: dict[str, Any], prompt: bool) -> bool:
    """Whether a module behind the transformer is one that `actors.kernels.packed` computes."""
    if kind == "Pooling":
        return not prompt or settings.get("include_prompt", True)
    known = {"in_features", "out_features", "bias", "activation_function"}
    told = module_settings(kind, settings)
    if kind == "Dense":
        return told.keys() <= known and told["activation_function"] in (TANH, IDENTITY)
    return kind == "Normalize" and not told


def module_settings(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a module's settings say, the same however they are written.

    Empty for the transformer: its config says it, and what is said of its tokens is hashed with the
    tokenizer's files.
    """
    if kind == "Transformer":
        return {}
    if kind == "Pooling":
        prompt = settings.get("include_prompt", True)
        return {"modes": pooling_modes(settings), "include_prompt": prompt}
    return (DENSE_DEFAULTS if kind == "Dense" else {}) | {
        key: value
        for key, value in settings.items()
        if not any(value is known or value == known for known in MODULE_DEFAULTS.get(key, ()))
    }


def bert_settings(config: dict[str, Any], n_layers: int) -> dict[str, Any]:
    """What `actors.kernels.packed` reads of a config and weights do not tell.

    A padding index of 1, and as many layers as the weights hold, are left out too: so the spaces of
    tables that were made before these counted stay what they were.
    """
    told = {key: config[key] for key in BERTS[config["model_type"]] if key not in SIZES}
    usual = {"pad_token_id": 1} | dict.fromkeys(LAYERS, n_layers)
    told = {key: value for key, value in told.items() if value != usual.get(key)}
    return {"model_type": config["model_type"]} | told


def hosted_settings(folder: Path) -> dict[str, Any]:
    """What transformers' class makes of a folder's config.json and no default says.

    Raises:
        ModelError: transformers cannot make sense of it.
    """
    from transformers import AutoConfig, __version__

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            return told_of(config)
    except Exception as error:  # transformers' own, the hub client's, and what strict classes raise
        reason = error_line(" ".join(str(error).split()))
        raise ModelError(
            f"transformers {__version__} makes no sense of {folder}/config.json: {reason}"
        ) from error


def told_of(config: "PreTrainedConfig") -> dict[str, Any]:
    """A config's settings without bookkeeping, defaults, and what follows from the others.

    What follows from the others (Qwen's `layer_types` from its number of layers, say) is left out so
    that a version of transformers that begins to write it down changes nothing.
    """
    kind, raw, full = type(config), config.to_dict(), _settings(config)
    try:
        usual = _settings(kind())
    except Exception:  # a class without defaults
        usual = {}
    told = [key for key, value in full.items() if value != usual.get(key)]
    for key in sorted(told):
        others = [name for name in told if name != key]
        if _made_of(kind, {name: raw[name] for name in others}) == full:
            told = others
    nested = {key: getattr(config, key) for key in told if hasattr(getattr(config, key), "to_dict")}
    parts = {key: told_of(part) for key, part in nested.items()}
    return {"model_type": kind.model_type} | {key: full[key] for key in told} | parts


def _made_of(kind: "type[PreTrainedConfig]", told: dict[str, Any]) -> dict[str, Any] | None:
    """All settings of a config that is made of some; None where the class refuses them."""
    try:
        return _settings(kind(**copy.deepcopy(told)))
    except Exception:  # the class's own checks, of whatever type
        return None


def _settings(config: "PreTrainedConfig") -> dict[str, Any]:
    """All settings of a config that may shape vectors, those of nested ones too, as plain JSON."""
    settings: dict[str, Any] = _plain(config.to_dict())
    return settings


def _plain(value: Any) -> Any:  # noqa: ANN401
    """JSON's types, without bookkeeping; a whole number is an int, since 10000 is 10000.0."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not _is_bookkeeping(key)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _is_bookkeeping(key: object) -> bool:
    name = str(key)
    return (
        name in BOOKKEEPING
        or name.startswith("_")
        or name.endswith("_version")
        or "dropout" in name
    )
