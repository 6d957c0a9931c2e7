"""Networks of the BERT family without padding: all tokens of a micro-batch form one long sequence.

The family is BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet and DPR, with mean, cls or max
pooling, and dense layers after it. Linear layers compute no padding. Attention runs over texts of one
length at a time, or over all of them at once by a kernel for variable lengths, in half precision on a GPU.
Weights are read from safetensors; neither transformers' models nor sentence-transformers are imported,
which saves a worker seconds at its start.

    network = PackedBert(read_layout(folder), dtype="float32")
    vectors = network([[101, 7592, 102], [101, 102]])
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from actors.files.defaults import BERTS
from actors.files.layout import Layout
from actors.files.settings import TANH
from actors.kernels.attention import fastest_attention, group_by_length, to_device
from actors.kernels.bert_weights import ACTIVATE, DENSE_ACTIVATE, EMBEDDINGS, FAMILIES, Weights
from actors.kernels.linear import Linear, fastest_linear, torch_linear

Norm = tuple[torch.Tensor, torch.Tensor]

MPNET_DISTANCE = 128  # tokens; all larger distances share a bucket, as in MPNet's code


@dataclass(frozen=True)
class Layer:
    """Functions and norms of one layer of a BERT, with its weights on the device.

    Attributes:
        qkv: Makes query, key and value, (tokens, 3 * hidden).
        out: Output of the attention.
        norm: Gain and shift after the attention.
        up: First linear layer of the feed-forward network.
        down: Second one.
        last_norm: Gain and shift after the feed-forward network.
    """

    qkv: Linear
    out: Linear
    norm: Norm
    up: Linear
    down: Linear
    last_norm: Norm


class PackedBert:
    """A network of the BERT family; a call turns token ids into one vector a text."""

    def __init__(
        self,
        layout: Layout,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        pooling: str | None,
        part: str = "",
    ) -> None:
        """Load the weights.

        Args:
            layout: A folder for which `is_packable` is true, or a DPR.
            device: Name of the device, in torch's words.
            dtype: Type of weights and activations, in torch's words; pooling and later layers compute in
                float32.
            pooling: "mean", "cls" or "max"; None takes the folder's.
            part: Beginning of the names of weights, if a folder holds several encoders.

        Raises:
            ModelError: The folder lacks weights.
        """
        kind = str(layout.config["model_type"])
        config = {key: layout.config[key] for key in BERTS[kind]}  # all that a recipe knows of it
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._n_heads = int(config["n_heads" if kind == "distilbert" else "num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._activate = ACTIVATE[config["activation" if kind == "distilbert" else "hidden_act"]]
        self._pooling = pooling or layout.pooling
        self._pad_id = int(config["pad_token_id"]) if "pad_token_id" in config else None
        weights = Weights(layout, self._device, part)
        path, names = FAMILIES[kind]
        self._words = weights[EMBEDDINGS + "word_embeddings.weight"].to(self._dtype)
        positions = weights[EMBEDDINGS + "position_embeddings.weight"]
        if EMBEDDINGS + "token_type_embeddings.weight" in weights:
            positions = positions + weights[EMBEDDINGS + "token_type_embeddings.weight"][0]
        self._positions = positions.to(self._dtype)
        self._norm = self._load_norm(weights, EMBEDDINGS + "LayerNorm")
        self._bias: torch.Tensor | None = None
        if kind == "mpnet":
            table = weights["encoder.relative_attention_bias.weight"]
            self._bias = _mpnet_bias(table, layout.positions).to(self._dtype)
        n_layers = int(config["n_layers" if kind == "distilbert" else "num_hidden_layers"])
        largest, bias = (weights[path.format(0) + names[5] + kind] for kind in (".weight", ".bias"))
        self._linear = fastest_linear(largest.to(self._dtype), bias.to(self._dtype))
        self._layers = [self._load_layer(weights, path.format(i), names) for i in range(n_layers)]
        self._after_pooling = list(_modules_after_pooling(layout, self._device))
        if config.get("projection_dim"):  # a DPR
            parts = (weights[f"encode_proj.{kind}"] for kind in ("weight", "bias"))
            self._after_pooling.append(torch_linear(*parts))

    def __call__(self, ids: list[list[int]]) -> torch.Tensor:
        """Vectors (n, dim) float32 of n texts, on the device; the caller may truncate and normalise them."""
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        starts = np.cumsum(lengths) - lengths
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int64, int(lengths.sum()))
        x = F.embedding(self._put(flat), self._words)
        x += F.embedding(self._put(self._places(flat, lengths, starts)), self._positions)
        x = self._normalize(x, self._norm)
        attend = fastest_attention(
            self._n_heads, lengths, self._device, self._dtype, bias=self._bias
        )
        for layer in self._layers:
            x = self._normalize(layer.out(attend(layer.qkv(x))).add_(x), layer.norm)
            x = self._normalize(layer.down(self._activate(layer.up(x))).add_(x), layer.last_norm)
        vectors = self._pool(x, lengths)
        for module in self._after_pooling:
            vectors = module(vectors)
        return vectors

    def _put(self, values: np.ndarray) -> torch.Tensor:
        """Copy an array to the device."""
        return to_device(values, self._device)

    def _places(self, flat: np.ndarray, lengths: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Row of the position table for each token, (tokens,) int64.

        Args:
            flat: (tokens,) int64, ids of all texts.
            lengths: (texts,) int64, tokens of each text.
            starts: (texts,) int64, index of each text's first token.
        """
        if self._pad_id is None:
            counting: np.ndarray = np.arange(len(flat)) - np.repeat(starts, lengths)
            return counting
        # RoBERTa counts from after the padding index, and does not count a padding token in a text.
        counted = flat != self._pad_id
        numbers = np.cumsum(counted)
        before = numbers[starts] - counted[starts]
        places: np.ndarray = (numbers - np.repeat(before, lengths)) * counted + self._pad_id
        return places

    def _normalize(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        """Layer norm of x (tokens, hidden)."""
        return F.layer_norm(x, norm[0].shape, *norm, self._epsilon)

    def _pool(self, x: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """Pool states (tokens, hidden) into a vector a text, (texts, hidden) float32."""
        if self._pooling == "cls":
            return x[self._put(np.cumsum(lengths) - lengths)].float()
        if self._device.type != "cpu":  # a single kernel, instead of one for each group
            counts = self._put(lengths)
            return torch.segment_reduce(x.float(), self._pooling, lengths=counts, unsafe=True)
        groups = group_by_length(lengths.tolist())
        parts = (x[a : a + n * k].view(n, k, -1).float() for a, n, k in groups)
        if self._pooling == "max":
            return torch.cat([part.amax(1) for part in parts])
        return torch.cat([part.mean(1) for part in parts])

    def _load_norm(self, weights: "Weights", name: str) -> Norm:
        gain, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return gain.to(self._dtype), shift.to(self._dtype)

    def _load_layer(self, weights: "Weights", path: str, names: tuple[str, ...]) -> Layer:
        q, k, v, out, norm, up, down, last_norm = (path + name for name in names)

        def load(*parts: str) -> Linear:
            both = [
                torch.cat([weights[f"{part}.{kind}"] for part in parts]).to(self._dtype)
                for kind in ("weight", "bias")
            ]
            return self._linear(*both)

        return Layer(
            qkv=load(q, k, v),
            out=load(out),
            norm=self._load_norm(weights, norm),
            up=load(up),
            down=load(down),
            last_norm=self._load_norm(weights, last_norm),
        )


def _modules_after_pooling(layout: Layout, device: torch.device) -> Iterator[Linear]:
    """Modules that follow the pooling, as functions of (n, dim) float32."""
    for kind, folder, settings in layout.modules:
        if kind == "Dense":
            activate = DENSE_ACTIVATE[settings.get("activation_function", TANH)]
            tensors = load_file(folder / "model.safetensors", device=str(device))
            weight, bias = (tensors.get(f"linear.{kind}") for kind in ("weight", "bias"))
            assert weight is not None  # every linear layer has one
            yield partial(_dense, weight.float(), None if bias is None else bias.float(), activate)
        elif kind == "Normalize":
            yield lambda x: F.normalize(x, dim=1)


def _dense(
    weight: torch.Tensor, bias: torch.Tensor | None, activate: Linear, x: torch.Tensor
) -> torch.Tensor:
    return activate(F.linear(x, weight, bias))


def _mpnet_bias(table: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Bias that MPNet adds to attention scores, (heads, 2 * n_positions - 1), by distance.

    The distance is the key's position less the query's, from 1 - n_positions to n_positions - 1.

    Args:
        table: (buckets, heads) float32, one learned number for each bucket of distances and head.
        n_positions: Number of tokens of the longest text.

    Source: Raffel et al. 2020, section 2.1, relative position buckets, as MPNet takes them over.
    """
    distance = torch.arange(1 - n_positions, n_positions)  # of the key from the query
    half, near = len(table) // 2, len(table) // 4
    size = distance.abs()
    far = torch.log(size.float().clamp(min=1) / near) / math.log(MPNET_DISTANCE / near)
    far = (near + (far * (half - near)).long()).clamp(max=half - 1)
    bucket = torch.where(size < near, size, far) + half * (distance > 0)
    return table[bucket.to(table.device)].T.contiguous()
