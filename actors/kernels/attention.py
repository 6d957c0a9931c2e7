"""Attention within each of many texts whose tokens lie in one row: (tokens, 3 * hidden) in and out.

Queries, keys and values of a token lie beside each other; a bias is added to the scores by distance
(MPNet), (heads, 2 * positions - 1) with the distance 0 in the middle; causal, a token sees none
behind it (CLIP's text tower).
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from actors.kernels.linear import Linear

Group = tuple[int, int, int]  # first token, texts, tokens a text


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Numbers on the device; on a GPU from pinned memory, so that this thread need not wait."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def attention(
    n_heads: int,
    lengths: np.ndarray,
    device: torch.device,
    dtype: torch.dtype,
    *,
    bias: torch.Tensor | None = None,
    causal: bool = False,
) -> Linear:
    """The fastest way there is here, for texts of these lengths: a function of (tokens, 3 * hidden).

    Args:
        n_heads: Heads of the layers.
        lengths: (texts,) int64, tokens a text.
        device: Where the layers compute.
        dtype: Of the layers.
        bias: See the module; not together with causal.
        causal: See the module.
    """
    if device.type == "cpu":
        return partial(by_length, n_heads, list(groups_of(lengths.tolist())), bias, causal)
    if bias is not None or not has_variable_length(device, dtype):
        held = np.arange(lengths.max()) < lengths[:, None]
        slots = to_device(np.flatnonzero(held), device)
        return partial(padded, n_heads, to_device(held, device), slots, bias, causal)
    edges = to_device(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), device)
    return partial(variable_length, n_heads, edges, int(lengths.max()), causal)


def groups_of(lengths: list[int]) -> Iterator[Group]:
    """Runs of neighbouring texts of one length. [3, 3, 2] gives (0, 2, 3) and (6, 1, 2)."""
    first = 0
    for length, run in itertools.groupby(lengths):
        n = sum(1 for _ in run)
        yield first, n, length
        first += n * length


def by_length(
    n_heads: int, groups: list[Group], bias: torch.Tensor | None, causal: bool, qkv: torch.Tensor
) -> torch.Tensor:
    """A call for each length of text; nothing is padded. For a CPU.

    Args:
        n_heads: Heads of the layer.
        groups: Of `groups_of`.
        bias: See the module.
        causal: See the module.
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


def padded(
    n_heads: int,
    held: torch.Tensor,
    slots: torch.Tensor,
    bias: torch.Tensor | None,
    causal: bool,
    qkv: torch.Tensor,
) -> torch.Tensor:
    """One call over texts padded to the longest, in here alone. For a GPU where no kernel does more.

    Args:
        n_heads: Heads of the layer.
        held: (texts, longest) bool, where a text has a token.
        slots: (tokens,) int64, where that is, counted along the rows.
        bias: See the module.
        causal: See the module.
        qkv: (tokens, 3 * hidden).

    Returns:
        (tokens, hidden).
    """
    n, longest = held.shape
    spread = qkv.new_zeros(n * longest, qkv.shape[1]).index_copy_(0, slots, qkv)
    q, k, v = spread.view(n, longest, 3, n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mask: torch.Tensor | None = held[:, None, None]
    if causal:  # padding is behind every token, so that none sees it
        mask = None
    elif bias is not None:
        mask = _square(bias, longest).masked_fill(~held[:, None, None], float("-inf"))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return mixed.transpose(1, 2).reshape(n * longest, -1)[slots]


@lru_cache
def has_variable_length(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `variable_length` runs here: torch 2.10 or later, half precision, Ampere or later."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and find_spec("torch.nn.attention.varlen") is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def variable_length(
    n_heads: int, edges: torch.Tensor, longest: int, causal: bool, qkv: torch.Tensor
) -> torch.Tensor:
    """One call of a kernel that knows where texts end. For a GPU in half precision.

    Args:
        n_heads: Heads of the layer.
        edges: (texts + 1,) int32, where texts begin and end.
        longest: Tokens of the longest text.
        causal: See the module.
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
    """(heads, length, length), row i and column j holding the bias for the distance j - i."""
    middle = bias.shape[1] // 2
    near = bias[:, middle - length + 1 : middle + length].contiguous()
    from_last = near.as_strided((len(near), length, length), (near.shape[1], 1, 1))
    return from_last.flip(1)
