"""Two kinds of linear layers, torch's own and oneDNN's, and a trial that finds the faster one."""

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
    """Choose the faster kind of linear layer on this machine: `torch_linear`, or oneDNN's on a CPU.

    Both are tried, since the faster one depends on the processor.

    Args:
        weight: (out, in), of one of the model's own layers.
        bias: (out,).

    Returns:
        A function that makes a layer of a weight and a bias.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return torch_linear
    x = torch.randn(TRIAL_TOKENS, weight.shape[1]).to(weight.dtype)
    try:
        ours, packed = torch_linear(weight, bias), _onednn_linear(weight, bias)
        with torch.inference_mode():
            seconds = [_seconds(f, x) for f in (ours, packed, ours, packed)]
    except (AttributeError, RuntimeError):  # a torch without these operators
        return torch_linear
    return _onednn_linear if min(seconds[1::2]) < min(seconds[::2]) else torch_linear


def _seconds(function: Linear, x: torch.Tensor) -> float:
    """Seconds of the shortest of a few calls of a function."""
    function(x)
    shortest, end = math.inf, time.perf_counter() + TRIAL_SECONDS / 4
    while time.perf_counter() < end or shortest == math.inf:
        started = time.perf_counter()
        function(x)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def torch_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """A linear layer of torch; weight (out, in), bias (out,)."""
    return lambda x: F.linear(x, weight, bias)


def _onednn_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """A linear layer of oneDNN, by the operators that torch.compile uses for constant weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TRIAL_TOKENS)
    apply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: apply(x, packed, bias, "none", [], "")
