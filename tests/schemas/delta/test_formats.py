"""Tables of other formats: those in `tests/data/tables_v0` were written before there was a number."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import refresh
from jobs.embed import run as embed
from jobs.refresh import RefreshConfig
from jobs.sync.config import EmbedConfig
from schemas.delta import formats
from schemas.delta.formats import FORMAT, format_of, is_of_kind, since, upgrade_rows
from schemas.delta.store import StoreError, Table
from schemas.delta.versions import restore
from schemas.tables import failures, refreshes
from schemas.tables.failures import FAILURES, FailureLog
from schemas.tables.neighbours import NEIGHBOURS
from schemas.tables.projections import projection_schema
from schemas.tables.refreshes import SCHEMA, StepRow
from tests.support.hash_model import HashModel

from ..conftest import note

TABLES = ["articles", "articles.failures", "near", "map", "predicted", "words", "tables/refreshes"]
MODEL = HashModel(dim=4, poison="bad")
pytestmark = pytest.mark.usefixtures("few_rows_here")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A folder with tables of format 0 and the files that they were made of; the current one."""
    shutil.copytree(Path(__file__).parents[2] / "data" / "tables_v0", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_new_column(monkeypatch):
    """As if a later embatch counted how often a row was tried, and named the machine of a refresh."""

    @dataclass(frozen=True)
    class LaterRow(StepRow):
        machine: str | None = None

    number = FORMAT + 1
    monkeypatch.setattr(formats, "FORMAT", number)
    tries = since(number, pa.field("tries", pa.int32()))
    monkeypatch.setattr(failures, "FAILURES", FAILURES.append(tries))
    machine = since(number, pa.field("machine", pa.string()))
    monkeypatch.setattr(refreshes, "SCHEMA", SCHEMA.append(machine))
    monkeypatch.setattr(refreshes, "StepRow", LaterRow)
    return number


def failed(key):
    names = set(FAILURES.names) - {"failed_at"}
    return dict.fromkeys(names) | {"id": key, "stage": "embed", "run": "r"}


def test_the_number_stands_in_new_tables_and_in_those_that_are_written_over(old):
    assert {name: format_of(Table.open(name).schema) for name in TABLES} == dict.fromkeys(TABLES, 0)
    fresh = Table.create("fresh", FAILURES, note())
    over = Table.open("near")
    over.overwrite(note(), NEIGHBOURS, over.files())
    for table in (fresh, Table.open("fresh"), over, Table.open("near")):
        assert format_of(table.schema) == FORMAT


def test_a_table_of_a_later_format_is_refused(old, monkeypatch, embatch):
    table = Table.open("near")
    with monkeypatch.context() as later:
        later.setattr(formats, "FORMAT", FORMAT + 1)
        table.overwrite(note(), NEIGHBOURS, table.files())
    message = (
        rf"near is of format {FORMAT + 1}, and this embatch knows .* up to {FORMAT}: .* Update"
    )
    with pytest.raises(StoreError, match=message):
        Table.open("near")
    assert embatch("neighbours", "articles", "near")[0] == 1
    restore(table, note(), 1)
    assert format_of(Table.open("near").schema) == FORMAT


def test_an_old_table_has_nothing_due_and_knows_its_failures(old):
    config = EmbedConfig("articles.jsonl", "articles", "hash", id_column="key")
    summary = embed(config, MODEL)
    assert (summary.unchanged, summary.embedded, summary.failed) == (3, 0, 1)
    assert set(FailureLog("articles").rows["id"].to_pylist()) == {"k3"}
    retried = embed(EmbedConfig(**{**vars(config), "retry_failed": True}), HashModel(dim=4))
    assert (retried.unchanged, retried.embedded, retried.failed) == (3, 1, 0)
    assert len(FailureLog("articles").rows) == 0


def test_what_was_made_of_old_tables_is_read_and_brought_up_to_date(old, embatch):
    page = embatch("report", "articles", "near", "predicted", "--out", "page.html")
    atlas = "articles atlas.parquet --for atlas --map map --neighbours near".split()
    assert (page["rows"], embatch("export", *atlas)["rows"]) == (3, 3)
    assert embatch("words", "similarity", "words", "king", "man")["similarity"] > 0
    assert embatch("words", "words.txt", "words")["unchanged"]
    assert embatch("neighbours", "articles", "near", "--k", "2")["n"] == 3
    assert embatch("project", "articles", "map", "--method", "pca")["n"] == 3
    assert embatch("zero-shot", "articles", "classes", "predicted")["n_rows"] == 3
    made = {name: format_of(Table.open(name).schema) for name in ("near", "map", "predicted")}
    assert made == dict.fromkeys(made, FORMAT)


def test_the_history_of_old_refreshes_goes_on(old):
    summary = refresh.run(RefreshConfig("corpus.toml"))
    assert [(step.title, step.state) for step in summary.steps] == [
        ("embed royal", "current"),
        ("neighbours like", "done"),  # the table that it reads lies in another folder now
    ]
    rows = Table.open("tables/refreshes").read()
    assert rows["name"].to_pylist().count("royal") == 2


def test_failures_of_old_tables_lack_a_new_column_until_some_are_added(old, with_new_column):
    log = FailureLog("articles")
    assert log.rows.select(["id", "tries"]).to_pylist() == [{"id": "k3", "tries": None}]
    assert log.add([failed("k9") | {"tries": 2}], note()) == 1
    again = FailureLog("articles")
    assert again.rows.sort_by("id").select(["id", "tries"]).to_pylist() == [
        {"id": "k3", "tries": None},
        {"id": "k9", "tries": 2},
    ]
    assert format_of(again.table.schema) == with_new_column
    again.keep(again.seen, note())
    assert len(FailureLog("articles").rows) == 0


def test_refreshes_of_old_tables_lack_a_new_column_until_the_next_one(old, with_new_column):
    summary = refresh.run(RefreshConfig("corpus.toml"))
    assert {step.state for step in summary.steps} == {"current", "done"}
    table = Table.open("tables/refreshes")
    assert (format_of(table.schema), table.read()["machine"].to_pylist()) == (
        with_new_column,
        [None] * 4,
    )


def test_a_kind_of_table_is_known_by_its_columns_of_its_own_format():
    later = since(FORMAT + 1, pa.field("distance", pa.float32()))
    kind = NEIGHBOURS.append(later)
    assert is_of_kind(NEIGHBOURS, kind)
    assert is_of_kind(kind, kind)
    assert not is_of_kind(NEIGHBOURS.remove(1), kind)
    assert not is_of_kind(NEIGHBOURS.append(pa.field("of", pa.string())), kind)
    assert not is_of_kind(kind.remove(1), kind)
    assert not is_of_kind(projection_schema(2), projection_schema(3))
    assert not is_of_kind(projection_schema(3), projection_schema(2))


def test_rows_of_an_old_format_have_todays_columns_in_todays_order():
    kind = pa.schema([pa.field("id", pa.string()), since(7, pa.field("n", pa.int32()))])
    rows = pa.table({"gone": [1.0], "id": pa.array(["a"], pa.large_string())})
    assert upgrade_rows(rows, kind).equals(pa.table({"id": ["a"], "n": [None]}, schema=kind))
    assert format_of(kind) == 7
