"""What docs/architecture.md says of adding something is enough to add it."""

import dataclasses
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs import cli
from jobs.analysis.vectors import open_vectors, read_vectors
from jobs.embed import run
from jobs.runtime.command import TableOptions, run_command, storage_options
from jobs.sync.config import EmbedConfig
from schemas.delta.derived import open_derived, write_derived
from sources import folder
from sources.opening import Lines
from sources.prepare import prepare
from tests.support.hash_model import HashModel

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("few_rows_here")


# A format: files of `id = text` lines


def ini_schema(file, options):
    return pa.schema([("id", pa.string()), ("text", pa.string())])


def read_ini(file, options):
    lines = Lines(file, options.encoding).as_text()
    pairs = [line.rstrip("\n").split(" = ", 1) for line in lines if " = " in line]
    columns = pa.table({"id": [key for key, _ in pairs], "text": [text for _, text in pairs]})
    yield prepare(columns, options, file.name, range(len(pairs)), numbers=file.number)


def test_a_format_is_added_by_a_kind_and_its_endings(tmp_path, monkeypatch):
    monkeypatch.setitem(folder.KINDS, ".ini", folder.Kind("pairs", ini_schema, read_ini))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.ini").write_text("one = the first\ntwo = the second\nnone =  \n")
    config = EmbedConfig(str(tmp_path / "source"), str(tmp_path / "table"), "m", id_column="id")
    summary = run(dataclasses.replace(config, max_failures=1), HashModel(dim=8))
    assert (summary.rows_read, summary.embedded, summary.failed) == (3, 2, 1)
    rows = DeltaTable(str(tmp_path / "table")).to_pyarrow_table(columns=["id", "text"]).to_pylist()
    assert rows == [{"id": "one", "text": "the first"}, {"id": "two", "text": "the second"}]


# A follow-up: the length of each vector, as a table

LENGTHS = pa.schema([pa.field("id", pa.string()), pa.field("length", pa.float64())])


@dataclass(frozen=True)
class LengthsConfig(TableOptions):
    """Which table.

    Attributes:
        out: table of lengths, made anew
    """

    out: str = ""


def lengths(config):
    options = storage_options(config.storage_option)
    table, held = open_vectors(config.table, options)
    vectors = read_vectors(table, held.dim)
    norms = [float((vector**2).sum() ** 0.5) for vector in vectors.vectors]
    rows = pa.table([vectors.ids.cast(pa.string()), norms], schema=LENGTHS)
    out = open_derived(config.out, LENGTHS, options)
    write_derived(out, config.out, LENGTHS, [rows], {"command": "lengths"}, options)
    return {"rows": len(norms), "mean": sum(norms) / len(norms)}


def main(arguments=None):
    return run_command(LengthsConfig, "lengths", __doc__, arguments, lengths, lambda _, r: str(r))


def test_a_follow_up_is_added_by_a_module_and_a_line(tmp_path, monkeypatch, embatch):
    module = types.ModuleType("jobs.lengths")
    module.main = main
    monkeypatch.setitem(sys.modules, "jobs.lengths", module)
    monkeypatch.setitem(cli.COMMANDS, "lengths", "how long vectors are")
    (tmp_path / "a.csv").write_text("id,text\na,one\nb,two\n")
    config = EmbedConfig(str(tmp_path / "a.csv"), str(tmp_path / "table"), "m", id_column="id")
    run(config, HashModel(dim=8))
    told = embatch("lengths", tmp_path / "table", "--out", tmp_path / "lengths")
    assert told == {"rows": 2, "mean": pytest.approx(1, abs=1e-6)}
    rows = DeltaTable(str(tmp_path / "lengths")).to_pyarrow_table().to_pylist()
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [row["length"] for row in rows] == pytest.approx([1, 1], abs=1e-6)


# The page itself


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:jobs|schemas|sources|actors|tests)/[\w/.]*)`", PAGE))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_names_that_the_page_gives_are_in_the_files_that_it_names():
    pairs = re.findall(
        r"`([A-Za-z_]+)`[^`|.]{0,12}\(`((?:jobs|sources|actors)/[\w/]+\.py)`\)", PAGE
    )
    assert len(pairs) >= 4
    missing = [
        pair
        for pair in pairs
        if not re.search(rf"\b{pair[0]}\b", (ROOT / pair[1]).read_text(encoding="utf-8"))
    ]
    assert missing == []
