"""SIGINT and SIGTERM end a run between two steps, never in the middle of a commit."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):  # no error: the user asked for it
    """A signal ended the run; rows that were complete and quick to write are committed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignal:
    """Records a signal until a step asks for it.

    Attributes:
        signum: number of the signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._at_once = False
        self._handlers: dict[int, Any] = {}  # ours, while they are in place

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)  # Ray takes SIGTERM for itself when it starts
        if self.signum is not None:
            raise Stopped(self.signum)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record SIGINT and SIGTERM instead of ending the process.

        Nothing happens inside another `watched`, or outside the main thread.
        """
        if self._handlers or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, _: object) -> None:
            self.signum = signum
            if self._at_once:
                self.check()

        self._handlers = {signal.SIGINT: note, signal.SIGTERM: note}

        before: dict[int, Any] = {
            signum: signal.signal(signum, handler) for signum, handler in self._handlers.items()
        }
        try:
            yield
        finally:
            self._handlers = {}
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Stopped as soon as a signal comes, for work that may break off anywhere."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False
