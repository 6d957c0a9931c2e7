"""A text encoder with labels on top: what is fine-tuned, and saved as an encoder again.

The labels are told from the same pooled vector that `embed` writes, so that training moves what the
table will hold. torch and sentence-transformers are imported when a network is made.
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
    """Scores of labels for token ids; with labels also the cross entropy."""

    def __init__(self, layout: Layout, n_labels: int, class_weights: np.ndarray | None) -> None:
        """Load the encoder; the output layer begins at random.

        Args:
            layout: The encoder's folder.
            n_labels: Two or more.
            class_weights: (n_labels,) float32, what a text of each label counts; None: all alike.
        """
        super().__init__()
        self.encoder = load_modules(layout)
        dim = self.encoder.get_embedding_dimension()
        self.dropout, self.layer = torch.nn.Dropout(DROPOUT), torch.nn.Linear(dim, n_labels)
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        self.loss = torch.nn.CrossEntropyLoss(weight=weights)

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401
        """The encoder's."""
        return self.encoder.tokenizer

    def forward(
        self, labels: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`logits` (n, n_labels) and, where labels (n,) are given, `loss`.

        Args:
            labels: Numbers of labels.
            inputs: What the tokenizer gives: input_ids, attention_mask and the like, (n, width).
        """
        features: dict[str, Any] = {"modality": "text", **inputs}
        for module in self.encoder:
            if type(module).__name__ != "Normalize":  # the length of a vector helps to tell labels
                features = module(features)
        told = {"logits": self.layer(self.dropout(features["sentence_embedding"]))}
        return told if labels is None else {"loss": self.loss(told["logits"], labels), **told}

    def save(self, folder: str, labels: Sequence[str], max_tokens: int) -> None:
        """Write the encoder as a model folder, and the output layer beside it.

        Args:
            folder: New or empty.
            labels: Names, in the order of the scores.
            max_tokens: That texts were cut at, and will be.
        """
        self.encoder.max_seq_length = max_tokens
        with quiet_transformers():
            self.encoder.save_pretrained(folder, create_model_card=False)
        tensors = {"weight": self.layer.weight.detach(), "bias": self.layer.bias.detach()}
        names = {str(number): name for number, name in enumerate(labels)}
        save_file(tensors, Path(folder) / "classifier.safetensors", metadata=names)
