"""The way of a text row from the command to the commit: each file that it passes, and the functions.

    python -m tests.house.way_of_a_row

One row is embedded in this process, by a model that is a hash, and each call of a function of the
project is noted, in all threads. The fewer files, the sooner somebody new has read them.
"""

import inspect
import json
import sys
import tempfile
import textwrap
import threading
from collections import defaultdict
from pathlib import Path

from jobs.embed import EmbedConfig, run
from schemas.delta.store import Table
from tests.house.modules import FOLDERS, ROOT
from tests.support.hash_model import HashModel

OURS = {str(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}


class Way:
    """Takes down the functions that are called until a row is committed.

    Attributes:
        functions: by file, both in the order of their first call.
        is_over: the row is in the table.
    """

    def __init__(self):
        self.functions = defaultdict(dict)
        self.is_over = False

    def note(self, frame, event, _):
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if self.is_over or code.co_filename not in OURS:
            return
        if event == "call" and is_function(code) and not is_import(frame):
            path = str(Path(code.co_filename).relative_to(ROOT))
            self.functions[path][code.co_qualname] = True
        elif event == "return" and code is Table.commit.__code__ and frame.f_locals["add"]:
            self.is_over = True


def is_function(code):
    """Neither a module's nor a class's body, nor a lambda or a comprehension."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")


def is_import(frame):
    """A module that is imported on the way calls functions, too; they are no part of it."""
    while frame is not None and frame.f_code is not run.__code__:
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def way_of_a_row(folder):
    """Functions by file, for one row that becomes a table in a folder."""
    source = folder / "source.jsonl"
    source.write_text(json.dumps({"id": "a", "text": "A row.", "label": "news"}) + "\n")
    config = EmbedConfig(str(source), str(folder / "table"), "hash", id_column="id", json=True)
    way, before = Way(), sys.getprofile()
    threading.setprofile(way.note)
    sys.setprofile(way.note)
    try:
        summary = run(config, HashModel())
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    assert (summary.embedded, way.is_over) == (1, True)
    return {path: list(functions) for path, functions in way.functions.items()}


def main():
    """Print the way."""
    with tempfile.TemporaryDirectory() as folder:
        way = way_of_a_row(Path(folder))
    for path, functions in way.items():
        lines = textwrap.wrap(", ".join(functions), 96)
        sys.stdout.write(f"{path}\n{textwrap.indent(chr(10).join(lines), '    ')}\n")
    sys.stdout.write(f"{sum(map(len, way.values()))} functions in {len(way)} files\n")


if __name__ == "__main__":
    main()
