"""SIGINT and SIGTERM, noted and acted upon between two steps, never in the middle of a commit."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):  # no error: the user asked for it
    """A signal ended the run; what was complete is committed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignal:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise Stopped if one has."""
        if self.signum is not None:
            raise Stopped(self.signum)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note signals instead of dying of them; a no-op outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, _: object) -> None:
            self.signum = signum

        before: dict[int, Any] = {
            signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
