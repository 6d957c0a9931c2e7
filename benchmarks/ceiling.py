"""Speed of matrix products alone on this machine, and number of operations in a transformer's products.

An engine's share of the ceiling is the time that its model's products would take at that speed, divided by
the time that the engine took.

    sizes = sizes_of(folder)
    sizes.flops(250) / seconds_a_row / matmul_ceiling(encoder.setup, (sizes.hidden, sizes.up))
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from actors.engine.engine import Setup
from actors.engine.hardware import DTYPES, on_threads
from actors.files.layout import read_layout

CEILING_TOKENS = {"cpu": 1024, "cuda": 16_384}
CEILING_SECONDS = 0.1
CEILING_PRODUCTS = 4  # the least number of products; the fastest counts


class Sizes(NamedTuple):
    """Sizes of a transformer.

    Attributes:
        layers: Number of layers.
        hidden: Number of features of a token.
        up: Number of features inside the feed-forward network.
    """

    layers: int
    hidden: int
    up: int

    def flops(self, n_tokens: float) -> float:
        """Floating point operations of the matrix products for a row; a multiplication and addition are 2.

        For up = 4 h: layers * (24 n h^2 + 4 n^2 h).

        Source: Narayanan et al. 2021 (arXiv 2104.04473), appendix: forward pass without logits.
        """
        linear = 2 * (4 * self.hidden**2 + 2 * self.hidden * self.up) * n_tokens
        return self.layers * (linear + 4 * self.hidden * n_tokens**2)


def sizes_of(folder: str) -> Sizes:
    """Sizes of the transformer of texts in a model folder, by its config.json.

    Raises:
        ModelError: The folder holds no transformer.
    """
    config = read_layout(folder).config
    if config["model_type"] == "distilbert":
        return Sizes(config["n_layers"], config["dim"], config["hidden_dim"])
    return Sizes(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])


def matmul_ceiling(setup: Setup, shape: tuple[int, int]) -> float:
    """Floating point operations a second of matrix products alone, on all lanes together.

    Args:
        setup: Device, precision and number of lanes.
        shape: (in, out) features of the model's largest linear layer.
    """
    import torch

    from actors.kernels.linear import fastest_linear

    device = torch.device(setup.device)
    dtype = getattr(torch, DTYPES[setup.precision])
    n_tokens = CEILING_TOKENS[device.type]
    weight = torch.randn(shape[1], shape[0]).to(device, dtype)
    bias = torch.zeros(shape[1]).to(device, dtype)
    with on_threads(setup):
        product = fastest_linear(weight, bias)(weight, bias)
    lanes, a_turn = (setup.lanes, 1) if device.type == "cpu" else (1, 50)
    edges: list[float] = []  # when all lanes were done with a product
    end = time.perf_counter() + CEILING_SECONDS
    together = threading.Barrier(lanes, action=lambda: edges.append(time.perf_counter()))

    def work(_: int) -> None:
        x = torch.randn(n_tokens, shape[0]).to(device, dtype)
        with torch.inference_mode(), on_threads(setup), _all_or_none(together):
            together.wait()
            while len(edges) <= CEILING_PRODUCTS or edges[-1] < end:
                for _ in range(a_turn):
                    product(x)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                together.wait()

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(work, range(lanes)))
    fastest = min(b - a for a, b in itertools.pairwise(edges))
    return 2.0 * n_tokens * shape[0] * shape[1] * lanes * a_turn / fastest


@contextlib.contextmanager
def _all_or_none(barrier: threading.Barrier) -> Iterator[None]:
    """Break a barrier if the block fails, so that the other threads do not wait for this one."""
    try:
        yield
    except BaseException:
        barrier.abort()
        raise
