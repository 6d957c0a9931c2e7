import numpy as np
import pytest

from jobs.sync.canary import OtherVectors
from schemas.canary import Canary
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint
from tests.support.hash_model import HashModel
from tests.support.tables import fill

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
ROWS = [{"key": str(n), "text": f"text {n}"} for n in range(5)]
MORE = [*ROWS, {"key": "new", "text": "a new one"}]


class Moved(HashModel):
    """The same by name and recipe, and every vector a little off."""

    by = 0.1

    def load(self, device="cpu", threads=None, precision="fp32"):
        encoder = super().load(device, threads, precision)
        embed = encoder.forward
        encoder.forward = lambda ids: embed(ids) + np.float32(self.by / 4)  # of 16 values
        return encoder


class Rounded(Moved):
    by = 0.001


def held(table):
    return Canary.of_table(Table.open(table).schema, "hash-1")


def n_rows(table):
    return sum(file.n_rows for file in Table.open(table).files())


def test_a_model_that_computes_otherwise_is_stopped_before_it_adds_a_row(tmp_path):
    table = fill(tmp_path, "t", ROWS)
    first = held(table)
    assert first.values.shape == (3, 16)
    fill(tmp_path, "t", ROWS, Moved(dim=16))  # nothing is due: no model is loaded
    fill(tmp_path, "t", MORE[:-1] + [{"key": "x", "text": "x"}], Rounded(dim=16))
    assert n_rows(table) == 6
    with pytest.raises(
        OtherVectors, match=r"hash gives other vectors than .* off by \d+\.\d% of"
    ) as told:
        fill(tmp_path, "t", MORE, Moved(dim=16))
    assert "With torch" in str(told.value)
    assert "give another TABLE, or --replace to embed all its rows anew" in str(told.value)
    assert n_rows(table) == 6
    np.testing.assert_array_equal(held(table).values, first.values)
    fill(tmp_path, "other", MORE, Moved(dim=16))


def test_replace_brings_its_own(tmp_path):
    table = fill(tmp_path, "t", ROWS)
    fill(tmp_path, "t", ROWS, Moved(dim=16), replace=True)
    fill(tmp_path, "t", MORE, Moved(dim=16))
    with pytest.raises(OtherVectors):
        fill(tmp_path, "t", [*MORE, {"key": "x", "text": "x"}])
    fill(tmp_path, "t", MORE, HashModel(dim=8, space="of less"), replace=True)  # rebuilt
    assert held(table).values.shape == (3, 8)


def test_a_replace_that_did_not_end_leaves_the_old_one(tmp_path, monkeypatch):
    table = fill(tmp_path, "t", ROWS)
    first = held(table)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.sync.commits.Waves.commit", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fill(tmp_path, "t", ROWS, Moved(dim=16), replace=True)
    np.testing.assert_array_equal(held(table).values, first.values)


def test_an_old_table_gets_one_from_the_next_run_that_loads_the_model(tmp_path):
    table = fill(tmp_path, "t", ROWS)
    none = held(table).metadata("none of these rows")
    Table.open(table).describe({"run": "earlier"}, none)
    assert held(table) is None
    fill(tmp_path, "t", ROWS)
    assert held(table) is None
    fill(tmp_path, "t", MORE, Moved(dim=16))
    assert held(table).values.shape == (3, 16)


def test_another_recipe_begins_anew_and_other_words_in_the_fingerprint_do_not(tmp_path):
    table = fill(tmp_path, "t", ROWS)
    first = held(table)
    fill(tmp_path, "t", MORE, HashModel(dim=16, name="renamed"))
    assert Fingerprint.of(Table.open(table).schema).model == "renamed"
    np.testing.assert_array_equal(held(table).values, first.values)
    with pytest.raises(OtherVectors, match="renamed gives other vectors"):
        fill(tmp_path, "t", [*MORE, {"key": "x", "text": "x"}], Moved(dim=16, name="renamed"))
    fill(tmp_path, "t", MORE, Moved(dim=16, recipe="hash-2"))
    assert held(table) is None
    assert Canary.of_table(Table.open(table).schema, "hash-2") is not None
