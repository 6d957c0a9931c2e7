import json
import os

import pytest

from jobs import doctor, init
from jobs.cli import main
from tests.support.corpora import declare, model_file, table, write_rows
from tests.support.corpora import refresh as run_refresh

pytestmark = pytest.mark.usefixtures("few_rows_here")


def look(path):
    return doctor.run(doctor.DoctorConfig(str(path)))


def wrong(found):
    return [f"{one.what}: {one.told}" for one in found if one.state == doctor.WRONG]


def test_init_writes_a_file_once_and_says_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert "embatch doctor corpus.toml" in capsys.readouterr().out
    text = (tmp_path / "corpus.toml").read_text()
    assert text == init.EXAMPLE.read_text()
    (tmp_path / "corpus.toml").write_text("mine")
    assert main(["init"]) == 1
    assert "corpus.toml is there already, and stays as it is." in capsys.readouterr().err
    assert (tmp_path / "corpus.toml").read_text() == "mine"


def test_a_corpus_that_is_well_is_said_to_be_and_nothing_is_left_behind(tmp_path, capsys):
    path = declare(tmp_path, '[neighbours.near]\nbase = "articles"\n')
    before = sorted(tmp_path.rglob("*"))
    assert main(["doctor", str(path)]) == 0
    out = capsys.readouterr().out
    assert "ok       embed articles: articles.jsonl: 1 pieces, 0.0 MB of texts" in out
    assert "words.txt: 8 dimensions" in out
    assert "ok       embed articles: a new table" in out
    assert sorted(tmp_path.rglob("*")) == before
    run_refresh(path)
    assert main(["doctor", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {
        "state": "ok",
        "what": "embed articles",
        "told": "a table of 40 rows, version 3",
    } in told


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    path = declare(
        tmp_path,
        """
        [embed.second]
        source = "gone"
        model = "words.txt"
        [embed.third]
        source = "articles.jsonl"
        model = "unknown-model"
        [neighbours.near]
        base = "nowhere"
        [evaluate.e]
        table = "articles"
        qrels = "qrels.tsv"
        [all]
        device = "cuda"
        """,
    )
    found = wrong(look(path))
    assert [one.split(": ")[0] for one in found] == [
        "embed second",
        "embed third",
        "neighbours near",
        "evaluate e",
        "machine",
    ]
    assert "gone" in found[0]
    assert "Unknown model 'unknown-model'" in found[1]
    assert found[2].endswith("there is no table at nowhere, and no section makes it")
    assert found[3].endswith("qrels: there is no file qrels.tsv")
    assert found[4].endswith('device = "cuda", and there is no GPU')
    assert main(["doctor", str(path)]) == 1


def test_files_that_will_not_be_read_are_foretold(tmp_path):
    path = declare(tmp_path, '[embed.notes]\nsource = "notes"\nmodel = "words.txt"\n')
    (tmp_path / "notes").mkdir()
    for name in ("a/f-2024-03-01/18-30.txt", "_a.md", "b.heic", "c.heic", "d.svg"):
        (tmp_path / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "notes" / name).write_text("sea")
    found = [(one.state, one.told) for one in look(path) if one.what == "embed notes"]
    assert (doctor.OK, "3  files left out: 2 .heic, 1 .svg") in found
    assert [state for state, told in found if "like fetches of news feeds" in told] == ["warning"]


def test_another_model_is_foretold(tmp_path):
    path = declare(tmp_path)
    run_refresh(path)
    model_file(tmp_path / "words.txt", seed=1)
    told = [one.told for one in look(path) if one.state == doctor.WARNING]
    assert told == ["40 rows of words.txt will be embedded anew beside the table"]
    assert table(tmp_path, "articles").version == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_in(tmp_path):
    path = declare(tmp_path, settings='tables = "locked/tables"')
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "nobody may write in " in wrong(look(path))[0]


def test_tables_in_a_place_that_is_a_file(tmp_path):
    path = declare(tmp_path, settings='tables = "articles.jsonl"')
    found = wrong(look(path))
    assert any("articles.jsonl" in one and "nobody may write" in one for one in found), found


def test_no_cluster_answers(tmp_path):
    path = declare(tmp_path, settings="")
    path.write_text(path.read_text() + '\naddress = "127.0.0.1:1"\n')
    found = wrong(look(path))
    assert len(found) == 1
    assert "No Ray cluster answers at 127.0.0.1:1 ([Errno 111] Connection refused)." in found[0]


def test_a_file_that_is_wrong_is_wrong_usage(tmp_path, capsys):
    path = tmp_path / "corpus.toml"
    assert main(["doctor", str(path)]) == 1
    err = capsys.readouterr().err
    assert err == f"embatch: There is no file {path}. `embatch init` writes one to begin with.\n"
    write_rows(tmp_path, [])
    path.write_text("[embed.a]\nsource = 1\nmodel = 'm'")
    assert main(["doctor", str(path)]) == 2
    assert "[embed.a]: source: Input should be a valid string (it is 1)." in capsys.readouterr().err
