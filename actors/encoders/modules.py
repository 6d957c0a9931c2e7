"""Text encoders of any kind, computed by the modules of sentence-transformers and transformers.

They are used for all models that `actors.kernels.packed` does not support. Micro-batches are padded on the
right. torch, transformers and sentence-transformers are imported when a network is made, not with this
module.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from actors.files.layout import Layout
from actors.files.loading import quiet_transformers, refuse_random_weights
from actors.models import ModelError

if TYPE_CHECKING:
    import torch


class PaddedModules:
    """A network of sentence-transformers' modules; a call turns token ids into one vector a text.

    Attributes:
        tokenizer: Tokenizer of the modules.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        pooling: str | None = None,
        prompt: str = "",
    ) -> None:
        """Load the weights.

        Args:
            layout: A model folder.
            device: Name of the device, in torch's words.
            dtype: Type of the transformer, in torch's words; later modules compute in float32.
            pooling: Pooling of a folder that names none; None takes sentence-transformers' default.
            prompt: Text that precedes each text, for poolings that leave it out.

        Raises:
            ModelError: Weights are missing, or the model is no text encoder.
        """
        import torch

        modules = load_modules(layout, device)
        first = modules[0]
        if getattr(first, "module_output_name", "token_embeddings") != "token_embeddings":
            raise ModelError(
                f"{layout.folder} is not a text encoder: it gives no token embeddings."
            )
        if "message" in getattr(first, "modality_config", {}):
            raise ModelError(f"{layout.folder} renders texts as chat messages, not hosted.")
        if pooling is not None:
            modules[1].pooling_mode = pooling
        modules.eval()
        first.to(getattr(torch, dtype))
        self.tokenizer = modules.tokenizer
        self._modules, self._device = modules, device
        self._pad_id = self.tokenizer.pad_token_id or 0
        self._type_ids = "token_type_ids" in self.tokenizer.model_input_names
        self._prompt_tokens = _prompt_tokens(self.tokenizer, prompt)

    def __call__(self, ids: list[list[int]]) -> "torch.Tensor":
        """Vectors (n, dim) float32 of n texts, on the device."""
        import torch

        # Always on the right: padding on the left would shift positions that count from the start.
        width = max(map(len, ids))
        tokens = np.full((len(ids), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        features: dict[str, Any] = {
            "modality": "text",
            "input_ids": torch.from_numpy(tokens).to(self._device),
            "attention_mask": torch.from_numpy(mask).to(self._device),
        }
        if self._type_ids:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        if self._prompt_tokens:
            features["prompt_length"] = self._prompt_tokens
        first, *behind = self._modules
        features = first(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in behind:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors


def load_modules(layout: Layout, device: str = "cpu") -> Any:  # noqa: ANN401
    """Load a folder as a SentenceTransformer in float32, whose first module is the transformer.

    Raises:
        ModelError: Weights are missing.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        modules = SentenceTransformer(
            str(layout.folder),
            device=device,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            local_files_only=True,
        )
    refuse_random_weights(modules[0].model, layout.modules[0][1])
    return modules


def _prompt_tokens(tokenizer: Any, prompt: str) -> int:  # noqa: ANN401
    """Number of tokens that a pooling without the prompt leaves out, as sentence-transformers counts."""
    ids = tokenizer(prompt)["input_ids"] if prompt else []
    return len(ids) - 1 if ids and ids[-1] in tokenizer.all_special_ids else len(ids)
