"""A corpus of a few hundred rows that changes from fault to fault, and what its files say just now.

Rows come, go, get another text, another label, or one that the model refuses (POISON); some share
their text. `extra.jsonl` repeats some rows, and claims the ids of others for another text.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field

from tests.fault_runs import POISON

N_FILES = 5  # the last of them is compressed
ROWS = 300
STRANGER = 90_000  # ids from here on are of files that do not belong


def change(rows, rng, step):
    """The corpus after one more step.

    Args:
        rows: number to (text, label); empty for the first corpus.
        rng: decides.
        step: what new texts and labels are called after.
    """
    changed = {}
    for number, (text, label) in rows.items():
        draw = rng.random()
        if POISON in text and draw < 0.5:
            changed[number] = f"text {number} healed at {step}", label
        elif draw < 0.14:
            changed[number] = text_of(number, step, rng), label
        elif draw < 0.20:
            changed[number] = text, f"label of {step}"
        elif draw < 0.93:
            changed[number] = text, label
    highest = max(rows, default=-1)
    for number in range(highest + 1, highest + 1 + max(20, ROWS - len(changed))):
        changed[number] = text_of(number, step, rng), f"label {number % 7}"
    return changed


def text_of(number, step, rng):
    draw = rng.random()
    if draw < 0.1:
        return f"shared by many since {step}: {number % 2}"
    return f"text {number} of {step}{f' {POISON}' if draw > 0.96 else ''}"


def line(number, text, label):
    return json.dumps({"id": f"d{number:05}", "text": text, "label": label}).encode() + b"\n"


def contents(rows):
    """The corpus as files: name to bytes."""
    parts = [
        [line(number, *row) for number, row in sorted(rows.items()) if number % N_FILES == part]
        for part in range(N_FILES)
    ]
    files = {f"{part}.jsonl": b"".join(lines) for part, lines in enumerate(parts)}
    last = f"{N_FILES - 1}.jsonl"
    files[f"{last}.gz"] = gzip.compress(files.pop(last), mtime=0)
    extra = [line(number, *row) for number, row in rows.items() if number % 29 == 0]
    extra += [
        line(number, f"another text for {number}", "conflict")
        for number in rows
        if number % 31 == 5 and number % 29
    ]
    files["extra.jsonl"] = b"".join(extra)
    return files


def write(folder, files):
    """Make a folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@dataclass
class Truth:
    """What a folder of JSON lines says, read without embatch.

    Attributes:
        rows: id to (text, label), of rows with one id the first.
        known: every (id, text, label) that stands there.
        n_rows: lines that hold something.
        n_unreadable: of these, no rows.
        duplicates: rows that repeat another.
        conflicts: ids that another row claims for another text.
        broken: files that end in an error, of whose rows nothing is sure.
    """

    rows: dict = field(default_factory=dict)
    known: set = field(default_factory=set)
    n_rows: int = 0
    n_unreadable: int = 0
    duplicates: int = 0
    conflicts: set = field(default_factory=set)
    broken: set = field(default_factory=set)

    @classmethod
    def of(cls, folder):
        truth = cls()
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            if path.suffix == ".gz":
                try:
                    data = gzip.decompress(data)
                except (OSError, EOFError, zlib.error):
                    truth.broken.add(path.name)
                    data = b""
            for raw in filter(bytes.strip, data.split(b"\n")):
                truth.add(raw)
        return truth

    def add(self, raw):
        self.n_rows += 1
        try:
            row = json.loads(raw)
            name, text, label = row["id"], row["text"], row["label"]
        except (ValueError, TypeError, KeyError):
            self.n_unreadable += 1
            return
        self.known.add((name, text, label))
        if name not in self.rows:
            self.rows[name] = text, label
        elif self.rows[name][0] == text:
            self.duplicates += 1
        else:
            self.conflicts.add(name)

    @property
    def poisoned(self):
        return {name for name, (text, _) in self.rows.items() if POISON in text}

    def is_sure(self, name):
        """Whether a row with this id is as the intact files have it."""
        number = int(name[1:])
        file = f"{number % N_FILES}.jsonl.gz"
        return not self.broken or (number < STRANGER and file not in self.broken)
