"""Where the BERT family keeps its weights, and which folders of it can be hosted without padding."""

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file

from actors.engine import ModelError
from actors.layout import Layout, dpr_class

EMBEDDINGS, ENCODER = "embeddings.", "encoder.layer.{}."
BERT_LAYER = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
# Where a family keeps its layers, and what it calls a layer's parts, in the order they are used.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bert": (ENCODER, BERT_LAYER),
    "roberta": (ENCODER, BERT_LAYER),
    "xlm-roberta": (ENCODER, BERT_LAYER),
    "camembert": (ENCODER, BERT_LAYER),
    "dpr": (ENCODER, BERT_LAYER),
    "mpnet": (
        ENCODER,
        (
            *("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"),
            *("attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
        ),
    ),
    "distilbert": (
        "transformer.layer.{}.",
        (
            *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
            *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
        ),
    ),
}
POOLINGS = ("mean", "cls", "max")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # in place
    "gelu": torch.ops.aten.gelu_.default,
    "relu": torch.relu_,
}
TANH = "torch.nn.modules.activation.Tanh"  # what a dense layer has where its settings do not say
DENSE_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    TANH: torch.tanh_,
    "torch.nn.modules.linear.Identity": lambda x: x,
}


def is_packable(layout: Layout, pooling: str | None, *, prompt: bool) -> bool:
    """Whether a folder's vectors are known to come out equal here; else its own modules host it.

    Args:
        layout: The folder.
        pooling: Given from outside, None takes the folder's.
        prompt: Whether a prompt precedes texts, which some poolings leave out.
    """
    config, kinds = layout.config, [kind for kind, _, _ in layout.modules]
    settings = layout.modules[0][2]
    text = settings.get("modality_config", {"text": {"method_output_name": "last_hidden_state"}})
    return (
        config.get("model_type") in FAMILIES
        and (layout.plain or config["model_type"] != "dpr")
        and config.get("hidden_act", config.get("activation", "gelu")) in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and not config.get("add_cross_attention")
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
    """Whether a module behind the transformer is one that is hosted here."""
    if kind == "Pooling":
        return not prompt or settings.get("include_prompt", True)
    if kind == "Dense":
        names = {settings.get(f"module_{x}put_name") for x in ("in", "out")}
        return names <= {None, "sentence_embedding"} and (
            settings.get("activation_function", TANH) in DENSE_ACTIVATIONS
        )
    return kind == "Normalize"


class Weights:
    """The transformer's tensors by name, in float32."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._folder, self._device = layout.folder, device
        files = next(files for name, files in layout.weight_files().items() if name[:2] == "0 ")
        self._tensors: dict[str, torch.Tensor] = {
            # Checkpoints that TensorFlow wrote have other names.
            key.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
            for file in files
            for key, tensor in load_file(file).items()
        }
        word = EMBEDDINGS + "word_embeddings.weight"
        part = ""
        if layout.is_dpr:
            part = (
                "ctx_encoder." if dpr_class(layout) == "DPRContextEncoder" else "question_encoder."
            )
        prefixes = [n.removesuffix(word) for n in self._tensors if n.endswith(word)]
        self._prefix = next((p for p in sorted(prefixes, key=len) if p.startswith(part)), part)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors or self._outside(name) in self._tensors

    def _outside(self, name: str) -> str:
        """Name of what DPR puts beside its BERT."""
        return self._prefix.removesuffix("bert_model.") + name

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self:
            raise ModelError(
                f"{self._folder} lacks weights of the model ({self._prefix}{name}, …), which would be"
                " random. Download the model again."
            )
        inside = self._prefix + name
        tensor = self._tensors[inside if inside in self._tensors else self._outside(name)]
        return tensor.to(self._device, torch.float32)
