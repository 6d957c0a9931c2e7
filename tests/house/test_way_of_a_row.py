import pytest

from tests.house.way_of_a_row import way_of_a_row

MOST_FILES = 55  # the aim is 30; `python -m tests.house.way_of_a_row` shows them

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


def test_a_row_passes_few_files_from_the_command_to_the_commit(tmp_path):
    files = list(way_of_a_row(tmp_path))
    assert files[0] == "jobs/embed.py"
    assert {"actors/engine/engine.py", "schemas/delta/store.py"} < set(files)  # also of threads
    assert len(files) <= MOST_FILES, "a new file is on the way of every row: is it needed there?"
