"""What this project's own networks read of config.json, with what transformers takes where it is unsaid.

`actors.kernels.packed` reads BERTS, by kind of model, and `actors.encoders.clip` reads CLIP_TOWERS: nothing else, so that
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
