"""What this project's own networks read of config.json, with what transformers takes where it is unsaid.

`completed` fills it in. `actors.kernels.packed` reads BERTS, by kind of model, and `actors.encoders.clip` reads CLIP_TOWERS: nothing else, so that
all of it is in the recipe (`actors.files.settings`).
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
DISTILBERT_NAMES = {  # that its config also goes by
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


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with what it leaves unsaid, where this project's own networks read it."""
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
    """What a CLIP's config says of one tower; early files say it twice, and the second one counts."""
    return config.get(f"{name}_dict") or config.get(name) or {}
