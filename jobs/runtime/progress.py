"""Progress on stderr, drawn by tqdm: a bar on a terminal, a line every few seconds in a log."""

import sys
from functools import partial
from typing import Any

from tqdm import tqdm

LINE = "{desc}: {percentage:3.0f}% {r_bar}"
TERMINAL_SECONDS, LOG_SECONDS = 0.2, 5.0  # between two states that are shown
tqdm.monitor_interval = 0  # no thread that watches the bars


class Progress:
    """Progress of a stage of work: share done, rate and time left.

    with Progress("embed", total=1028, unit="rows") as progress:
        progress.add(64)
    """

    def __init__(self, stage: str, total: int, unit: str, *, quiet: bool = False) -> None:
        self.total, self.done = total, 0
        look: dict[str, Any] = {"desc": stage, "unit": f" {unit}", "file": sys.stderr}
        if sys.stderr.isatty():
            kind, look["dynamic_ncols"], look["mininterval"] = tqdm, True, TERMINAL_SECONDS
        else:
            kind, look["mininterval"], look["bar_format"] = _Lines, LOG_SECONDS, LINE
        self._draw = partial(kind, miniters=0, **look)
        self._quiet = quiet
        self._bar = self._draw(total=total, disable=quiet or not total)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, n: int = 0) -> None:
        """Count n more units as done; the display changes a few times a second at most."""
        self.done += n
        self._bar.update(n)

    def reach(self, done: int, total: int) -> None:
        """Set the units done and their total, for work whose total is not known before it begins."""
        if total != self.total:
            self.total, self._bar = total, self._draw(total=total, disable=self._quiet)
        self.add(done - self.done)


class _Lines(tqdm):  # type: ignore[misc]
    """A bar that writes each state as a line of its own, for logs, which keep no carriage returns."""

    disable: bool

    def display(self, *_: object, **__: object) -> None:
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def close(self) -> None:
        if not self.disable:
            self.display()
            self.disable = True
            self._decr_instances(self)
