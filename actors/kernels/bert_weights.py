"""Names of weights in models of the BERT family, and a reader that finds tensors by them."""

from collections.abc import Callable

import torch
from safetensors.torch import load_file

from actors.files.layout import Layout
from actors.files.settings import IDENTITY, TANH
from actors.models import ModelError

EMBEDDINGS, ENCODER = "embeddings.", "encoder.layer.{}."
BERT_LAYER = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
# By kind of model: prefix of a layer's weights, and names of a layer's parts in the order of their use.
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
ACTIVATE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # in place
    "gelu": torch.ops.aten.gelu_.default,
    "relu": torch.relu_,
}
DENSE_ACTIVATE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    TANH: torch.tanh_,
    IDENTITY: lambda x: x,
}


class Weights:
    """Tensors of a transformer by name, float32 on the device."""

    def __init__(self, layout: Layout, device: torch.device, part: str = "") -> None:
        """Read the weights' files.

        Args:
            layout: The model folder.
            device: Device that tensors are moved to.
            part: Beginning of the names to read, if a folder holds several encoders.
        """
        self._folder, self._device = layout.folder, device
        files = next(files for name, files in layout.weight_files().items() if name[:2] == "0 ")
        self._tensors: dict[str, torch.Tensor] = {
            # Checkpoints that TensorFlow wrote have other names.
            key.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
            for file in files
            for key, tensor in load_file(file).items()
        }
        word = EMBEDDINGS + "word_embeddings.weight"
        prefixes = [n.removesuffix(word) for n in self._tensors if n.endswith(word)]
        self._prefix = next((p for p in sorted(prefixes, key=len) if p.startswith(part)), part)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors or self._outside(name) in self._tensors

    def _outside(self, name: str) -> str:
        """Full name of a weight that belongs to DPR but not to DPR's BERT."""
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
