"""Tables of many files, as nightly runs of years leave them: no list is searched once for each file."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.analysis.vectors import changes
from jobs.refreshing.drift import centroid_shift
from schemas.delta import versions
from schemas.delta.fragments import Fragment
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint
from schemas.vectors import vector_column

N_FILES = 15_000
FINGERPRINT = Fingerprint("hash", 2, "space", "recipe")
SCHEMA = pa.schema([pa.field("id", pa.string()), FINGERPRINT.field])
NEW, OLD = "new.parquet", "old.parquet"


class ManyFiles:
    """A table of files without rows, but for one of two."""

    uri, options, schema, version = "table", {}, SCHEMA, 1
    filesystem = handle = None

    def __init__(self, last):
        self._files = [Fragment(f"{number:09}.parquet", 1, 0) for number in range(N_FILES)]
        self._files.append(Fragment(last, 1, 1))
        self._nothing = SCHEMA.empty_table()

    def files(self):
        return self._files

    def read_file(self, name, columns):
        if name not in (NEW, OLD):
            return self._nothing
        vector = np.array([[1, 0] if name == OLD else [0, 1]], np.float32)
        return pa.table([pa.array([name]), vector_column(vector)], schema=SCHEMA)

    def commit(self, note, add, remove):
        self.committed = [file.name for file in add], [file.name for file in remove]


@pytest.fixture
def now(monkeypatch):
    """The newer of two versions; the older one is what is opened."""
    monkeypatch.setattr(Table, "open", lambda *_: ManyFiles(OLD))
    return ManyFiles(NEW)


@pytest.mark.timeout(20)
def test_what_came_and_went_among_many_files_is_found_at_once(now):
    came, went = changes(now, 0, 2)
    assert (came.to_pylist(), went.to_pylist()) == ([NEW], [OLD])
    assert centroid_shift(now, 0) == pytest.approx(2**0.5)


@pytest.mark.timeout(20)
def test_a_version_of_many_files_comes_back_at_once(now, monkeypatch):
    class AllThere:
        def get_file_info(self, name):
            return self

        type = versions.pafs.FileType.File

    now.filesystem = AllThere()
    versions.restore(now, {}, 0)
    assert now.committed == ([OLD], [NEW])


@pytest.mark.timeout(20)
def test_many_files_that_vacuum_took_are_named_at_once():
    names = [f"part={number % 7}/{number:09}.parquet" for number in range(N_FILES)]
    gone = [f"s3://bucket/table/{name}" for name in names[::2]] + ["longer-000000001.parquet"]
    assert versions.match_names(names, gone) == names[::2]
