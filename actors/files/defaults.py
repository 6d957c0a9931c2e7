"""Settings of config.json that this project's own networks read, with transformers' default values.

`with_defaults` adds the settings that a config.json lacks. `actors.kernels.packed` reads the settings in
BERTS, and `actors.encoders.clip` those in CLIP_TOWERS. Neither reads any other, so that all settings that
count are in the recipe (`actors.files.settings`).
"""

from typing import Any

BERT: dict[str, Any] = {
    "hidden_act": "gelu",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "layer_norm_eps": 1e-12,
    "hidden_size": 768,
    "max_position_embeddings": 512,
}
BERTS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "dpr": BERT | {"projection_dim": 0},
    "distilbert": {
        "activation": "gelu",
        "n_heads": 12,
        "n_layers": 6,
        "dim": 768,
        "max_position_embeddings": 512,
    },
} | dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), BERT | {"pad_token_id": 1})
DISTILBERT_NAMES = {  # by other names that its config.json may use
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
}
CLIP_TOWERS: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_act": "quick_gelu",
        "num_attention_heads": 8,
        "num_hidden_layers": 12,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    },
    "vision_config": {
        "hidden_act": "quick_gelu",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 32,
    },
}


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Add transformers' defaults to a config.json, where this project's own networks need them."""
    kind = config.get("model_type")
    if kind == "clip":
        towers = {
            name: {key: _tower(config, name).get(key, value) for key, value in known.items()}
            for name, known in CLIP_TOWERS.items()
        }
        positions = towers["text_config"]["max_position_embeddings"]
        return config | towers | {"max_position_embeddings": positions}
    if kind not in BERTS:
        return config
    renamed = DISTILBERT_NAMES if kind == "distilbert" else {}
    return BERTS[kind] | {renamed.get(key, key): value for key, value in config.items()}


def _tower(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Settings of one CLIP tower; early files hold them twice, and those under `NAME_dict` count."""
    return config.get(f"{name}_dict") or config.get(name) or {}
