import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.worker import canary
from actors.worker.exchange import DUE_FIELDS, ITEM_FIELDS, REPORT
from actors.worker.window import EmbedWindow, Target
from schemas.canary import Canary
from schemas.delta.places import filesystem
from schemas.plan import EMBED
from schemas.tables.embeddings import Fingerprint, table_schema
from schemas.vectors import vectors_of
from tests.support.hash_model import HashEncoder, HashModel, vector_of

FIELDS = (*DUE_FIELDS, *ITEM_FIELDS["text"])
SCHEMA = table_schema([], Fingerprint("hash", 8, "hash", "hash-1"))


@dataclass(frozen=True)
class Counted(HashModel):
    """Notes its loads."""

    loads: list = field(default_factory=list)

    def load(self, device="cpu", threads=None, precision="fp32"):
        time.sleep(0.05)
        self.loads.append((device, threads, precision))
        return super().load(device, threads, precision)


class Blurred(HashModel):
    """In any precision but fp32 a vector is another text's."""

    def load(self, device="cpu", threads=None, precision="fp32"):
        encoder = super().load(device, threads, precision)
        if precision != "fp32":
            encoder.forward = lambda ids: HashEncoder.forward(encoder, [row[::-1] for row in ids])
            encoder.setup = type(encoder.setup)(precision=precision)
        return encoder


@pytest.fixture
def target(tmp_path):
    return Target(str(tmp_path), SCHEMA, run="r1")


def due(texts, groups=None, reasons=None):
    """A window of due rows, as `jobs.sync.scan.read_due` makes it."""
    n = len(texts)
    values = {
        "id": [str(row) for row in range(n)],
        "content_hash": [bytes([row]) * 16 for row in range(n)],
        "row_hash": list(range(n)),
        "due:source_file": ["a.parquet"] * n,
        "due:position": list(range(n)),
        "text": texts,
        "due:action": [EMBED] * n,
        "due:at": [10 + row for row in range(n)],
        "due:group": groups or [0] * n,
        "due:id": [7] * n,
        "due:stage": ["read" if reason else None for reason in reasons or [None] * n],
        "due:reason": reasons or [None] * n,
    }
    arrays = [pa.array(values.get(f.name, [None] * n), f.type) for f in FIELDS]
    return pa.table(arrays, schema=pa.schema(FIELDS))


def written(target, name):
    with filesystem(target.uri, target.options).open_input_file(name) as source:
        return pq.read_table(source)


def test_a_window_reports_what_it_took(target):
    texts = ["ab c", "", "grün"]  # a byte is a token
    report = EmbedWindow(HashModel(), target)(due(texts))
    assert report.schema == REPORT
    (row,) = report.to_pylist()
    assert row.pop("busy_seconds") > 0
    table = written(target, row.pop("name"))
    assert row.pop("size_bytes") > 0
    assert row.pop("seconds") > 0
    fixed = Canary.of_text(row.pop("canary"))
    np.testing.assert_array_equal(fixed.values, [vector_of(text) for text in canary.texts()])
    assert row == {
        **{"group": 0, "n_rows": 3, "n_due": 3, "n_tokens": 9, "n_truncated": 0, "n_unknown": 0},
        **{"n_computed": 9, "precision": "fp32"},
        **{"token_budget": 4096, "remarks": [], "failures": []},
    }
    np.testing.assert_array_equal(vectors_of(table["embedding"]), [vector_of(t) for t in texts])
    assert table.schema == SCHEMA
    assert table["text"].to_pylist() == texts


def test_a_windows_work_is_shared_out_among_its_groups(target):
    texts = ["a" * n for n in range(1, 9)]
    window = EmbedWindow(HashModel(), target, token_budget=7)
    report = window(due(texts, groups=[0, 3, 0, 0, 3, 0, 0, 0]))
    assert report["group"].to_pylist() == [0, 3]
    assert report["n_due"].to_pylist() == report["n_rows"].to_pylist() == [6, 2]
    assert report["n_tokens"].to_pylist() == [1 + 3 + 4 + 6 + 7 + 8, 2 + 5]
    assert report["n_computed"].to_pylist() == [27, 9]
    assert report["token_budget"].to_pylist() == [7, 7]
    for row in report.to_pylist():
        assert written(target, row["name"]).num_rows == row["n_rows"]


def test_windows_at_once_load_the_model_once(target):
    model = Counted(seconds_a_row=0.001)
    window = EmbedWindow(model, target, threads=2)
    tables = [due([f"{n} {letter}" for n in range(20)]) for letter in "abcd"]
    with ThreadPoolExecutor(4) as callers:
        reports = list(callers.map(window, tables))
    assert model.loads == [("cpu", 2, "fp32")]
    for table, report in zip(tables, reports, strict=True):
        got = written(target, report["name"][0].as_py())
        assert got["text"].to_pylist() == table["text"].to_pylist()
        expected = [vector_of(text) for text in table["text"].to_pylist()]
        np.testing.assert_array_equal(vectors_of(got["embedding"]), expected)


def test_rows_that_failed_before_need_no_model(target):
    model = Counted()
    report = EmbedWindow(model, target)(due(["a", "b"], reasons=["gone", "changed"]))
    assert model.loads == []
    (row,) = report.to_pylist()
    nothing = ("name", "size_bytes", "precision", "token_budget", "canary")
    assert [row[column] for column in nothing] == [None] * 5
    counts = ("n_rows", "n_tokens", "n_computed", "busy_seconds")
    assert [row[column] for column in counts] == [0] * 4
    assert (row["n_due"], row["remarks"]) == (2, [])
    assert row["failures"][1] == {
        **{"id": "1", "content_hash": "01" * 16, "source_file": "a.parquet", "position": 1},
        **{"stage": "read", "reason": "changed", "at": 11, "planned_id": 7},
    }


def test_a_row_that_cannot_be_embedded_is_reported_and_the_others_are_written(target):
    window = EmbedWindow(HashModel(poison="poison"), target)
    (row,) = window(due(["fine", "poison", "lost"], reasons=[None, None, "gone"])).to_pylist()
    assert (row["n_due"], row["n_rows"], row["n_computed"]) == (3, 1, 4)
    assert [(f["id"], f["stage"], f["reason"], f["at"]) for f in row["failures"]] == [
        ("1", "embed", "RuntimeError: cannot embed 'poison'", 11),
        ("2", "read", "gone", 12),
    ]
    assert written(target, row["name"])["text"].to_pylist() == ["fine"]


def test_a_precision_that_moves_vectors_is_remarked_in_every_report(target):
    window = EmbedWindow(Blurred(), target, precision="bf16")
    for _ in range(2):
        (row,) = window(due(["ab", "cd"])).to_pylist()
        assert row["precision"] == "fp32"
        assert [remark[:27] for remark in row["remarks"]] == ["bf16 moves vectors of hash "]
        vectors = vectors_of(written(target, row["name"])["embedding"])
        np.testing.assert_array_equal(vectors, [vector_of("ab"), vector_of("cd")])


def test_the_canary_is_in_fp32_and_told_once_a_window(target):
    window = EmbedWindow(Blurred(), target, precision="bf16")
    for _ in range(2):
        first, second = window(due(["ab", "cd"], groups=[0, 1])).to_pylist()
        values = Canary.of_text(first["canary"]).values
        np.testing.assert_array_equal(values, [vector_of(text) for text in canary.texts()])
        assert second["canary"] is None


def test_a_canary_that_cannot_be_had_is_remarked_and_rows_are_embedded(target):
    class NoRoom(HashModel):
        def load(self, device="cpu", threads=None, precision="fp32"):
            encoder = super().load(device, threads, precision)
            encoder.forward = lambda ids: (
                HashEncoder.forward(encoder, ids) if len(ids[0]) < 100 else 1 / 0
            )
            return encoder

    (row,) = EmbedWindow(NoRoom(), target)(due(["ab"])).to_pylist()
    assert (row["n_rows"], row["canary"]) == (1, None)
    assert row["remarks"] == [
        "hash could not embed the fixed texts or images by which its vectors are compared with the"
        " table's: ZeroDivisionError: division by zero"
    ]
