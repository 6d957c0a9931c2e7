"""Hide what C++ code writes to stderr from the terminal, and show it if the process dies.

Ray, decoders of images and other C++ code write messages there that no user can act upon. They go to a
file in the temporary folder, which is removed when the work is done. A small process watches this one: if
this one dies before that, the watcher shows the end of the file and its path.
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
def hide_native_noise() -> Iterator[None]:
    """Send what C++ code writes to stderr to a file; Python's own stderr still goes to the terminal.

    At SIGSEGV, SIGABRT and the like the Python stack is written to the file too.
    """
    with (
        tempfile.NamedTemporaryFile(prefix="embatch-", suffix=".stderr") as file,
        open(os.dup(2), "w", buffering=1) as terminal,
        _start_watcher(file.name),
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
def _start_watcher(path: str) -> Iterator[None]:
    """Start a watcher that shows the file if this process dies; the watcher ends when its stdin is closed."""
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
    """Main function of the watcher: wait for the process to end, and show the file if it died."""
    if sys.stdin.buffer.read():
        return
    with open(path, "rb") as file:
        noise = file.read()
    if not noise:
        os.remove(path)
        return
    title = f"\nembatch: process {pid} died. Native code wrote last (all of it is in {path}):\n"
    sys.stderr.buffer.write(title.encode() + noise[-SHOWN_BYTES:])


if __name__ == "__main__":
    _watch(*sys.argv[1:])
