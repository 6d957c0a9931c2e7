import pickle
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings

from sources import Piece, Source, SourceOptions, open_source
from sources.rows import FAILURE_SCHEMA, IMAGE, MAX_ROWS, PREPARED_FIELDS, number_files

settings.register_profile("no deadline", deadline=None)  # machines are shared
settings.load_profile("no deadline")


@dataclass
class Read:
    """All that a source gave, rows and failures as dicts."""

    source: Source
    pieces: list[Piece]
    rows: list[dict]
    failures: list[dict]
    tables: list[pa.Table]
    left_out: Counter[str] = field(default_factory=Counter)

    def texts(self) -> list[str]:
        return [row["text"] for row in self.rows]

    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows]

    def reasons(self) -> list[tuple[int, str, str]]:
        return [(f["position"], f["stage"], f["reason"]) for f in self.failures]


def read_source(path: Path | str, **options: object) -> Read:
    """Read everything twice, the second time as a worker would, and check what always holds."""
    source = open_source(SourceOptions(str(path), **options))
    pieces = source.pieces()
    assert pieces == source.pieces()
    sent = pickle.dumps(source)
    assert len(sent) < 4000
    first, second = (_read(s, pieces) for s in (source, pickle.loads(sent)))
    assert repr(first.rows) == repr(second.rows)  # NaN is not NaN
    assert first.failures == second.failures
    return first


def _read(source: Source, pieces: list[Piece]) -> Read:
    result = Read(source, pieces, [], [], [])
    addresses = []
    for piece in number_files(pieces):
        for table, failures, left_out in source.read(piece):
            result.left_out.update(left_out)
            assert failures.schema == FAILURE_SCHEMA
            item = PREPARED_FIELDS[-1]
            if source.options.modality == "image":
                item = pa.field("image", IMAGE)
            if len(table):
                assert list(table.schema)[: len(PREPARED_FIELDS)] == [*PREPARED_FIELDS[:-1], item]
            assert len(table) <= MAX_ROWS
            result.tables.append(table)
            result.rows += table.to_pylist()
            result.failures += failures.to_pylist()
            files = [piece.files[number] for number in table["piece_file"].to_pylist()]
            addresses += zip(files, table["position"].to_pylist(), strict=True)
            read = [f for f in failures.to_pylist() if f["stage"] == "read"]
            addresses += [(f["source_file"], f["position"]) for f in read]
    assert len(set(addresses)) == len(addresses), "an address is one row"
    return result


@pytest.fixture
def read():
    return read_source
