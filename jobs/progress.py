"""Progress on stderr: a line that rewrites itself on a terminal, a line now and then in a log."""

import sys
import time


class Progress:
    """How far a stage is, at what rate, and how long it will take.

    with Progress("embed", total=1028, unit="rows") as progress:
        progress.add(64)
    """

    def __init__(self, stage: str, total: int, unit: str, *, quiet: bool = False) -> None:
        self.stage, self.total, self.unit, self.quiet = stage, total, unit, quiet
        self.done = 0
        self._terminal = sys.stderr.isatty()
        self._every_seconds = 0.2 if self._terminal else 5.0
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        if self._terminal and not self.quiet:
            sys.stderr.write("\n")

    def add(self, n: int = 0) -> None:
        """Note n more, and show it when it is time to."""
        self.done += n
        if time.monotonic() - self._shown >= self._every_seconds:
            self._show()

    def line(self) -> str:
        """The state in one line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / seconds
        share = f"{100 * self.done / self.total:3.0f}%" if self.total else "100%"
        left = (
            f", {_clock((self.total - self.done) / rate)} left"
            if 0 < self.done < self.total
            else ""
        )
        if not self.done and self.total:
            return f"{self.stage}  0/{self.total:,} {self.unit}, {_clock(seconds)} to start so far"
        return f"{self.stage}  {share}  {self.done:,}/{self.total:,} {self.unit}  {rate:,.0f} {self.unit}/s{left}"

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self.quiet:
            return
        text = self.line()
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
