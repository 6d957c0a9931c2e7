"""Runs that are to be disturbed: what they are asked, the processes they live in, what they leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
from deltalake import DeltaTable

from jobs.embed import run
from jobs.sync.config import EmbedConfig
from tests.support.hash_model import HashModel

ROOT = Path(__file__).resolve().parents[2]
POISON = "POISON"
MARK = "EMBATCH_FAULT_RUN"  # in the environment of a child, which its Ray's processes inherit
SECONDS_A_ROW = 5e-4
WAVE_SECONDS = 0.5
PATIENCE_SECONDS = 120
KILLED = -signal.SIGKILL


def embed(source, table, *, wave_seconds=WAVE_SECONDS, seconds_a_row=0.0, **options):
    """A run in this process."""
    config = EmbedConfig(**asked(source, table, **options))
    return run(config, HashModel(**model(seconds_a_row)), wave_seconds=wave_seconds)


def asked(source, table, **options):
    names = {"model": "hash", "text_column": "text", "id_column": "id", "prune": True}
    return {"source": str(source), "table": str(table), **names, **options}


def model(seconds_a_row):
    return {"poison": POISON, "seconds_a_row": seconds_a_row}


def version_of(uri, options=None):
    """The newest version, -1 where there is no table yet."""
    if not DeltaTable.is_deltatable(str(uri), options):
        return -1
    return DeltaTable(str(uri), storage_options=options).version()


class Child(subprocess.Popen):
    """A run of `tests.faults.driver`; what it leaves behind goes with the `with` block.

    `faults` are those of `tests.faults.driver.FAULTS`, each with its keywords; `settings` are the driver's
    `group_rows` and `window_rows`.
    """

    def __init__(
        self,
        folder,
        source,
        table,
        *,
        faults=None,
        claims=True,
        wave_seconds=WAVE_SECONDS,
        seconds_a_row=SECONDS_A_ROW,
        settings=None,
        environment=None,
        **options,
    ):
        self.mark = uuid.uuid4().hex
        config = {
            "embed": asked(source, table, **options),
            "model": model(seconds_a_row),
            "run": {"wave_seconds": wave_seconds, "claims": claims},
            "settings": {"group_rows": 1500, **(settings or {})},
            "faults": faults or {},
        }
        path = folder / f"{self.mark}.json"
        path.write_text(json.dumps(config))
        self.begun = path.with_suffix(".begun")
        self.said = path.with_suffix(".out")
        self.complained = path.with_suffix(".err")
        with self.said.open("w") as out, self.complained.open("w") as err:
            super().__init__(
                [sys.executable, "-m", "tests.faults.driver", str(path)],
                stdout=out,
                stderr=err,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    **(environment or {}),
                    MARK: self.mark,
                },
            )

    def __exit__(self, *exception):
        if self.poll() is None:
            self.kill()
        super().__exit__(*exception)
        gone_by = time.monotonic() + 20
        while (left := self.left()) and time.monotonic() < gone_by:
            time.sleep(0.2)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def left(self):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.pid != os.getpid():
                    found.append(process)
        return found

    def processes(self, title):
        """Those of this run's Ray whose command begins with a title, or that are named so."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name() == title or " ".join(process.cmdline()).startswith(title):
                        found.append(process)
        return found

    def workers(self):
        """The processes that host the model."""
        return self.processes("ray::MapWorker")

    def wait_for(self, condition):
        """Wait for a condition or the child's end."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.poll() is None and not condition():
            assert time.monotonic() < give_up, self.complained.read_text()
            time.sleep(0.02)

    def summary(self):
        assert self.wait(PATIENCE_SECONDS) == 0, self.complained.read_text()
        return json.loads(self.said.read_text().splitlines()[-1])
