"""Tables for tests: rows written to a file and embedded, and read back."""

import json
from pathlib import Path

from jobs.embed import run as run_embed
from jobs.sync.config import EmbedConfig
from schemas.delta.store import Table
from tests.support.hash_model import HashModel


def embed(source, table, model, **options):
    return run_embed(EmbedConfig(str(source), str(table), str(model), **options))


def rows_of(table):
    return Table.open(str(table)).read().sort_by("id")


def reasons(table):
    """Which rows failed, and why."""
    failures = Table.open(f"{table}.failures")
    rows = [] if failures is None else failures.read().to_pylist()
    return sorted((row["position"], row["id"], row["reason"]) for row in rows)


def jsonl(path, rows):
    """A file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fill(folder, name, rows, model=None, **options):
    """Bring the table `name` in line with rows, dicts with `key` and `text`; returns where it is."""
    source = jsonl(Path(folder, f"{name}.jsonl"), rows)
    table = str(Path(folder, name))
    options |= {"id_column": "key", "text_column": "text"}
    run_embed(EmbedConfig(str(source), table, "m", **options), model or HashModel(dim=16))
    return table
