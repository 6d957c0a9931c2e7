"""Which precision a model may compute in here: the fastest that leaves its vectors where fp32 has them.

A sample is embedded both ways before the first batch.

    encoder, remarks = load_sound(model, "cuda", None, "auto", texts)
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from actors.engine.engine import Encoder, Items
from actors.images.pixels import Preprocess
from schemas.errors import named_error_line

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MIN_COSINE = 0.999  # between a text's two vectors
SAMPLE_TEXTS, SAMPLE_TOKENS = 32, 2048
NOTABLY_SLOW = 0.8  # times as fast as fp32: who asked for it is told
WORTHWHILE = 1.1  # times as fast as fp32, else "auto" stays with it


class HostedModel(Protocol):
    """What a worker needs of a model; `actors.checkpoints.Model` is one."""

    @property
    def name(self) -> str:
        """For display."""

    @property
    def dim(self) -> int:
        """Values a vector."""

    @property
    def preprocess(self) -> Preprocess | None:
        """What happens to images; None where texts are embedded."""

    @property
    def templates(self) -> tuple[str, ...]:
        """What class names are put into; empty where texts are none: their lines are not averaged."""

    @property
    def unit(self) -> bool:
        """Whether vectors have unit length."""

    def load(self, device: str, threads: int | None, precision: str) -> Encoder:
        """The model in this process's memory, ready to embed."""


def load_sound(
    model: HostedModel,
    device: str,
    threads: int | None,
    wanted: str,
    items: Items,
    look_at: Callable[[Encoder], None] | None = None,
) -> tuple[Encoder, list[str]]:
    """Load a model in the precision asked for, unless that moves its vectors.

    Args:
        model: To load.
        device: As torch names it.
        threads: Cores for it; None takes the machine's.
        wanted: One of PRECISIONS. "auto" is fp16, else bf16 on a GPU, bf16 on a CPU with bf16
            instructions where it proves faster, else fp32.
        items: A sample is taken of them; none leaves the precision unchecked.
        look_at: Is given the encoder in fp32, which is loaded whatever is taken.

    Returns:
        The encoder, and what the user should know: a precision that was refused.
    """
    exact: Encoder | None = None
    remarks: list[str] = []

    def in_fp32(loaded: Encoder | None = None) -> Encoder:
        nonlocal exact
        if exact is None:
            exact = loaded or model.load(device, threads, "fp32")
            if look_at is not None:
                look_at(exact)
        return exact

    for precision in precisions(wanted, device):
        if precision == "fp32":
            break
        try:
            encoder = model.load(device, threads, precision)
            if (only := encoder.setup.precision) != precision:  # a family that has no other
                return in_fp32(encoder), [] if wanted == "auto" else [
                    f"{model.name} computes in {only} only."
                ]
            ids = _sample(in_fp32(), items)
            cosine, speed = _compare(encoder, in_fp32(), ids) if ids else (1.0, WORTHWHILE)
        except Exception as error:  # a device or an operator that cannot compute in it
            remarks.append(
                f"{precision} does not work here, it was not used: {named_error_line(error)}"
            )
            continue
        if cosine < MIN_COSINE:
            remarks.append(
                f"{precision} moves vectors of {model.name} (minimum cosine with fp32 {cosine:.4f} of"
                f" {len(ids)} rows, expected {MIN_COSINE}); it was not used."
            )
        elif wanted != "auto" or speed >= WORTHWHILE:
            if speed < NOTABLY_SLOW:
                remarks.append(
                    f"{precision} is {1 / speed:.1f} times as slow as fp32 on this {device}."
                )
            return encoder, remarks
    return in_fp32(), remarks


def precisions(wanted: str, device: str) -> tuple[str, ...]:
    """Precisions in the order in which they are tried; the last, fp32, is always sound.

    Args:
        wanted: One of PRECISIONS.
        device: As torch names it.
    """
    if wanted != "auto":
        return (wanted, "fp32") if wanted != "fp32" else ("fp32",)
    if device.startswith("cuda"):
        return ("fp16", "bf16", "fp32")
    import torch

    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return ("bf16", "fp32") if can.get("amx_bf16") or can.get("avx512_bf16") else ("fp32",)


def _sample(encoder: Encoder, items: Items) -> list[Any]:
    """Tokens of a few items of all lengths, SAMPLE_TOKENS in all or one item."""
    by_length = sorted((item for item in items if len(item)), key=len)
    chosen = (
        {int(at) for at in np.linspace(0, len(by_length) - 1, SAMPLE_TEXTS)} if by_length else ()
    )
    sample: list[Any] = []
    for at in sorted(chosen):
        try:
            ids = encoder.tokenize([by_length[at]]).ids
            encoder.forward(ids)
        except Exception:  # a row at fault is reported when it is its turn
            continue
        if sample and sum(map(len, sample)) + len(ids[0]) > SAMPLE_TOKENS:
            break
        sample += ids
    return sample


def _compare(encoder: Encoder, exact: Encoder, ids: list[Any]) -> tuple[float, float]:
    """Minimum cosine of two encoders' vectors, and how many times as fast the first one is."""
    seconds, vectors = [], []
    for one in (encoder, exact):
        one.forward(ids)  # warms up
        started = time.perf_counter()
        vectors.append(one.forward(ids))
        seconds.append(time.perf_counter() - started)
    got, expected = vectors
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (got * expected).sum(1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.nan_to_num(cosines, nan=-1.0).min()), seconds[1] / max(seconds[0], 1e-9)
