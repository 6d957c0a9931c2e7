"""A text encoder with a classification layer, to fine-tune the encoder and save it as a model folder.

The layer reads the same pooled vector that `embed` writes, so that training changes the vectors of the
table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from actors.encoders.modules import load_modules
from actors.files.layout import Layout
from actors.files.loading import quiet_transformers

DROPOUT = 0.1  # BERT's, before its classifier (Devlin et al. 2019, appendix A.2)


class TextClassifier(torch.nn.Module):
    """Classifier of texts: an encoder, and a linear layer that scores each label."""

    def __init__(self, layout: Layout, n_labels: int, class_weights: np.ndarray | None) -> None:
        """Load the encoder, and make a classification layer with random weights.

        Args:
            layout: Folder of the encoder.
            n_labels: Number of labels, two or more.
            class_weights: (n_labels,) float32, factor of the loss of texts of each label; None is 1 for
                all.
        """
        super().__init__()
        self.encoder = load_modules(layout)
        dim = self.encoder.get_embedding_dimension()
        self.dropout, self.layer = torch.nn.Dropout(DROPOUT), torch.nn.Linear(dim, n_labels)
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.loss = torch.nn.CrossEntropyLoss(weight=weights)

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401
        """Tokenizer of the encoder."""
        return self.encoder.tokenizer

    def forward(
        self, labels: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute `logits` (n, n_labels) float32 and, if labels are given, the cross entropy as `loss`.

        Args:
            labels: (n,) int64 in [0, n_labels), or None.
            inputs: Output of the tokenizer: input_ids, attention_mask and the like, (n, width) int64.
        """
        features: dict[str, Any] = {"modality": "text", **inputs}
        for module in self.encoder:
            if type(module).__name__ != "Normalize":  # the length of a vector helps to tell labels
                features = module(features)
        logits = self.layer(self.dropout(features["sentence_embedding"]))
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss(logits, labels), "logits": logits}

    def save(self, folder: str, labels: Sequence[str], max_tokens: int) -> None:
        """Write the encoder as a model folder, with the classification layer in it as a file.

        Args:
            folder: A new or empty folder.
            labels: Names of the labels, in the order of the logits.
            max_tokens: Tokens after which texts were cut in training; the model folder keeps this limit.
        """
        self.encoder.max_seq_length = max_tokens
        with quiet_transformers():
            self.encoder.save_pretrained(folder, create_model_card=False)
        tensors = {"weight": self.layer.weight.detach(), "bias": self.layer.bias.detach()}
        names = {str(number): name for number, name in enumerate(labels)}
        save_file(tensors, Path(folder) / "classifier.safetensors", metadata=names)
