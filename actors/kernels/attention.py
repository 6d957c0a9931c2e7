"""Attention within each of many texts, whose tokens are stored one after the other without padding.

The input is (tokens, 3 * hidden), query, key and value of each token; the output is (tokens, hidden). A
bias, (heads, 2 * positions - 1) with distance 0 in the middle, is added to the scores by the distance of
two tokens (MPNet). Causal attention lets a token see no later token (CLIP's text tower).
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from actors.kernels.linear import Linear

Group = tuple[int, int, int]  # texts of one length: first token, number of texts, tokens a text


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to the device; for a GPU through pinned memory, so that this thread need not wait."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def fastest_attention(
    n_heads: int,
    lengths: np.ndarray,
    device: torch.device,
    dtype: torch.dtype,
    *,
    bias: torch.Tensor | None = None,
    causal: bool = False,
) -> Linear:
    """Choose the fastest attention for texts of some lengths on a device.

    Args:
        n_heads: Number of heads of the layers.
        lengths: (texts,) int64, tokens of each text.
        device: Device of the layers.
        dtype: Type of the layers' weights and activations.
        bias: Bias by distance, see above; not together with causal.
        causal: True if a token sees no later token.

    Returns:
        A function from (tokens, 3 * hidden) to (tokens, hidden), both of dtype.
    """
    if device.type == "cpu":
        return partial(
            attend_by_length, n_heads, list(group_by_length(lengths.tolist())), bias, causal
        )
    if bias is not None or not has_varlen_kernel(device, dtype):
        is_token = np.arange(lengths.max()) < lengths[:, None]
        slots = to_device(np.flatnonzero(is_token), device)
        return partial(attend_padded, n_heads, to_device(is_token, device), slots, bias, causal)
    edges = to_device(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), device)
    return partial(attend_variable_length, n_heads, edges, int(lengths.max()), causal)


def group_by_length(lengths: list[int]) -> Iterator[Group]:
    """Group neighbouring texts of equal length: [3, 3, 2] gives (0, 2, 3) and (6, 1, 2)."""
    first = 0
    for length, run in itertools.groupby(lengths):
        n = sum(1 for _ in run)
        yield first, n, length
        first += n * length


def attend_by_length(
    n_heads: int, groups: list[Group], bias: torch.Tensor | None, causal: bool, qkv: torch.Tensor
) -> torch.Tensor:
    """Attention with one call for each group of texts of equal length; the fastest on a CPU.

    Args:
        n_heads: Number of heads of the layer.
        groups: Groups from `group_by_length`.
        bias: Bias by distance, or None.
        causal: True if a token sees no later token.
        qkv: (tokens, 3 * hidden).

    Returns:
        (tokens, hidden).
    """
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    for first, n, length in groups:
        rows = slice(first, first + n * length)
        q, k, v = qkv[rows].view(n, length, 3, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if bias is None else _square(bias, length)[None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        out[rows].view(n, length, n_heads, -1).copy_(mixed.transpose(1, 2))
    return out


def attend_padded(
    n_heads: int,
    is_token: torch.Tensor,
    slots: torch.Tensor,
    bias: torch.Tensor | None,
    causal: bool,
    qkv: torch.Tensor,
) -> torch.Tensor:
    """Attention with one call over texts padded to the longest; for a GPU without a varlen kernel.

    Args:
        n_heads: Number of heads of the layer.
        is_token: (texts, longest) bool, False at padding.
        slots: (tokens,) int64, index of each token in the flattened is_token.
        bias: Bias by distance, or None.
        causal: True if a token sees no later token.
        qkv: (tokens, 3 * hidden).

    Returns:
        (tokens, hidden).
    """
    n, longest = is_token.shape
    spread = qkv.new_zeros(n * longest, qkv.shape[1]).index_copy_(0, slots, qkv)
    q, k, v = spread.view(n, longest, 3, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mask: torch.Tensor | None = is_token[:, None, None]
    if causal:  # padding is behind every token, so that none sees it
        mask = None
    elif bias is not None:
        mask = _square(bias, longest).masked_fill(~is_token[:, None, None], float("-inf"))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return mixed.transpose(1, 2).reshape(n * longest, -1)[slots]


@lru_cache
def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """True if `attend_variable_length` can run: torch 2.10 or later, half precision, Ampere or later."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and find_spec("torch.nn.attention.varlen") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def attend_variable_length(
    n_heads: int, edges: torch.Tensor, longest: int, causal: bool, qkv: torch.Tensor
) -> torch.Tensor:
    """Attention with one call of torch's kernel for variable lengths; for a GPU in half precision.

    Args:
        n_heads: Number of heads of the layer.
        edges: (texts + 1,) int32, index of each text's first token, then the number of tokens.
        longest: Number of tokens of the longest text.
        causal: True if a token sees no later token.
        qkv: (tokens, 3 * hidden), half precision.

    Returns:
        (tokens, hidden).
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.view(len(qkv), 3, n_heads, -1).unbind(1)
    mixed = varlen_attn(
        q, k, v, edges, edges, longest, longest, window_size=(-1, 0 if causal else -1)
    )
    assert isinstance(mixed, torch.Tensor)  # a tuple only where more is asked for
    return mixed.flatten(1)


def _square(bias: torch.Tensor, length: int) -> torch.Tensor:
    """Bias of each pair of tokens, (heads, length, length): row i, column j is that of distance j - i."""
    middle = bias.shape[1] // 2
    near = bias[:, middle - length + 1 : middle + length].contiguous()
    from_last = near.as_strided((len(near), length, length), (near.shape[1], 1, 1))
    return from_last.flip(1)
