"""One writer a table: who holds it, read from and written to the table's own history.

A run's first commit claims the table, each wave renews the claim, the last commit gives it up.
The claim spares two runs from doing the same work; what keeps the table true is the store's fence.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import psutil

from schemas.delta.store import Refused, StoreError, Table, now
from schemas.errors import UserError

DEAD_AFTER = timedelta(minutes=10)
RENEW_SECONDS = 120.0
LOOK_BACK = 50  # commits; foreign tools may have written since
_HOLDING = {"claim", "wave", "compacted"}


class TableBusy(UserError):
    """Another run holds the table; the message says whose."""


def identity(run: str) -> dict[str, Any]:
    """What every commit says of the process that made it."""
    return {
        "run": run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **_beginning(os.getpid()),
    }


def _beginning(pid: int) -> dict[str, Any]:
    """When a process began, told twice: by the clock, and in seconds after its machine.

    Where the clock is set anew, systems change one of the two for a process that lives.
    """
    began = psutil.Process(pid).create_time()
    return {"started": int(began), "after_boot": round(began - psutil.boot_time(), 2)}


def holder(table: Table, run: str) -> Mapping[str, Any] | None:
    """The note of another run that holds the table and shows signs of life, else None."""
    for commit in table.history(LOOK_BACK):
        note = commit.get("note")
        if note is None:
            continue
        if note.get("state") not in _HOLDING or note.get("run") == run:
            return None
        age = now() - datetime.fromisoformat(note["time"])
        return note if age < DEAD_AFTER and _lives(note) else None
    return None


def _lives(note: Mapping[str, Any]) -> bool:
    if note.get("host") != socket.gethostname():
        return True  # only its silence can tell
    try:
        return any(note.get(name) == when for name, when in _beginning(note["pid"]).items())
    except psutil.NoSuchProcess:
        return False


def take(table: Table, note: Mapping[str, Any], *, wait: bool, poll_seconds: float = 2.0) -> Table:
    """Claim a table for a run.

    Args:
        table: as just opened.
        note: this run's `identity` and more.
        wait: wait until another run's claim ends, else raise.
        poll_seconds: time between two looks.

    Returns:
        The table, one version on.

    Raises:
        TableBusy: another run holds it.
    """
    while True:
        other = holder(table, note["run"])
        if other is not None and not wait:
            raise TableBusy(
                f"Table {table.uri} is being written by run {other['run']} on {other['host']} "
                f"(process {other['pid']}, last sign of life {other['time']}). "
                "Wait for it with --wait, or try again later."
            )
        if other is None:
            try:
                table.commit({**note, "state": "claim"})
                return table
            except Refused:
                pass  # somebody was faster: look again
        else:
            time.sleep(poll_seconds)
        newest = Table.open(table.uri, table.options)
        assert newest is not None  # tables are not deleted under us
        table = newest


def release(uri: str, options: Mapping[str, str], note: Mapping[str, Any], state: str) -> None:
    """Give a claim up after a run that ended early; best effort, since time ends it too."""
    with contextlib.suppress(StoreError):
        table = Table.open(uri, options)
        notes = (commit.get("note") for commit in table.history(LOOK_BACK)) if table else ()
        last: Mapping[str, Any] = next((note for note in notes if note is not None), {})
        if table and last.get("run") == note["run"] and last.get("state") in _HOLDING:
            table.commit({**note, "state": state})


@contextlib.contextmanager
def held(table: Table, note: Mapping[str, Any], *, wait: bool) -> Iterator[Table]:
    """A claimed table for the length of a command; see `take`."""
    table = take(table, note, wait=wait)
    try:
        yield table
    finally:
        release(table.uri, table.options, note, "released")


@contextlib.contextmanager
def kept(table: Table | None, note: Mapping[str, Any]) -> Iterator[None]:
    """Renew a claim from a thread by the table's own handle, while its holder only reads for long.

    Raises:
        Refused: somebody else wrote meanwhile.
    """
    refusals: list[Refused] = []

    def renew() -> None:
        if table is None or refusals:
            return
        try:
            table.commit({**note, "state": "claim"})
        except Refused as refusal:
            refusals.append(refusal)

    with _repeated(renew):
        yield
    if refusals:
        raise refusals[0]


@contextlib.contextmanager
def renewed(uri: str, options: Mapping[str, str], note: Mapping[str, Any]) -> Iterator[None]:
    """Renew a claim from a thread, while its holder does other things than write to the table."""

    def renew() -> None:
        table = Table.open(uri, options)
        if table is not None:
            table.commit({**note, "state": "claim"})

    with _repeated(renew):
        yield


@contextlib.contextmanager
def _repeated(renew: Callable[[], None]) -> Iterator[None]:
    """Call a function every RENEW_SECONDS from a thread; what a store refuses is tried the next time."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(RENEW_SECONDS):
            with contextlib.suppress(StoreError):
                renew()

    thread = threading.Thread(target=repeat, daemon=True, name="claim")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
