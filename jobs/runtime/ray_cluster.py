"""Start or join Ray, keep it quiet, and divide its CPUs and GPUs among actors and read tasks."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from schemas.errors import UsageError, UserError, error_line

OBJECT_STORE_BYTES = 512 << 20  # texts and pixels travel through it, vectors never
READ_CPUS = 0.25  # what a read task reserves; actors leave room for some of them on every node
ACTOR_SHARE = 0.75  # of its threads is what an actor reserves
CPU_THREADS = 8  # threads that one encoder uses well on a CPU
GPU_REPLICAS = 2  # of a small model: one process alone is held up by tokenising and copying
SMALL_MODEL_BYTES = 256 << 20
REPLICA_CPUS = 4  # for each of them
WINDOW_ROWS = 4096
WINDOWS_PER_ACTOR = 8  # so that progress shows and actors end together on small runs
SMALLEST_WINDOW = 128  # rows
KNOCK_SECONDS = 5.0
SHORT_TEMP = "/tmp"
SOCKET_BYTES = 107 if sys.platform == "linux" else 103  # of a path, as systems take them
SOCKET = (
    "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # in the temp folder
)


class NoRay(UserError):
    """Ray does not start, or no cluster answers at the address given."""


@dataclass(frozen=True)
class Allocation:
    """CPUs, GPUs and actors that a run takes.

    Attributes:
        device: `cpu` or `cuda`.
        n_actors: processes that host the model.
        threads: torch threads of one actor.
        cpus: CPUs that one actor reserves; fewer than its threads, so that read tasks always find room.
        gpus: GPUs that one actor reserves.
        window_rows: rows that an actor takes at a time.
        grows: True if machines may be added while the run is at work, and actors on them.
    """

    device: str
    n_actors: int
    threads: int
    cpus: float
    gpus: float
    window_rows: int
    grows: bool = False


def allocate(
    nodes: list[dict[str, float]],
    *,
    device: str,
    actors: int | None,
    n_due: int,
    model_bytes: int = 0,
    grows: bool = False,
) -> Allocation:
    """Divide the CPUs and GPUs of all nodes among the actors of a run.

    Args:
        nodes: the resources of each node, `CPU` and `GPU`.
        device: `auto` takes GPUs where there are any.
        actors: processes that host the model; None takes one for each GPU (or GPU_REPLICAS for a small
            model), or one for every CPU_THREADS cores of a node.
        n_due: rows to embed.
        model_bytes: size of the model's weights.
        grows: nodes may be added; a node with a GPU may be added when an actor asks for one.

    Raises:
        UsageError: `cuda` is asked for and no node has, or will have, a GPU.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cores = [max(1, int(node.get("CPU", 0))) for node in nodes if node.get("CPU", 0) > 0] or [1]
    if device == "cuda" and grows and not gpus:
        gpus, cores = actors or 1, [REPLICA_CPUS * (actors or 1)]
    if device == "cuda" and not gpus:
        raise UsageError(
            "--device cuda: no GPU is on this machine, or on any node of the Ray cluster. Leave "
            "--device out, or give cpu."
        )
    on_gpu = gpus > 0 and device in ("auto", "cuda")
    a_gpu = sum(cores) // (REPLICA_CPUS * gpus) if on_gpu else 0
    replicas = max(1, min(a_gpu, GPU_REPLICAS if model_bytes <= SMALL_MODEL_BYTES else 1))
    wanted = gpus * replicas if on_gpu else sum(max(1, n // CPU_THREADS) for n in cores)
    n_actors = actors or wanted
    a_node = -(-n_actors // len(cores))
    threads = max(1, min(cores) // a_node)
    window = -(-n_due // (n_actors * WINDOWS_PER_ACTOR))
    return Allocation(
        device="cuda" if on_gpu else "cpu",
        n_actors=n_actors,
        threads=threads,
        cpus=min(ACTOR_SHARE * threads, ACTOR_SHARE * min(cores) / a_node),
        gpus=min(1.0, gpus / n_actors) if on_gpu else 0.0,
        window_rows=max(SMALLEST_WINDOW, min(WINDOW_ROWS, window)),
        grows=grows and actors is None,
    )


class Cluster:
    """The Ray of a run; it starts in the background when it is first needed."""

    def __init__(self, address: str | None, *, verbose: bool) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.verbose = verbose
        # The thread must outlive the run: Ray's processes die with the thread that started them.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-start")
        self._started: Future[None] | None = None

    def start(self) -> None:
        """Begin to start Ray in the background, unless that has begun already."""
        if self._started is None:
            self._started = self._pool.submit(self._init)

    def is_up(self) -> bool:
        """True if Ray runs, is starting, or an address was given; does not start it."""
        given = self.address is not None or self._started is not None
        return given or ("ray" in sys.modules and sys.modules["ray"].is_initialized())

    @property
    def grows(self) -> bool:
        """True if nodes may be added while a run is at work."""
        return self.address is not None

    def nodes(self) -> list[dict[str, float]]:
        """Resources of each node that is alive, such as `CPU` and `GPU`; starts Ray and waits for it."""
        import ray

        self.start()
        assert self._started is not None  # start() set it
        self._started.result()
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def stop(self) -> None:
        """Stop Ray, or leave the cluster that was joined."""
        if self._started is not None:
            import ray

            with contextlib.suppress(Exception):
                self._started.result()
            ray.shutdown()
        self._pool.shutdown()

    def _init(self) -> None:
        if not self.verbose:
            os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # no second Ray after the first ended
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self.address is None:  # nobody would read them, and each process spends time on them
            os.environ.setdefault("RAY_enable_metrics_collection", "0")
        import ray

        from actors.engine.hardware import cores

        if self.address is not None:
            _check_answers(self.address)
        if ray.is_initialized():  # a test's or a notebook's
            return
        settings: dict[str, Any] = {"log_to_driver": self.verbose}
        if not self.verbose:
            settings["logging_level"] = logging.ERROR
        if self.address is None:
            settings |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            settings["_temp_dir"] = session_folder()
            settings["num_cpus"] = cores()  # Ray itself looks past affinity, and finds 0 in a half
        try:
            ray.init(address=self.address or "local", **settings)
        except Exception as error:  # bare ones, where a process of Ray's dies or is late
            why = error_line(" ".join(str(error).split()))
            raise NoRay(
                f"Ray did not start: {why} Run again, with --verbose to see more."
            ) from error
        import ray.data

        if not self.verbose:
            for name in ("ray", "ray.data"):  # an error that ends a run is reported once, by us
                logging.getLogger(name).setLevel(logging.CRITICAL)
            ray.data.DataContext.get_current().enable_progress_bars = False


def session_folder() -> str | None:
    """Folder for Ray's session; None if Ray's own choice will do.

    Ray's sockets lie in that folder, and systems limit the length of a socket's path. Where RAY_TMPDIR or
    TMPDIR is too long, a folder in /tmp is taken, and a line on stderr says so.

    Raises:
        NoRay: /tmp cannot be written.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    given, most = os.environ.get(name, ""), SOCKET_BYTES - len(SOCKET)
    if len(os.fsencode(given)) <= most:
        return None
    why = f"{name} ({given}) is too long for Ray's sockets, whose temporary folder has at most {most} bytes"
    if not os.access(SHORT_TEMP, os.W_OK):
        raise NoRay(
            f"{why}, and {SHORT_TEMP} cannot be written. Set RAY_TMPDIR to a folder with a shorter path."
        )
    print(
        f"embatch: {why}. Its session lies in {SHORT_TEMP}/ray; RAY_TMPDIR may name another folder.",
        file=sys.stderr,
    )
    return f"{SHORT_TEMP}/ray"


def _check_answers(address: str) -> None:
    """Raise NoRay if no process listens at the address; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" is a place that Ray knows
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise NoRay(
            f"No Ray cluster answers at {address} ({error}). Give the address that `ray start --head`"
            " printed, or none to work on this machine."
        ) from error


@contextlib.contextmanager
def cluster(address: str | None, *, verbose: bool) -> Iterator[Cluster]:
    """Provide Ray for the length of a run; a Ray that ran before stays up."""
    was_there = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    mine = Cluster(address, verbose=verbose)
    try:
        yield mine
    finally:
        if not was_there:
            mine.stop()


def this_machine() -> dict[str, float]:
    """Resources of this machine under Ray's names, `CPU` and `GPU`."""
    import torch

    from actors.engine.hardware import cores

    return {"CPU": cores(), "GPU": torch.cuda.device_count()}


def is_submitted_job() -> bool:
    """True if this process is the entry point of a job that was submitted to a Ray cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
