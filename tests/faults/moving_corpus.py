"""A corpus of a few hundred rows that changes from fault to fault, and what its files say just now.

Rows come, go, get another text, another label, none at all, or a text that the model refuses (POISON);
some share their text. `extra.jsonl` repeats some rows, and claims the ids of others for another text.
One file is Parquet in row groups, one is compressed, and one is of a kind that is not read.
"""

import gzip
import io
import json
import zlib
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.runs import POISON

N_FILES = 5
ENDINGS = {1: ".parquet", 4: ".jsonl.gz"}  # of these files; the others are JSON lines
GROUP_ROWS = 16  # of the Parquet file
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
        if (POISON in text or not text) and draw < 0.5:
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
    if draw > 0.97:
        return ""
    return f"text {number} of {step}{f' {POISON}' if draw > 0.94 else ''}"


def line(number, text, label):
    return json.dumps({"id": f"d{number:05}", "text": text, "label": label}).encode() + b"\n"


def contents(rows):
    """The corpus as files: name to bytes."""
    files = {"notes.html": b"no rows"}
    for part in range(N_FILES):
        mine = [(number, *row) for number, row in sorted(rows.items()) if number % N_FILES == part]
        lines = b"".join(line(*row) for row in mine)
        ending = ENDINGS.get(part)
        made = {".parquet": table_of(mine), ".jsonl.gz": gzip.compress(lines, mtime=0)}
        files[file_of(part)] = made.get(ending, lines)
    extra = [line(number, *row) for number, row in rows.items() if number % 29 == 0]
    extra += [
        line(number, f"another text for {number}", "conflict")
        for number in rows
        if number % 31 == 5 and number % 29
    ]
    files["extra.jsonl"] = b"".join(extra)
    return files


def file_of(number):
    part = number % N_FILES
    return f"{part}{ENDINGS.get(part, '.jsonl')}"


def table_of(rows):
    """A Parquet file of rows; a text that is empty elsewhere is null here."""
    columns = {
        "id": [f"d{number:05}" for number, _, _ in rows],
        "text": [text or None for _, text, _ in rows],
        "label": [label for _, _, label in rows],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=GROUP_ROWS)
    return sink.getvalue()


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
    """What a folder says, read without embatch.

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
            try:
                rows = list(rows_in(path))
            except (OSError, EOFError, zlib.error, pa.ArrowInvalid):
                truth.broken.add(path.name)
                truth.known |= {(r["id"], r["text"], r["label"]) for r in rows_before_a_break(path)}
                continue
            for row in rows:
                truth.add(row)
        return truth

    def add(self, row):
        self.n_rows += 1
        try:
            name, text, label = row["id"], row["text"], row["label"]
            is_read = bool((text or "").strip())
        except (TypeError, KeyError):
            is_read = False
        if not is_read:
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
        return not self.broken or (number < STRANGER and file_of(number) not in self.broken)


def rows_before_a_break(path):
    """The whole rows that a broken file begins with, if it is compressed; each may be read or not."""
    stream, data = zlib.decompressobj(wbits=31), b""
    for byte in path.read_bytes() if path.suffix == ".gz" else b"":
        try:
            data += stream.decompress(bytes([byte]))
        except zlib.error:
            break
    return [row for row in map(parsed, data.split(b"\n")[:-1]) if row is not None]


def rows_in(path):
    """The rows of a file; None for a line that holds none."""
    if path.suffix == ".html":
        return
    if path.suffix == ".parquet":
        yield from pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()
        return
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    yield from map(parsed, filter(bytes.strip, data.split(b"\n")))


def parsed(raw):
    """What a line of JSON holds, None where it holds none."""
    try:
        return json.loads(raw)
    except ValueError:
        return None
