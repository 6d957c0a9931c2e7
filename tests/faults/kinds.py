"""The kinds of faults that a campaign draws from: each lays one, and says whether it hit."""

import contextlib
import gzip
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from schemas.delta.claim import DEAD_AFTER
from tests.faults import moving_corpus
from tests.faults.flaky_store import flaky_store
from tests.faults.ledger import disagreement
from tests.faults.runs import KILLED, PATIENCE_SECONDS, Child, version_of
from tests.faults.small_disk import SmallDisk

FULL = ("No space left", "File too large")
READ_ONLY = ("Read-only file system", "Permission denied")


@dataclass
class Stage:
    """Where one fault takes place.

    Attributes:
        folder: for what children are told and say.
        source: folder of the corpus.
        table: folder of the table, on `disk`.
        rng: decides.
        mutation: mistake that every run makes, or None.
        wrong: what was wrong with the disturbed runs themselves.
    """

    folder: Path
    source: Path
    table: Path
    disk: SmallDisk
    rng: Random
    mutation: str | None = None
    wrong: list = field(default_factory=list)

    def __post_init__(self):
        self.pace = {
            "wave_seconds": self.rng.choice([0.0, 0.0, 0.1, 30.0]),
            "seconds_a_row": self.rng.choice([0.0, 1e-3, 4e-3]),
            "settings": {
                "group_rows": self.rng.choice([10, 40, 50_000]),
                "window_rows": self.rng.choice([16, 64, 128]),
                "piece_rows": self.rng.choice([16, 32, 100_000]),
            },
        }

    def child(self, faults=None, *, table=None, **named):
        faults = dict(faults or {})
        if self.mutation:
            faults["mutation"] = {"name": self.mutation}
        named = {"json": True, "force_prune": True, "max_failures": 1.0, **self.pace, **named}
        return Child(self.folder, self.source, table or self.table, faults=faults, **named)

    def rows(self):
        """The rows of the source, as `moving_corpus.change` takes them."""
        truth = moving_corpus.Truth.of(self.source)
        return {int(name[1:]): row for name, row in truth.rows.items()}

    def end_of(self, child):
        """A child's exit code and last words; a run that hangs, or ends in a traceback, is wrong."""
        try:
            code = child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"a run hung for {PATIENCE_SECONDS} seconds")
            child.kill()
            code = child.wait()
        words = child.complained.read_text()
        if "Traceback" in words:
            self.wrong.append(f"a run ended in a traceback: {words.strip().splitlines()[-1]}")
        if code == 0:
            self.wrong += disagreement(child.summary())
        return code, words

    def expect(self, code, words, *, codes=(0,), errors=()):
        """A run ends with one of these codes, or with 1 and one of these errors."""
        if code not in codes and not (code == 1 and any(error in words for error in errors)):
            self.wrong.append(f"a run ended with {code}: {words.strip()[-300:]}")


# -- kinds of faults: each returns whether it hit, and what it was -----------------------------


def kill_at_commit(stage):
    table = stage.rng.choice(["main", "main", "failures"])
    at = {
        "table": table,
        "at": stage.rng.randint(1, 6 if table == "main" else 2),
        "when": stage.rng.choice(["before", "after"]),
    }
    return dies(stage, {"commit": at}), f"{at['when']} commit {at['at']} of {at['table']}"


def kill_at_file(stage):
    at = {"at": stage.rng.randint(1, 8), "when": stage.rng.choice(["before", "inside", "after"])}
    return dies(stage, {"file": at}), f"{at['when']} file {at['at']}"


def dies(stage, faults):
    with stage.child(faults) as child:
        code, words = stage.end_of(child)
        stage.expect(code, words, codes=(KILLED, 0))
        return code == KILLED


def kill_at_any_time(stage):
    seconds = stage.rng.uniform(0, 1.5)
    with stage.child(seconds_a_row=4e-3) as child:
        child.wait_for(child.begun.exists)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        child.kill()
        code, words = stage.end_of(child)
        stage.expect(code, words, codes=(KILLED, 0))
        return code == KILLED, f"after {seconds:.2f} s"


def kill_in_ray(title, *, survives):
    """SIGKILL one of Ray's processes; `survives` says whether the run must end well all the same."""

    def kind(stage):
        seconds = stage.rng.uniform(0, 2)
        patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # of 60
        with stage.child(actors=2, seconds_a_row=0.02, environment=patience) as child:
            child.wait_for(child.workers)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
            victims = child.processes(title)[:1]
            hit = child.poll() is None and bool(victims)
            for victim in victims:
                victim.kill()
            code, words = stage.end_of(child)
            if survives:
                stage.expect(code, words)
            return hit, f"{seconds:.2f} s after the first worker, exit code {code}"

    return kind


def full_disk(stage):
    left = 4096 * stage.rng.randint(0, 24)
    in_the_middle = stage.disk.is_mounted and stage.rng.random() < 0.5
    before = version_of(stage.table)
    try:
        faults = {} if in_the_middle else stage.disk.fill(left)
        with stage.child(faults, seconds_a_row=4e-3) as child:
            if in_the_middle:
                child.wait_for(lambda: version_of(stage.table) > before + 1)
                stage.disk.fill(left)
            code, words = stage.end_of(child)
    finally:
        stage.disk.heal()
    stage.expect(code, words, errors=FULL)
    return code == 1, f"{left} bytes left, {'in the middle' if in_the_middle else 'from the start'}"


def read_only(stage):
    in_the_middle = stage.rng.random() < 0.7
    before = version_of(stage.table)
    try:
        if not in_the_middle:
            stage.disk.make_read_only()
        with stage.child(seconds_a_row=4e-3) as child:
            if in_the_middle:
                child.wait_for(lambda: version_of(stage.table) > before + 1)
                child.wait_for(stage.disk.make_read_only)
            code, words = stage.end_of(child)
    finally:
        stage.disk.heal()
    stage.expect(code, words, errors=READ_ONLY)
    return code == 1, "in the middle" if in_the_middle else "from the start"


def clock_jump(stage):
    """A run under a clock that is hours off dies with its claim; the next one has another clock."""
    hours = [stage.rng.choice([-1, 1]) * stage.rng.uniform(0.1, 48) for _ in range(2)]
    clocks = [{"clock": {"seconds": round(3600 * shift)}} for shift in hours]
    at = {"table": "main", "at": stage.rng.randint(1, 3), "when": "after"}
    hit = dies(stage, {**clocks[0], "commit": at})
    with stage.child(clocks[1]) as child:  # the dead run's claim must not hold it up
        stage.expect(*stage.end_of(child))
    return hit, "{:+.1f} h, then {:+.1f} h".format(*hours)


def rivals(n):
    """Several runs at once: one takes the claim, or the fence alone keeps them apart."""

    def kind(stage):
        rng = stage.rng
        claims, wait = rng.choice([(True, False), (True, True), (False, False), (False, False)])
        apart = rng.choice([0, 0, 0, 240, 40_000]) if claims and not wait else 0
        had_table = version_of(stage.table) >= 0
        gate = stage.folder / f"{uuid.uuid4().hex}.gate"
        with contextlib.ExitStack() as stack:
            children = []
            for _ in range(n):
                faults = {"gate": {"path": str(gate), "seconds": rng.choice([0, rng.random()])}}
                if apart:
                    faults["clock"] = {"seconds": rng.randint(-apart, apart)}
                children.append(stack.enter_context(stage.child(faults, claims=claims, wait=wait)))
            for child in children:
                child.wait_for(child.begun.exists)
            gate.touch()
            ends = [stage.end_of(child) for child in children]
            n_replans = sum(c.summary()["replans"] for c in children if c.returncode == 0)
        may = ["is being written by run"] if claims and not wait else []
        may += [] if claims else ["something else keeps writing to this table"]
        for end in ends:
            stage.expect(*end, errors=may)
        if all(code for code, _ in ends):
            stage.wrong.append("none of the runs came to its end")
        if claims and had_table and apart < DEAD_AFTER.total_seconds() and n_replans:
            stage.wrong.append(f"a living run's claim was broken, {n_replans} replans")
        hit = n_replans > 0 or wait or any(code == 1 for code, _ in ends)
        how = "claims, waiting" if wait else "claims" if claims else "no claims"
        return hit, f"{how}{f', clocks {apart} s apart' if apart else ''}, {n_replans} replans"

    return kind


def source_changes(stage):
    """A file of the source is cut, replaced, taken away, or a broken one comes, while a run reads."""
    rng, files = stage.rng, {path.name: path.read_bytes() for path in stage.source.iterdir()}
    fixed = ("extra.jsonl", "notes.html")
    name = rng.choice([name for name in sorted(files) if name not in fixed])
    how = rng.choice(["cut", "cut", "replaced", "taken away", "new", "new and broken"])
    new = None
    if how == "cut":
        new = files[name][: rng.randrange(len(files[name]))]
    elif how == "replaced":
        other = moving_corpus.change(stage.rows(), rng, "a replacement")
        new = moving_corpus.contents(other)[name]
    elif how != "taken away":
        name = rng.choice(["3a.jsonl", "9.jsonl.gz", "9.jsonl"])
        strangers = {moving_corpus.STRANGER + i: (f"stranger {i}", "new") for i in range(9)}
        new = b"".join(moving_corpus.line(n, *row) for n, row in strangers.items())
        new = gzip.compress(new, mtime=0) if name.endswith("gz") else new
        new = new[:-40] + b"\0\xff{" if how == "new and broken" else new
    by = None
    if new is not None:
        by = stage.folder / f"{uuid.uuid4().hex}.new"
        by.write_bytes(new)
    phase = rng.choice(["plan", "work"])
    change = {"file": str(stage.source / name), "by": by and str(by), "phase": phase, "at": 1}
    with stage.child({"source": change}) as child:
        stage.expect(*stage.end_of(child), errors=["ids in the table are no longer"])
    path = stage.source / name
    hit = (path.read_bytes() if path.exists() else None) != files.get(name)
    return hit, f"{name} {how} before it is read to {phase}"


KINDS = {
    "commit": kill_at_commit,
    "file": kill_at_file,
    "moment": kill_at_any_time,
    "full-disk": full_disk,
    "read-only": read_only,
    "clock": clock_jump,
    "source": source_changes,
    "store": flaky_store,
    "rivals-2": rivals(2),
    "rivals-5": rivals(5),
    "worker": kill_in_ray("ray::MapWorker", survives=True),
    "raylet": kill_in_ray("raylet", survives=False),
    "gcs": kill_in_ray("gcs_server", survives=False),
}
RAY = ("worker", "raylet", "gcs")
