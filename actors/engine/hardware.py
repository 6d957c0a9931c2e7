"""Lanes, token budgets and threads that suit this machine.

On a CPU each lane is a thread with a micro-batch of its own, and torch uses one thread in it: no thread
waits for another inside a layer, and a micro-batch stays in the caches of one core. On a GPU there are
two lanes, each with a stream, so that one copies data while the other computes.
"""

import contextlib
import threading
from collections.abc import Iterator

from actors.engine.engine import Setup

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CPU_BUDGETS = (2048, 1024, 4096, 8192)  # tokens; the first is used until the others were tried
GPU_BUDGETS = (32_768, 8_192, 131_072)
GPU_LANES = 2
_lane = threading.local()


def cores() -> int:
    """Number of cores that this process may use, by affinity, cgroup quota and LOKY_MAX_CPU_COUNT."""
    import joblib

    return int(joblib.cpu_count())


def setup_for(device: str, precision: str, threads: int, *, packed: bool) -> Setup:
    """The fastest setup of an encoder on this machine.

    Args:
        device: Name of the device, in torch's words.
        precision: "fp32", "bf16" or "fp16".
        threads: Number of cores that the encoder may use.
        packed: True if the encoder needs no padding, and several threads may call it at once.
    """
    import torch

    on_cpu = torch.device(device).type == "cpu"
    return Setup(
        device,
        precision,
        lanes=(threads if on_cpu else GPU_LANES) if packed else 1,
        padded=not packed,
        budgets=CPU_BUDGETS if on_cpu else GPU_BUDGETS,
        threads=0 if not on_cpu else 1 if packed else threads,
    )


@contextlib.contextmanager
def on_threads(setup: Setup) -> Iterator[None]:
    """Give torch an encoder's number of threads during the block, in the calling thread alone.

    Other threads keep their number meanwhile, and the calling thread has its old number afterwards, so
    that other torch code in the process (a reader, a training) is not changed. This costs less than a
    microsecond.
    """
    import torch

    before = torch.get_num_threads()
    if setup.threads in (0, before):
        yield
        return
    torch.set_num_threads(setup.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_lane(setup: Setup) -> contextlib.AbstractContextManager[object]:
    """A context for a forward pass: the calling thread's own stream on a GPU, `on_threads` on a CPU."""
    if not setup.device.startswith("cuda"):
        return on_threads(setup)
    import torch

    if not hasattr(_lane, "stream"):
        _lane.stream = torch.cuda.Stream(setup.device)  # type: ignore[no-untyped-call]
        _lane.stream.wait_stream(torch.cuda.default_stream(setup.device))
    return torch.cuda.stream(_lane.stream)
