"""Choose the fastest precision that gives a model nearly the vectors of fp32.

A sample of the items is embedded in both precisions, and compared, before the first batch.

    encoder, remarks = load_with_precision(model, "cuda", None, "auto", texts)
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from actors.engine.engine import Encoder, Items
from actors.images.pixels import Preprocess
from schemas.errors import named_error_line
from schemas.tables.embeddings import FingerprintedModel

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MIN_COSINE = 0.999  # between the two vectors of an item: in a half precision and in fp32
SAMPLE_TEXTS, SAMPLE_TOKENS = 32, 2048
NOTABLY_SLOW = 0.8  # times as fast as fp32: below it, a remark warns the user
WORTHWHILE = 1.1  # times as fast as fp32: below it, "auto" keeps fp32


class HostedModel(FingerprintedModel, Protocol):
    """A model that is found and can be loaded; `actors.checkpoints.Model` is one."""

    @property
    def size_bytes(self) -> int:
        """Size of the model's weights in bytes."""

    @property
    def preprocess(self) -> Preprocess | None:
        """Resizing, cropping and scaling of images; None for a model of texts."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences for class names, whose vectors are averaged; empty where texts are no class names."""

    def load(self, device: str, threads: int | None, precision: str) -> Encoder:
        """Load the model into this process."""


def load_with_precision(
    model: HostedModel,
    device: str,
    threads: int | None,
    wanted: str,
    items: Items,
    inspect: Callable[[Encoder], None] | None = None,
) -> tuple[Encoder, list[str]]:
    """Load a model in the wanted precision, or in fp32 if that precision changes its vectors too much.

    Args:
        model: The model to load.
        device: Name of the device, in torch's words.
        threads: Number of cores for the encoder; None takes all of the machine.
        wanted: One of PRECISIONS. "auto" tries fp16, then bf16, on a GPU, and bf16 on a CPU with bf16
            instructions; it takes the first that is accurate and WORTHWHILE times as fast, else fp32.
        items: Items to take the sample from; without any, the precision is not checked.
        inspect: Function to call with the encoder in fp32, which is loaded for it in any case.

    Returns:
        The encoder, and remarks for the user: each precision that was refused, and why.
    """
    exact: Encoder | None = None
    remarks: list[str] = []

    def in_fp32(loaded: Encoder | None = None) -> Encoder:
        nonlocal exact
        if exact is None:
            exact = loaded or model.load(device, threads, "fp32")
            if inspect is not None:
                inspect(exact)
        return exact

    for precision in precisions_to_try(wanted, device):
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


def precisions_to_try(wanted: str, device: str) -> tuple[str, ...]:
    """Precisions in the order of their trials; the last is fp32, which needs no check.

    Args:
        wanted: One of PRECISIONS.
        device: Name of the device, in torch's words.
    """
    if wanted != "auto":
        return (wanted, "fp32") if wanted != "fp32" else ("fp32",)
    if device.startswith("cuda"):
        return ("fp16", "bf16", "fp32")
    import torch

    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return ("bf16", "fp32") if can.get("amx_bf16") or can.get("avx512_bf16") else ("fp32",)


def _sample(encoder: Encoder, items: Items) -> list[Any]:
    """Tokens of a few items, short and long: up to SAMPLE_TOKENS in all, or one longer item."""
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
    """Minimum cosine between two encoders' vectors, and the speed of the first over the second's."""
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
