"""Tables for tests: rows written to a file and embedded, and read back."""

import json
from pathlib import Path

from jobs.embed import EmbedConfig
from jobs.embed import run as run_embed
from schemas.store import Table
from tests.hash_model import HashModel


def embed(source, table, model, **options):
    return run_embed(EmbedConfig(str(source), str(table), str(model), **options))


def rows_of(table):
    return Table.open(str(table)).read().sort_by("id")


def fill(folder, name, rows, model=None, **options):
    """Bring the table `name` in line with rows, dicts with `key` and `text`; returns where it is."""
    source = Path(folder, f"{name}.jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = str(Path(folder, name))
    options |= {"id_column": "key", "text_column": "text"}
    run_embed(EmbedConfig(str(source), table, "m", **options), model or HashModel(dim=16))
    return table
