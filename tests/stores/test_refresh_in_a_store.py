"""A corpus whose tables lie in an object store: refreshed, given another model, and looked at."""

import pytest

from jobs import doctor
from schemas.delta.store import Table
from tests.stores.s3_server import running_s3
from tests.support.corpora import declare, model_file, states
from tests.support.corpora import refresh as run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


def test_a_refresh_and_another_model_with_tables_in_a_store(tmp_path):
    with running_s3() as bucket:
        storage = "\n".join(f"{name} = {value!r}" for name, value in bucket.options.items())
        place = bucket.uri("tables")
        settings = f'tables = "{place}"\nkeep_days = 30\n[storage]\n{storage}\n'
        path = declare(tmp_path, '[neighbours.near]\nbase = "articles"\nk = 3\n', settings)
        found = doctor.run(doctor.DoctorConfig(str(path)))
        assert {one.state for one in found} == {"ok"}, found
        assert states(run(path)) == {"embed articles": "done", "neighbours near": "done"}
        assert set(states(run(path)).values()) == {"current"}
        model_file(tmp_path / "words.txt", seed=1, dim=6)
        first = run(path).steps[0]
        assert (first.state, first.changed) == ("done", 40)
        assert set(states(run(path)).values()) == {"current"}
        held = Table.open(f"{place}/articles", bucket.options).read(["embedding"])
        assert {len(vector) for vector in held["embedding"].to_pylist()} == {6}
        assert Table.open(f"{place}/articles.next", bucket.options) is None
        model_file(tmp_path / "words.txt", seed=2, dim=5)  # once more, where one was before
        assert run(path).steps[0].changed == 40
