"""A run of `jobs.embed` in a process of its own, in which faults are laid.

    python -m tests.faults.driver CONFIG.json

CONFIG holds `embed` (EmbedConfig), `model` (HashModel), `run` (keywords of `jobs.embed.run`),
`settings` (`group_rows`: rows that one group of rewritten files waits for; `window_rows`: the
smallest window; `piece_rows`: rows of one part of a Parquet file) and `faults`: names of FAULTS with their keywords. CONFIG.begun is there once the
run begins. The summary is the one line on stdout; an error is one line on stderr, and exit code 1.
"""

import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from itertools import count
from pathlib import Path

import psutil
import torch  # noqa: F401  a run's first seconds would go to it, and faults would meet no work

from jobs.embed import run
from jobs.runtime import ray_cluster
from jobs.runtime.command import user_errors
from jobs.sync import planning, workers
from jobs.sync.config import EmbedConfig
from schemas.delta import fragments, rewriting, store
from schemas.delta.store import Table
from schemas.plan import make_plan
from sources.formats import parquet
from tests.faults.mutations import plant
from tests.support.hash_model import HashModel


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_commit(table, at, when):
    """SIGKILL `before` or `after` the at-th version (from 1) of `main` or `failures` comes to be."""
    turns = count(1)

    def around(uri, commit):
        if uri.endswith(".failures") != (table == "failures"):
            return commit()
        is_mine = next(turns) == at
        if is_mine and when == "before":
            die()
        result = commit()
        if is_mine:
            die()
        return result

    create, commit = Table.create, Table.commit
    Table.create = lambda uri, *args: around(uri, lambda: create(uri, *args))
    Table.commit = lambda self, *args, **named: around(
        self.uri, lambda: commit(self, *args, **named)
    )


def kill_at_file(at, when):
    """SIGKILL `before`, `inside` or `after` the writing of the at-th Parquet file (from 1)."""
    turns, write = count(1), fragments.write_tables

    def around(*args):
        is_mine = next(turns) == at
        if is_mine and when == "before":
            die()
        if is_mine and when == "inside":  # its rows are out, its footer is not
            fragments.pq.ParquetWriter.close = lambda _: die()
        result = write(*args)
        if is_mine:
            die()
        return result

    fragments.write_tables = rewriting.write_tables = around


def shift_clock(seconds):
    """The system's clock is `seconds` ahead, also in what it says of when processes began."""
    clocks = [(time, "time", seconds), (time, "time_ns", seconds * 10**9)]
    clocks += [(psutil, "boot_time", seconds), (psutil.Process, "create_time", seconds)]
    clocks += [
        (module, "now", timedelta(seconds=seconds))
        for module in list(sys.modules.values())
        if getattr(module, "now", None) is store.now
    ]
    for owner, name, shift in clocks:
        true = getattr(owner, name)
        setattr(owner, name, lambda *args, true=true, shift=shift: true(*args) + shift)


def change_source(file, by, phase, at):
    """At the at-th piece (from 1) that is read to `plan` or to `work`, a file changes in place.

    It takes the bytes of the file `by`, or goes where that is None.
    """
    module, name = {"plan": (planning, "scan_piece"), "work": (workers, "read_due")}[phase]
    turns, read = count(1), getattr(module, name)

    def around(*args):
        if next(turns) == at:
            Path(file).unlink() if by is None else Path(file).write_bytes(Path(by).read_bytes())
        return read(*args)

    setattr(module, name, around)


def wait_at_gate(path, seconds):
    """Begin `seconds` after a file is there."""
    while not Path(path).exists():
        time.sleep(0.005)
    time.sleep(seconds)


def limit_files(size_bytes):
    """No file may grow larger: what a full disk is where none can be mounted."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


FAULTS = {
    "commit": kill_at_commit,
    "file": kill_at_file,
    "clock": shift_clock,
    "source": change_source,
    "limit": limit_files,
    "mutation": plant,
    "gate": wait_at_gate,
}


def main(path):
    config = json.loads(path.read_text())
    make_plan.__kwdefaults__["wave_rows"] = config["settings"]["group_rows"]
    ray_cluster.SMALLEST_WINDOW = config["settings"].get("window_rows", ray_cluster.SMALLEST_WINDOW)
    parquet.PIECE_ROWS = config["settings"].get("piece_rows", parquet.PIECE_ROWS)
    path.with_suffix(".begun").touch()
    for name, fault in FAULTS.items():
        if name in config["faults"]:
            fault(**config["faults"][name])
    with user_errors() as outcome:
        summary = run(EmbedConfig(**config["embed"]), HashModel(**config["model"]), **config["run"])
        sys.stdout.write(json.dumps(asdict(summary)))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
