import pytest

from actors.models import ModelError
from jobs.sync.config import EmbedConfig
from jobs.sync.inputs import model_of, source_of
from jobs.sync.table import RunTable
from schemas.columns import source_columns
from schemas.tables.embeddings import Fingerprint
from tests.support.hash_model import HashModel


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.csv").write_text("key,title,body,year\n1,A,B,2020\n")
    return EmbedConfig(
        *(str(tmp_path / "a.csv"), str(tmp_path / "table"), "hash"),
        text_column=" title, body,",
        columns="year",
        id_column="key",
    )


def test_the_source_has_the_columns_that_were_asked_for(config):
    source = source_of(config)
    (piece,) = source.pieces()
    ((rows, failures, _),) = source.read(piece)
    assert (rows["id"].to_pylist(), rows["text"].to_pylist()) == (["1"], ["A\nB"])
    assert (rows["year"].to_pylist(), len(failures)) == (["2020"], 0)


def test_a_model_that_is_not_known_is_an_error_of_the_user(config):
    with pytest.raises(ModelError, match="Unknown model 'hash'"):
        model_of(config, "text")


def test_a_run_s_table_says_who_writes_what(config):
    model = HashModel(dim=8)
    table = RunTable(config, source_of(config), model, "r1", claims=False)
    assert table.open() is None
    assert table.fingerprint == Fingerprint.of_model(model)
    note = {name: table.note[name] for name in ("run", "command", "model", "source", "given_model")}
    assert note == {
        "run": "r1",
        "command": "embed",
        "model": "hash",
        "source": config.source,
        "given_model": "hash",
    }
    made, columns, schema, remarks = table.prepare(None, [])
    assert (made.files(), columns, remarks) == ([], source_columns([])[0], [])
    assert schema.field("embedding").type.list_size == 8
    assert table.open().version == made.version


def test_cutting_documents_makes_another_recipe(config):
    whole, cut = (Fingerprint.of_model(HashModel(dim=8), chunking) for chunking in ("", "64/8"))
    assert (whole.chunking, cut.chunking) == ("", "64/8")
    assert cut.recipe == f"{whole.recipe}-64-8"
    assert (cut.space, cut.dim) == (whole.space, whole.dim)
