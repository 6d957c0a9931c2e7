"""What every benchmark shares: a line of JSON a result, and the peak memory of a run's processes.

    python -m benchmarks.record    # what a result of this machine would be stamped with

Results are appended to `benchmarks/results/NAME.jsonl`, one file a benchmark. Takes a few seconds,
since torch is asked what the processor can do.
"""

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from actors.engine.hardware import cores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CPU_INFO = Path("/proc/cpuinfo")
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx2")  # what decides how fast a CPU embeds
PACKAGES = ("ray", "torch", "transformers", "sentence-transformers", "pyarrow", "deltalake")
SAMPLE_SECONDS = 0.5
ROLES = ("driver", "workers", "ray")


def append(benchmark: str, result: dict[str, Any]) -> dict[str, Any]:
    """Add a result to the benchmark's file.

    Args:
        benchmark: Its name, which is the file's.
        result: What JSON can hold.

    Returns:
        The result behind the time, machine, versions and commit that it was measured with.
    """
    record = stamp() | result
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def stamp() -> dict[str, Any]:
    """When, where and with what something is measured."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
    }


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, and the instructions torch knows of."""
    import torch

    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": cores(),
        **{name: bool(can[name]) for name in INSTRUCTIONS if name in can},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Of those PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with `+changes` if other files than results differ from it.

    Empty where there is no git or no repository.
    """
    name = _git("rev-parse", "--short", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return f"{name}+changes" if changes else name


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


class PeakMemory:
    """Peak memory of a run, sampled by a thread while the block runs.

    Memory is the proportional set size (shared pages shared out) summed over a process and its
    children. A process that lives for less than a sample's time may be missed.

        with PeakMemory(child.pid) as memory:
            child.wait()
        print(memory.peak_mb)

    Attributes:
        peak_mb: Of all processes together, MB of 1e6 bytes.
        peak_by_role_mb: Of the process itself (`driver`), of Ray's processes that work (`workers`)
            and of all other children (`ray`), each at its own time.
    """

    def __init__(
        self, process: "int | psutil.Process", every_seconds: float = SAMPLE_SECONDS
    ) -> None:
        """Name the process; sampling starts with the block.

        A sample of a Ray of ten processes costs about 80 ms of a core.

        Raises:
            psutil.NoSuchProcess: There is no process of this id.
        """
        self.process = psutil.Process(process) if isinstance(process, int) else process
        self.every_seconds = every_seconds
        self.peak_mb = 0.0
        self.peak_by_role_mb = dict.fromkeys(ROLES, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="peak-memory")

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            now = memory_mb(self.process)
            self.peak_mb = max(self.peak_mb, sum(now.values()))
            self.peak_by_role_mb = {
                role: max(self.peak_by_role_mb[role], now[role]) for role in ROLES
            }
            if self._over.wait(self.every_seconds):
                return


def memory_mb(driver: psutil.Process) -> dict[str, float]:
    """Proportional set size of a run's processes by role, MB; zeros if the run is over."""
    found = dict.fromkeys(ROLES, 0.0)
    try:
        processes = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in processes:
        try:
            size = process.memory_full_info().pss / 1e6
            line = " ".join(process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        role = "driver" if process.pid == driver.pid else "ray"
        found["workers" if line.startswith("ray::Map") else role] += size
    return found


def processor_seconds(work: Callable[[], object], n: int) -> float:
    """Of all threads of this process, a time, for n times."""
    started = time.process_time()
    for _ in range(n):
        work()
    return (time.process_time() - started) / n


def resident_peak_mb(process_id: int) -> float:
    """Peak resident memory of one process, MB of 1e6 bytes; costs it nothing; 0 without /proc."""
    path = Path(f"/proc/{process_id}/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    sizes = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return sizes[0] if sizes else 0.0


def main() -> int:
    """Print the stamp."""
    print(json.dumps(stamp()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
