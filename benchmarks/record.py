"""Functions that all benchmarks share: they store results as JSON lines, and measure peak memory.

    python -m benchmarks.record    # prints the time, machine and versions that a result would carry

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
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx2")  # those that decide how fast a CPU embeds
PACKAGES = ("ray", "torch", "transformers", "sentence-transformers", "pyarrow", "deltalake")
SAMPLE_SECONDS = 0.5
ROLES = ("driver", "workers", "ray")


def append(benchmark: str, result: dict[str, Any]) -> dict[str, Any]:
    """Append a result to a benchmark's file.

    Args:
        benchmark: Name of the benchmark, and of its file without the ending.
        result: Figures, in types that JSON can hold.

    Returns:
        The stored record: time, machine, versions and commit, then the result.
    """
    record = stamp() | result
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def stamp() -> dict[str, Any]:
    """Time, machine, versions of packages and commit of a measurement."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
    }


def machine() -> dict[str, Any]:
    """Processor, number of cores that this process may use, instructions that torch reports, and GPU."""
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
    """Versions of PACKAGES, by name, without those that are not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Short hash of the checkout's commit, with `+changes` if files other than results differ from it.

    "" if there is no git or no repository.
    """
    name = _git("rev-parse", "--short", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}")
    return f"{name}+changes" if changes else name


def _git(*arguments: str) -> str:
    """Output of a git command; "" if there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


class PeakMemory:
    """Peak memory of a run, sampled by a thread while the block runs.

    Memory is the proportional set size (a shared page is divided among its processes), summed over a
    process and its children. A process that lives for less than the time between samples may be missed.

        with PeakMemory(child.pid) as memory:
            child.wait()
        print(memory.peak_mb)

    Attributes:
        process: The process.
        every_seconds: Time between samples.
        peak_mb: Peak of all processes together, MB of 1e6 bytes.
        peak_by_role_mb: Peaks of the process itself (`driver`), of Ray's workers (`workers`) and of all
            other children (`ray`), each at its own time.
    """

    def __init__(
        self, process: "int | psutil.Process", every_seconds: float = SAMPLE_SECONDS
    ) -> None:
        """Set the process to measure; sampling starts with the block.

        Args:
            process: The process or its id.
            every_seconds: Time between samples; a sample of ten processes costs about 80 ms of a core.

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
    """Memory of a run's processes by role, as proportional set size in MB; zeros if the run is over."""
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
    """Processor time of one call of a function, over all threads of this process: the mean of n calls."""
    started = time.process_time()
    for _ in range(n):
        work()
    return (time.process_time() - started) / n


def resident_peak_mb(process_id: int) -> float:
    """Peak resident memory of a process so far, in MB of 1e6 bytes; 0 without /proc."""
    path = Path(f"/proc/{process_id}/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    sizes = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return sizes[0] if sizes else 0.0


def main() -> int:
    """Print time, machine, versions and commit."""
    print(json.dumps(stamp()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
