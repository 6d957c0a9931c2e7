"""What this machine offers an encoder: lanes, token budgets, threads.

On a CPU each lane is a thread of its own with a micro-batch of its own, and torch works on one
thread in it: no thread ever waits for another inside a layer, and a micro-batch stays in the caches
of one core. On a GPU two lanes with a stream each let copies of one hide behind the other.
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
    """Cores that this process may use: by affinity, the cgroup's quota and LOKY_MAX_CPU_COUNT."""
    import joblib

    return int(joblib.cpu_count())


def setup_for(device: str, precision: str, threads: int, *, packed: bool) -> Setup:
    """How an encoder computes best.

    Args:
        device: As torch names it.
        precision: Of the computation.
        threads: Cores that the encoder may use.
        packed: Whether the encoder takes texts without padding and from several threads at once.
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
    """While an encoder works: torch has as many threads as suit it, in the calling thread alone.

    Whoever else computes in this process (a reader, a training) has its own again afterwards, and other
    threads keep theirs meanwhile. It costs less than a microsecond.
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
    """Around a forward pass: on a GPU, the calling thread's own stream; on a CPU, its threads."""
    if not setup.device.startswith("cuda"):
        return on_threads(setup)
    import torch

    if not hasattr(_lane, "stream"):
        _lane.stream = torch.cuda.Stream(setup.device)  # type: ignore[no-untyped-call]
        _lane.stream.wait_stream(torch.cuda.default_stream(setup.device))
    return torch.cuda.stream(_lane.stream)
