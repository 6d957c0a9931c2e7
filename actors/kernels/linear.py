"""Linear layers as fast as this machine has them: plain, or with weights laid out by oneDNN."""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

Linear = Callable[[torch.Tensor], torch.Tensor]
TRIAL_TOKENS = 1024
TRIAL_SECONDS = 0.05


def fastest_linear(
    weight: torch.Tensor, bias: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], Linear]:
    """How linear layers run fastest here: plainly, or on a CPU with weights laid out by oneDNN.

    Both are tried on one of the model's own layers; which one wins depends on the processor.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return plain
    x = torch.randn(TRIAL_TOKENS, weight.shape[1]).to(weight.dtype)
    try:
        ours, packed = plain(weight, bias), _onednn(weight, bias)
        with torch.inference_mode():
            seconds = [_seconds(f, x) for f in (ours, packed, ours, packed)]
    except (AttributeError, RuntimeError):  # a torch without these operators
        return plain
    return _onednn if min(seconds[1::2]) < min(seconds[::2]) else plain


def _seconds(function: Linear, x: torch.Tensor) -> float:
    """Shortest of a few calls."""
    function(x)
    shortest, end = math.inf, time.perf_counter() + TRIAL_SECONDS / 4
    while time.perf_counter() < end or shortest == math.inf:
        started = time.perf_counter()
        function(x)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def plain(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """One of torch, as it is."""
    return lambda x: F.linear(x, weight, bias)


def _onednn(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """The operators that torch.compile puts in place of a linear layer with constant weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TRIAL_TOKENS)
    apply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: apply(x, packed, bias, "none", [], "")
