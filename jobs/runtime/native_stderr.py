"""What native code writes to stderr: kept from the terminal, and shown if the process dies of it.

Ray, decoders of images and other C++ code write there what no user can act upon. It goes to a file of
the temporary folder, which is removed when the work is done. A small process watches: if this one
dies before that, it shows the end of the file, and where the whole of it is.
"""

import contextlib
import faulthandler
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

SHOWN_BYTES = 4000


@contextlib.contextmanager
def native_noise_in_a_file() -> Iterator[None]:
    """Send what C++ code writes to stderr to a file; Python's stderr stays the user's.

    At SIGSEGV, SIGABRT and the like the file also gets the Python stack.
    """
    with (
        tempfile.NamedTemporaryFile(prefix="embatch-", suffix=".stderr") as file,
        open(os.dup(2), "w", buffering=1) as terminal,
        _watched(file.name),
    ):
        before, traces_elsewhere = sys.stderr, faulthandler.is_enabled()
        sys.stderr = terminal
        os.dup2(file.fileno(), 2)
        if not traces_elsewhere:
            faulthandler.enable(file)
        try:
            yield
        finally:
            if not traces_elsewhere:
                faulthandler.disable()
            os.dup2(terminal.fileno(), 2)
            sys.stderr = before


@contextlib.contextmanager
def _watched(path: str) -> Iterator[None]:
    """Have a process show the file if this one dies; it lives for as long as its stdin is open."""
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    ) as watcher:
        try:
            yield
        finally:
            assert watcher.stdin is not None  # it is a pipe
            with contextlib.suppress(BrokenPipeError):  # somebody killed it
                watcher.stdin.write(b"done")
                watcher.stdin.close()


def _watch(pid: str, path: str) -> None:
    """The watcher's whole life."""
    if sys.stdin.buffer.read():
        return
    with open(path, "rb") as file:
        noise = file.read()
    if not noise:
        os.remove(path)
        return
    told = f"\nembatch: process {pid} died. Native code wrote last (all of it is in {path}):\n"
    sys.stderr.buffer.write(told.encode() + noise[-SHOWN_BYTES:])


if __name__ == "__main__":
    _watch(*sys.argv[1:])
