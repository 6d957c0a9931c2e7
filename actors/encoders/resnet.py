"""A baseline for images alone: ResNet's pooled features, computed by transformers.

Vectors equal `ResNetModel(...).pooler_output`, brought to unit length. Source: He et al. 2015.

    encoder = ResNetEncoder("models/resnet-50", preprocess)
    vectors = encoder.forward(encoder.tokenize(pixels).ids)  # pixels: (n, 224, 224, 3) uint8
"""

from pathlib import Path

import numpy as np
import torch

from actors.engine.engine import Tokens
from actors.engine.hardware import DTYPES, cores, on_lane, setup_for
from actors.files.loading import load_whole
from actors.images.pixels import Preprocess
from actors.kernels.attention import to_device


class ResNetEncoder:
    """A ResNet on one device.

    Attributes:
        dim: Length of a vector.
        max_tokens: Number of rows of pixels of an image; a row counts as a token here.
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
        """Load the weights; the arguments are those of `actors.encoders.clip.ClipImageEncoder`.

        Raises:
            ModelError: Weights are missing.
        """
        from transformers import ResNetModel

        self.setup = setup_for(device, precision, threads or cores(), packed=True)
        network = load_whole(ResNetModel, folder, dtype=torch.float32, local_files_only=True)
        self._device, self._dtype = torch.device(device), getattr(torch, DTYPES[precision])
        self._network = network.eval().to(
            self._device, self._dtype, memory_format=torch.channels_last
        )
        self._gain, self._shift = torch.from_numpy(preprocess.gain_and_shift).to(device)
        self._normalize = normalize
        self.max_tokens = preprocess.shape[0]
        self.dim = int(network.config.hidden_sizes[-1])

    def tokenize(self, images: np.ndarray) -> Tokens:
        """Each image as it is, uncut; images (n, height, width, 3) uint8."""
        return Tokens(list(images), np.zeros(len(images), dtype=bool))

    def forward(self, ids: list[np.ndarray]) -> np.ndarray:
        """Vectors of n images: (n, dim) float32, unit rows if normalize."""
        with torch.inference_mode(), on_lane(self.setup):
            pixels = to_device(np.stack(ids), self._device).float()
            pixels = pixels.mul_(self._gain).add_(self._shift).to(self._dtype)
            found = self._network(pixels.permute(0, 3, 1, 2)).pooler_output
            vectors = found.flatten(1).float()
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            out: np.ndarray = vectors.cpu().numpy()
        return out
