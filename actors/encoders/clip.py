"""CLIP's two towers, read from safetensors: both give vectors of one space, for texts and for images.

`PackedClipText` is a network inside `TransformerEncoder`, which tokenises its texts. `ClipImageEncoder` is
a complete encoder, whose tokens are the patches of an image. Vectors equal transformers'
`CLIPModel.get_text_features` and `get_image_features`, brought to unit length. Source: Radford et
al. 2021; Dosovitskiy et al. 2020 for the image tower.

    encoder = ClipImageEncoder("models/clip-ViT-B-32", preprocess)
    patches = encoder.tokenize(pixels).ids  # pixels: (n, 224, 224, 3) uint8
    vectors = encoder.forward(patches)
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

from actors.engine.engine import Tokens
from actors.engine.hardware import DTYPES, cores, on_lane, on_threads, setup_for
from actors.files.layout import Layout, read_layout
from actors.images.pixels import Preprocess
from actors.kernels.attention import fastest_attention, to_device
from actors.kernels.linear import Linear, fastest_linear
from actors.models import ModelError

Norm = tuple[torch.Tensor, torch.Tensor]


def _quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """Activation of OpenAI's CLIP weights, computed in place: x * sigmoid(1.702 x)."""
    gate = 1.702 * x
    return x.mul_(gate.sigmoid_())


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": _quick_gelu,
    "gelu": torch.ops.aten.gelu_.default,
}
ARGMAX_EOS = 2  # eos_token_id of early configs: there the token with the highest id ends a text


class _Tensors:
    """Tensors of a model folder by name, in float32; each is read from its file when it is asked for."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.folder
        self._files: dict[str, Path] = {}
        for file in next(iter(layout.weight_files().values())):
            with safe_open(file, framework="pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise ModelError(
                f"{self._folder} lacks weights of the model ({name}, …), which would be random."
                " Download the model again."
            )
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor.float()

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of a layer, float32."""
        return self[f"{name}.weight"], self[f"{name}.bias"]


@dataclass(frozen=True)
class _Layer:
    """Functions and norms of one layer of a tower, with its weights on the device.

    Attributes:
        norm: Gain and shift before the attention.
        qkv: Makes query, key and value, (tokens, 3 * hidden).
        out: Output of the attention.
        up_norm: Gain and shift before the feed-forward network.
        up: First linear layer of the feed-forward network.
        down: Second one.
    """

    norm: Norm
    qkv: Linear
    out: Linear
    up_norm: Norm
    up: Linear
    down: Linear


class _Tower:
    """Layers of a tower, for texts or images, over the tokens of many sequences without padding."""

    def __init__(
        self, tensors: _Tensors, name: str, config: dict[str, Any], device: str, dtype: str
    ) -> None:
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.n_heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-5))
        activation = config.get("hidden_act", "quick_gelu")
        if activation not in ACTIVATIONS:
            raise ModelError(f"The activation {activation!r} is not hosted in a CLIP tower.")
        self._activate = ACTIVATIONS[activation]
        n_layers = int(config["num_hidden_layers"])
        path = name + ".encoder.layers.{}."
        largest, bias = (self.put(t) for t in tensors.pair(path.format(0) + "mlp.fc1"))
        self.linear = fastest_linear(largest, bias)
        self._layers = [self._load(tensors, path.format(index)) for index in range(n_layers)]

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a weight to the device, in the layers' type."""
        return tensor.to(self.device, self.dtype)

    def norm(self, x: torch.Tensor, gain_and_shift: Norm) -> torch.Tensor:
        """Layer norm of x (tokens, hidden)."""
        return F.layer_norm(x, gain_and_shift[0].shape, *gain_and_shift, self._epsilon)

    def __call__(self, x: torch.Tensor, lengths: np.ndarray, *, causal: bool) -> torch.Tensor:
        """States (tokens, hidden) after the last layer.

        Args:
            x: (tokens, hidden), states before the first layer; changed in place.
            lengths: (n,) int64, tokens of each sequence.
            causal: True if a token sees no later token.
        """
        attend = fastest_attention(self.n_heads, lengths, self.device, self.dtype, causal=causal)
        for layer in self._layers:
            x = layer.out(attend(layer.qkv(self.norm(x, layer.norm)))).add_(x)
            x = layer.down(self._activate(layer.up(self.norm(x, layer.up_norm)))).add_(x)
        return x

    def _load(self, tensors: _Tensors, path: str) -> _Layer:
        def norm(name: str) -> Norm:
            gain, shift = tensors.pair(path + name)
            return self.put(gain), self.put(shift)

        def linear(*names: str) -> Linear:
            pairs = [tensors.pair(path + name) for name in names]
            weight, bias = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            return self.linear(self.put(weight), self.put(bias))

        return _Layer(
            norm=norm("layer_norm1"),
            qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            out=linear("self_attn.out_proj"),
            up_norm=norm("layer_norm2"),
            up=linear("mlp.fc1"),
            down=linear("mlp.fc2"),
        )


class PackedClipText:
    """CLIP's text tower; a call turns token ids into one vector a text."""

    def __init__(self, layout: Layout, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights.

        Raises:
            ModelError: The folder lacks weights.
        """
        config, tensors = layout.config["text_config"], _Tensors(layout)
        self._tower = tower = _Tower(tensors, "text_model", config, device, dtype)
        self._end = int(config.get("eos_token_id", ARGMAX_EOS))
        self._words = tower.put(tensors["text_model.embeddings.token_embedding.weight"])
        self._places = tower.put(tensors["text_model.embeddings.position_embedding.weight"])
        gain, shift = tensors.pair("text_model.final_layer_norm")
        self._last_norm = gain.to(device), shift.to(device)  # float32, as all behind the layers
        self._projection = tensors["text_projection.weight"].to(device)

    def __call__(self, ids: list[list[int]]) -> torch.Tensor:
        """Vectors (n, dim) float32 of n texts, on the device, not normalised."""
        tower = self._tower
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        starts = np.cumsum(lengths) - lengths
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int64, int(lengths.sum()))
        places = np.arange(len(flat)) - np.repeat(starts, lengths)
        x = F.embedding(to_device(flat, tower.device), self._words)
        x += F.embedding(to_device(places, tower.device), self._places)
        x = tower(x, lengths, causal=True)
        ends = starts + [self._end_of(text) for text in ids]
        pooled = tower.norm(x[to_device(ends, tower.device)].float(), self._last_norm)
        return F.linear(pooled, self._projection)

    def _end_of(self, ids: list[int]) -> int:
        """Index of the token that ends a text, whose state becomes the vector; 0 if there is none."""
        if self._end == ARGMAX_EOS:
            return ids.index(max(ids))
        return ids.index(self._end) if self._end in ids else 0


class ClipImageEncoder:
    """CLIP's image tower on one device, with its tokenizer, which cuts images into patches.

    Attributes:
        dim: Length of a vector.
        max_tokens: Number of patches of an image.
        setup: Device, precision and degree of parallelism.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocess: Preprocess,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        normalize: bool = True,
    ) -> None:
        """Load the weights.

        Args:
            folder: A model folder.
            preprocess: Resizing, cropping and scaling of the images.
            device: Name of the device, in torch's words.
            threads: Number of cores; None takes all of the machine.
            precision: "fp32", "bf16" or "fp16".
            normalize: True to give unit rows.

        Raises:
            ModelError: As `read_layout`; or weights are missing, or preprocess gives images of another
                size than the tower takes.
        """
        layout = read_layout(folder)
        config, tensors = layout.config["vision_config"], _Tensors(layout)
        edge, self._patch = int(config["image_size"]), int(config["patch_size"])
        if preprocess.shape != (edge, edge, 3):
            raise ModelError(
                f"{folder} takes images of {edge} x {edge} and prepares them as {preprocess.shape}."
            )
        self.setup = setup_for(device, precision, threads or cores(), packed=True)
        with on_threads(self.setup):  # linear layers are timed with the threads they will run on
            tower = _Tower(tensors, "vision_model", config, device, DTYPES[precision])
        self._tower = tower
        name = "vision_model.embeddings."
        kernel = tensors[name + "patch_embedding.weight"].permute(0, 2, 3, 1).flatten(1)
        self._embed = tower.linear(tower.put(kernel), tower.put(torch.zeros(len(kernel))))
        self._first = tower.put(tensors[name + "class_embedding"])
        self._places = tower.put(tensors[name + "position_embedding.weight"])
        gain, shift = tensors.pair("vision_model.pre_layrnorm")
        self._norm = tower.put(gain), tower.put(shift)
        gain, shift = tensors.pair("vision_model.post_layernorm")
        self._last_norm = gain.to(device), shift.to(device)  # float32, as all behind the layers
        self._projection = tensors["visual_projection.weight"].to(device)
        self.dim = len(self._projection)
        self.max_tokens = (edge // self._patch) ** 2
        self._gain, self._shift = torch.from_numpy(preprocess.gain_and_shift).to(device)
        self._normalize = normalize

    def tokenize(self, images: np.ndarray) -> Tokens:
        """Cut images into patches.

        Args:
            images: (n, height, width, 3) uint8.

        Returns:
            For each image an array (max_tokens, 3 * pixels of a patch) uint8, patches row by row.
        """
        n, edge, size = len(images), images[0].shape[0], self._patch
        whole = edge // size * size  # a rest at the right and the bottom is seen by no patch
        grid = np.stack(list(images))[:, :whole, :whole].reshape(
            n, whole // size, size, whole // size, size, 3
        )
        patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, self.max_tokens, 3 * size * size)
        return Tokens(list(patches), np.zeros(n, dtype=bool))

    def forward(self, ids: list[np.ndarray]) -> np.ndarray:
        """Vectors of n images, given as patches: (n, dim) float32, unit rows if normalize."""
        tower, n = self._tower, len(ids)
        with torch.inference_mode(), on_lane(self.setup):
            pixels = to_device(np.concatenate(ids), tower.device).float()
            pixels = pixels.view(-1, 3).mul_(self._gain).add_(self._shift).view(pixels.shape)
            x = self._first.new_empty(n, self.max_tokens + 1, len(self._first))
            x[:, 0] = self._first
            x[:, 1:] = self._embed(pixels.to(tower.dtype)).view(n, self.max_tokens, -1)
            x = tower.norm(x.add_(self._places).flatten(0, 1), self._norm)
            x = tower(x, np.full(n, self.max_tokens + 1), causal=False)
            first = x.view(n, self.max_tokens + 1, -1)[:, 0].float()
            vectors = F.linear(tower.norm(first, self._last_norm), self._projection)
            if self._normalize:
                vectors = F.normalize(vectors, dim=1)
            out: np.ndarray = vectors.cpu().numpy()
        return out
