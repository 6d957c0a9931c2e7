"""Claims on a table: at most one run writes to it; the claim is a commit in the table's own history.

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
    """Error: another run holds the table; the message names the run."""


def identity(run: str) -> dict[str, Any]:
    """Name, host, process number and start times of a run, which each of its commits records."""
    return {
        "run": run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **_start_times(os.getpid()),
    }


def _start_times(pid: int) -> dict[str, Any]:
    """Start of a process, given twice: by the clock, and in seconds after its machine's start.

    Where the clock is set anew, systems change one of the two values of a running process; the other one
    still identifies the process.
    """
    began = psutil.Process(pid).create_time()
    return {"started": int(began), "after_boot": round(began - psutil.boot_time(), 2)}


def holder(table: Table, run: str) -> Mapping[str, Any] | None:
    """The note of the last commit if another live run made it and holds the table, else None."""
    for commit in table.history(LOOK_BACK):
        note = commit.get("note")
        if note is None:
            continue
        if note.get("state") not in _HOLDING or note.get("run") == run:
            return None
        age = now() - datetime.fromisoformat(note["time"])
        return note if age < DEAD_AFTER and _is_alive(note) else None
    return None


def _is_alive(note: Mapping[str, Any]) -> bool:
    if note.get("host") != socket.gethostname():
        return True  # only its silence can tell
    try:
        return any(note.get(name) == when for name, when in _start_times(note["pid"]).items())
    except psutil.NoSuchProcess:
        return False


def take(table: Table, note: Mapping[str, Any], *, wait: bool, poll_seconds: float = 2.0) -> Table:
    """Claim a table for a run.

    Args:
        table: the table as just opened.
        note: metadata of the commit: this run's `identity` and more.
        wait: wait until another run's claim ends, else raise.
        poll_seconds: time between two looks at the claim.

    Returns:
        The table at the version of the claim.

    Raises:
        TableBusy: another run holds the table, and `wait` is False.
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
    """Give up a run's claim on a table. Errors of the store are ignored, since a claim also ends by time."""
    with contextlib.suppress(StoreError):
        table = Table.open(uri, options)
        notes = (commit.get("note") for commit in table.history(LOOK_BACK)) if table else ()
        last: Mapping[str, Any] = next((note for note in notes if note is not None), {})
        if table and last.get("run") == note["run"] and last.get("state") in _HOLDING:
            table.commit({**note, "state": state})


@contextlib.contextmanager
def hold(table: Table, note: Mapping[str, Any], *, wait: bool) -> Iterator[Table]:
    """Hold a claim on a table for the length of a `with` block; see `take`."""
    table = take(table, note, wait=wait)
    try:
        yield table
    finally:
        release(table.uri, table.options, note, "released")


@contextlib.contextmanager
def renew_by_handle(table: Table | None, note: Mapping[str, Any]) -> Iterator[None]:
    """Renew a claim from a thread by the table's own handle, while the run commits nothing for long.

    Without a table nothing is renewed.

    Raises:
        Refused: another writer committed meanwhile.
    """
    refusals: list[Refused] = []

    def renew() -> None:
        if table is None or refusals:
            return
        try:
            table.commit({**note, "state": "claim"})
        except Refused as refusal:
            refusals.append(refusal)

    with _call_repeatedly(renew):
        yield
    if refusals:
        raise refusals[0]


@contextlib.contextmanager
def renew_by_uri(uri: str, options: Mapping[str, str], note: Mapping[str, Any]) -> Iterator[None]:
    """Renew a claim from a thread by a newly opened table, while the run does not write to the table."""

    def renew() -> None:
        table = Table.open(uri, options)
        if table is not None:
            table.commit({**note, "state": "claim"})

    with _call_repeatedly(renew):
        yield


@contextlib.contextmanager
def _call_repeatedly(renew: Callable[[], None]) -> Iterator[None]:
    """Call a function every RENEW_SECONDS from a thread; a StoreError waits for the next call."""
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
