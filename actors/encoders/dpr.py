"""DPR's two encoders, of passages and of questions: a BERT, whose first token's state is the vector.

A linear projection may follow. Vectors equal `pooler_output` of transformers' `DPRContextEncoder` or `DPRQuestionEncoder`. torch is
imported when a network is made, not with this file. Source: Karpukhin et al. 2020.

    TransformerEncoder(folder, network=packed_dpr, normalize=False)
"""

from typing import TYPE_CHECKING

from actors.files.layout import Layout
from actors.files.settings import is_plain_bert
from actors.models import ModelError

if TYPE_CHECKING:
    from actors.kernels.packed import PackedBert

PARTS = {"DPRContextEncoder": "ctx_encoder.", "DPRQuestionEncoder": "question_encoder."}


def dpr_class(layout: Layout) -> str:
    """Class name of the DPR encoder in a folder, by its config.json.

    transformers' AutoModel would load either encoder as the question encoder.

    Raises:
        ModelError: config.json names neither of the two classes.
    """
    names = layout.config.get("architectures") or []
    if len(names) != 1 or names[0] not in PARTS:
        raise ModelError(
            f"{layout.folder} is not a text encoder: its config.json names {names or 'no class'},"
            " expected DPRContextEncoder or DPRQuestionEncoder."
        )
    return str(names[0])


def dpr_dim(layout: Layout) -> int:
    """Length of a vector: that of the projection or, without one, of the hidden states."""
    return int(layout.config.get("projection_dim") or layout.config["hidden_size"])


def packed_dpr(layout: Layout, *, device: str = "cpu", dtype: str = "float32") -> "PackedBert":
    """Load a DPR encoder's network, for `actors.encoders.transformer.TransformerEncoder`.

    Raises:
        ModelError: The folder lacks weights, or has settings that the network does not support.
    """
    from actors.kernels.packed import PackedBert

    part = PARTS[dpr_class(layout)]
    if not is_plain_bert(layout.config):
        raise ModelError(
            f"{layout.folder}/config.json has settings that are not hosted in a DPR (its activation,"
            f" {layout.config['hidden_act']!r}, or its kind of positions)."
        )
    return PackedBert(layout, device=device, dtype=dtype, pooling="cls", part=part)
