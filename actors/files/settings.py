"""Settings that shape a model's vectors besides its weights: its modules, and those of its config.json.

No list of names says which settings count. If this project computes the network, all settings count that
the network reads. If transformers does, all settings count that its class makes of config.json, except for
bookkeeping. A setting at its class's default is left out, so that a file that writes the default, a file
that does not, and a newer transformers that adds the setting all describe the same model.

    vector_settings(read_layout("models/modernbert"))
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
TANH = "torch.nn.modules.activation.Tanh"  # default activation of a dense layer
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


def vector_settings(layout: Layout) -> list[Any]:
    """Settings that shape the vectors of a transformer of texts, as JSON: of its modules and its network.

    Raises:
        ModelError: transformers cannot read config.json, or a file of weights is damaged.
    """
    modules = [[kind, module_settings(kind, settings)] for kind, _, settings in layout.modules]
    if is_plain_bert(layout.config):
        n_layers = count_layers(next(iter(layout.weight_files().values())))
        return [modules, bert_settings(layout.config, n_layers)]
    return [modules, transformers_settings(layout.modules[0][1])]


def is_plain_bert(config: dict[str, Any]) -> bool:
    """True if a config is of the BERT family and `actors.kernels.packed` knows all its settings."""
    return (
        config.get("model_type") in BERTS
        and config.get("hidden_act", config.get("activation")) in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and not config.get("add_cross_attention")
    )


def is_packable(layout: Layout, pooling: str | None, *, prompt: bool) -> bool:
    """True if `actors.kernels.packed` gives the same vectors as the folder's own modules.

    Args:
        layout: The folder.
        pooling: Pooling that the caller wants; None takes the folder's.
        prompt: True if a prompt precedes texts; some poolings leave it out.
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
    """True if `actors.kernels.packed` computes a module that follows the transformer."""
    if kind == "Pooling":
        return not prompt or settings.get("include_prompt", True)
    known = {"in_features", "out_features", "bias", "activation_function"}
    own = module_settings(kind, settings)
    if kind == "Dense":
        return own.keys() <= known and own["activation_function"] in (TANH, IDENTITY)
    return kind == "Normalize" and not own


def module_settings(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a module in one form, whichever version of sentence-transformers wrote them.

    Empty for the transformer: its config.json counts instead, and its settings for tokens are hashed with
    the tokenizer's files.
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
    """Settings that `actors.kernels.packed` reads, without those that the weights' shapes show.

    A padding index of 1, and a number of layers equal to that of the weights, are left out too, so that
    older tables, which were made before these settings counted, keep their spaces.
    """
    settings = {key: config[key] for key in BERTS[config["model_type"]] if key not in SIZES}
    usual = {"pad_token_id": 1} | dict.fromkeys(LAYERS, n_layers)
    settings = {key: value for key, value in settings.items() if value != usual.get(key)}
    return {"model_type": config["model_type"]} | settings


def transformers_settings(folder: Path) -> dict[str, Any]:
    """Settings that transformers reads in a folder's config.json and that differ from its defaults.

    Raises:
        ModelError: transformers cannot read config.json.
    """
    from transformers import AutoConfig, __version__

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            return distinctive_settings(config)
    except Exception as error:  # transformers' own, the hub client's, and what strict classes raise
        reason = error_line(" ".join(str(error).split()))
        raise ModelError(
            f"transformers {__version__} makes no sense of {folder}/config.json: {reason}"
        ) from error


def distinctive_settings(config: "PreTrainedConfig") -> dict[str, Any]:
    """Settings of a config without bookkeeping, defaults, and settings that follow from the others.

    A setting that follows from the others (Qwen's `layer_types` from its number of layers, for example) is
    left out, so that nothing changes if a later version of transformers begins to write it.
    """
    kind, raw, full = type(config), config.to_dict(), _settings(config)
    try:
        usual = _settings(kind())
    except Exception:  # a class without defaults
        usual = {}
    names = [key for key, value in full.items() if value != usual.get(key)]
    for key in sorted(names):
        others = [name for name in names if name != key]
        if _made_of(kind, {name: raw[name] for name in others}) == full:
            names = others
    nested = {
        key: getattr(config, key) for key in names if hasattr(getattr(config, key), "to_dict")
    }
    parts = {key: distinctive_settings(part) for key, part in nested.items()}
    return {"model_type": kind.model_type} | {key: full[key] for key in names} | parts


def _made_of(kind: "type[PreTrainedConfig]", settings: dict[str, Any]) -> dict[str, Any] | None:
    """All settings of a config that is built from some of them; None if its class refuses these."""
    try:
        return _settings(kind(**copy.deepcopy(settings)))
    except Exception:  # the class's own checks, of whatever type
        return None


def _settings(config: "PreTrainedConfig") -> dict[str, Any]:
    """All settings of a config, and of configs nested in it, without bookkeeping, as plain JSON."""
    settings: dict[str, Any] = _plain(config.to_dict())
    return settings


def _plain(value: Any) -> Any:  # noqa: ANN401
    """A value in JSON's types, without bookkeeping; a whole float becomes an int, as 10000.0 equals 10000."""
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
