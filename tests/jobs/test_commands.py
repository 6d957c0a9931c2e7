import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
import typing

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro
from deltalake import DeltaTable

from jobs import cli
from jobs.embed import run
from jobs.sync.config import EmbedConfig
from tests.support.hash_model import HashModel, vector_of

TABLE_COMMANDS = ("status", "runs", "failures", "export", "delete", "restore", "vacuum")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory, few_rows_here):
    """Two tables: 20 articles, one of which failed, after two runs; and passages of 3 documents."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [{"id": f"a{n:02}", "text": f"article {n}", "label": "x"} for n in range(21)]
    rows[20]["text"] = "bad"
    model = HashModel(poison="bad")
    for n in (15, 21):
        source = jsonl(folder / "articles.jsonl", rows[:n])
        articles = str(folder / "articles")
        run(EmbedConfig(source, articles, "hash", id_column="id", max_failures=1), model)
    rows = [{"id": f"d{n}", "text": "one two three four five six"} for n in range(3)]
    source = jsonl(folder / "documents.jsonl", rows)
    passages = str(folder / "passages")
    run(EmbedConfig(source, passages, "hash", id_column="id", chunk_tokens=2), model)
    return folder


@pytest.fixture
def articles(made, tmp_path):
    for name in ("articles", "articles.failures"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "articles"


@pytest.fixture
def passages(made, tmp_path):
    shutil.copytree(made / "passages", tmp_path / "passages")
    return tmp_path / "passages"


@pytest.fixture
def embatch(capfd):
    """The command line in this process: exit code, stdout, stderr."""

    def call(*arguments):
        capfd.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call


@pytest.fixture
def answer(embatch):
    """What a command that succeeds says with --json: one line on stdout, nothing else there."""

    def call(*arguments):
        code, out, err = embatch(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return call


def ids_of(table):
    return sorted(DeltaTable(table).to_pyarrow_table()["id"].to_pylist())


def write_ids(folder, *ids):
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    return folder / "ids.txt"


def bytes_in(folder, text):
    """Whether any data file of a folder holds a text in one of its rows."""
    files = folder.glob("*.parquet")
    return any(text in pq.read_table(file, columns=["text"])["text"].to_pylist() for file in files)


# -- the command line ---------------------------------------------------------------------------


def test_help_lists_every_command_and_every_command_explains_its_options(embatch):
    code, out, _ = embatch("--help")
    assert code == 0
    for name, meaning in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert meaning in out
        code, text, _ = embatch(name, "--help")
        module = importlib.import_module(f"jobs.{name.replace('-', '_')}")
        config = next(
            value
            for title, value in vars(module).items()
            if title.lower() == f"{name.replace('-', '')}config"
        )
        assert code == 0
        assert f"embatch {name}" in text
        hints = typing.get_type_hints(config, include_extras=True)
        for field in dataclasses.fields(config):
            if tyro.conf.Positional in getattr(hints[field.name], "__metadata__", ()):
                continue
            option = field.name.rstrip("_").replace("_", "-")
            assert f"--{option}" in text, (name, field.name)
        without = ("models", "inspect", "finetune", "refresh", "init", "doctor")
        assert ("TABLE" in text) == (name not in without)


def test_no_command_and_an_unknown_one_are_wrong_usage(embatch):
    code, out, _ = embatch()
    assert (code, "usage: embatch COMMAND" in out) == (2, True)
    code, out, err = embatch("emebd", "a", "b")
    assert (code, out) == (2, "")
    assert err == (
        f"embatch: unknown command 'emebd'. Known: {', '.join(cli.COMMANDS)}. Did you mean 'embed'?\n"
    )


@pytest.mark.parametrize("name", TABLE_COMMANDS)
def test_a_command_without_its_table_is_one_message(embatch, tmp_path, name):
    needed = {"delete": ["--ids", write_ids(tmp_path, "a")], "restore": ["--version", "0"]}
    code, out, err = embatch(name, tmp_path / "none", *needed.get(name, []))
    assert (code, out) == (1, "")
    assert err.startswith(f"embatch: There is no table at {tmp_path}/none. `embatch embed SOURCE")
    assert not (tmp_path / "none").exists()


def test_a_place_that_delta_reads_as_another_is_refused_by_what_makes_tables(
    embatch, articles, tmp_path
):
    before = sorted(tmp_path.rglob("*"))
    corpus = tmp_path / "corpus.toml"
    corpus.write_text('tables = "a%20b"\n[embed.rows]\nsource = "rows.jsonl"\nmodel = "hash"\n')
    out = tmp_path / "a%20b"
    for made in (
        ["neighbours", articles, out],
        ["project", articles, out],
        ["status", out],
        ["refresh", corpus],
    ):
        code, _, err = embatch(*made)
        assert (code, "'%20'" in err) == (1, True), err
    corpus.unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_module_is_the_same_command_with_one_line_of_json_last_on_stdout(articles, tmp_path):
    said = []
    for start in (["-m", "jobs.cli", "status"], ["-m", "jobs.status"]):
        done = subprocess.run(
            [sys.executable, *start, str(articles), "--json"], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
    assert said[0] == said[1]
    assert json.loads(said[0])["rows"] == 20
    done = subprocess.run(
        [sys.executable, "-m", "jobs.restore", str(articles)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--version is missing" in " ".join(done.stderr.split())


def test_embed_says_everything_but_its_summary_on_stderr(embatch, made, articles, monkeypatch):
    from functools import partial

    from jobs import embed

    monkeypatch.setattr(embed, "run", partial(run, model=HashModel(poison="bad")))
    source = made / "articles.jsonl"
    arguments = ("embed", source, articles, "--model", "hash", "--id-column", "id")
    code, out, err = embatch(*arguments, "--json")
    assert (code, out.count("\n")) == (0, 1)
    summary = json.loads(out)
    assert {
        name: summary[name]
        for name in "rows_read unchanged embedded replaced updated duplicates failed deleted".split()
    } == {
        "rows_read": 21,
        "unchanged": 20,
        "embedded": 0,
        "replaced": 0,
        "updated": 0,
        "duplicates": 0,
        "failed": 1,
        "deleted": 0,
    }
    assert summary["table_version"] == DeltaTable(articles).version()
    assert {"seconds", "rows_per_second"} <= summary.keys()
    code, out, err = embatch(*arguments)
    assert code == 0
    assert f"{articles} is at version {DeltaTable(articles).version()}" in out + err


# -- looking -------------------------------------------------------------------------------------


def test_models_lists_what_is_known(embatch, answer):
    from actors.models import MODELS

    listed = {model["name"]: model for model in answer("models")}
    assert list(listed) == list(MODELS)
    assert listed["all-MiniLM-L6-v2"]["dim"] == 384
    _, out, _ = embatch("models")
    assert all(name in out for name in MODELS)


def test_status_tells_rows_model_failures_and_runs(embatch, answer, articles):
    status = answer("status", articles)
    assert (status["rows"], status["model"], status["dim"]) == (20, "hash", 8)
    assert status["version"] == DeltaTable(articles).version()
    assert status["failures"] == {"RuntimeError: cannot embed 'bad'": 1}
    last, first = status["runs"]
    assert (first["state"], first["rows_read"], first["embedded"]) == ("done", 15, 15)
    assert (last["unchanged"], last["embedded"], last["failed"]) == (15, 5, 1)
    _, out, _ = embatch("status", articles)
    assert "rows      20\n" in out
    assert "cannot embed 'bad'" in out


def test_runs_are_listed_newest_first(embatch, answer, articles, tmp_path):
    last, first = answer("runs", articles)
    assert (first["command"], first["embedded"], last["embedded"]) == ("embed", 15, 5)
    assert last["version"] > first["version"]
    assert answer("runs", articles, "--limit", "1") == [last]
    _, out, _ = embatch("runs", articles)
    assert "rows read 21, unchanged 15, embedded 5, failed 1" in out.splitlines()[0]
    code, _, err = embatch("runs", articles, "--limit", "0")
    assert (code, "--limit is 0" in err) == (2, True)


def test_failures_names_row_place_and_reason(embatch, answer, articles, passages):
    (failure,) = answer("failures", articles)
    del failure["content_hash"], failure["run"], failure["failed_at"], failure["source"]
    assert failure == {
        "id": "a20",
        "recipe": "hash-1",
        "source_file": "articles.jsonl",
        "position": 20,
        "stage": "embed",
        "reason": "RuntimeError: cannot embed 'bad'",
    }
    _, out, _ = embatch("failures", articles)
    assert "a20  articles.jsonl row 20  RuntimeError: cannot embed 'bad'" in out
    assert answer("failures", passages) == []
    assert embatch("failures", passages)[1].startswith("No failures")


# -- export --------------------------------------------------------------------------------------


def test_an_export_opens_in_pandas_pyarrow_and_datasets_with_vectors_of_fixed_size(
    answer, articles, tmp_path
):
    file = tmp_path / "out.parquet"
    summary = answer("export", articles, file)
    assert (summary["rows"], summary["size_bytes"]) == (20, file.stat().st_size)
    table = pq.read_table(file)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert not {"content_hash", "row_hash"} & set(table.column_names)
    frame = pd.read_parquet(file)
    assert np.stack(frame["embedding"]).shape == (20, 8)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["embedding"].length == 8
    assert loaded.num_rows == 20
    for row in loaded:
        np.testing.assert_allclose(row["embedding"], vector_of(row["text"]), atol=1e-6)


def test_an_export_that_fails_leaves_no_partial_file(embatch, articles, tmp_path):
    code, out, err = embatch("export", articles, tmp_path / "none" / "out.parquet")
    assert (code, out) == (1, "")
    assert "out.parquet" in err
    file = tmp_path / "out.parquet"
    file.write_text("what was there before")
    (articles / DeltaTable(articles).file_uris()[-1].rpartition("/")[2]).unlink()
    code, out, err = embatch("export", articles, file)
    assert (code, out) == (1, "")
    assert file.read_text() == "what was there before"
    assert [path.name for path in tmp_path.glob("out.parquet*")] == ["out.parquet"]


# -- delete, restore, vacuum ---------------------------------------------------------------------


def test_delete_takes_rows_and_failures_and_vacuum_takes_their_bytes(answer, articles, tmp_path):
    ids = write_ids(tmp_path, "a03", "a17", "a20", "nobody", "")
    summary = answer("delete", articles, "--ids", ids)
    version = summary.pop("table_version")
    counts = {"deleted": 2, "failures_deleted": 1, "unknown": 1}
    assert summary == {**counts, "unknown_ids": ["nobody"]}
    assert ids_of(articles) == [f"a{n:02}" for n in range(20) if n not in (3, 17)]
    assert len(DeltaTable(articles, version=version).to_pyarrow_table()) == 18
    assert answer("failures", articles) == []
    assert bytes_in(articles, "article 3")

    listed = answer("vacuum", articles, "--hours", "0", "--dry-run")
    assert listed["dry_run"]
    assert bytes_in(articles, "article 3")
    assert answer("vacuum", articles, "--hours", "1.5")["files"] == []
    gone = answer("vacuum", articles, "--hours", "0")
    assert (gone["files"], gone["dry_run"]) == (listed["files"], False)
    assert not bytes_in(articles, "article 3")
    assert not bytes_in(articles, "article 17")
    assert bytes_in(articles, "article 4")
    assert len(ids_of(articles)) == 18
    assert answer("delete", articles, "--ids", ids)["unknown"] == 4


def test_part_of_an_hour_is_not_no_time_to_vacuum(answer, articles, tmp_path):
    answer("delete", articles, "--ids", write_ids(tmp_path, "a03"))
    assert answer("vacuum", articles, "--hours", "0.5", "--dry-run")["files"] == []


def test_vacuum_takes_the_text_of_deleted_failures_too(answer, articles, tmp_path):
    folder = articles.parent / "articles.failures"
    answer("delete", articles, "--ids", write_ids(tmp_path, "a20"))
    answer("vacuum", articles, "--hours", "0")
    ids = [pq.read_table(file)["id"].to_pylist() for file in folder.glob("*.parquet")]
    assert ["a20"] not in ids


RARE_IDS = [
    *("with\u2028separator", "x\x85y", "x\x0by", "x\x1cy", "x\u00a0y", "\x1c"),
    *(" lead", "trail ", "  ", "\ttab", "cr\rcr", "\ufeffmark", "\u00e9", "e\u0301"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delete_takes_ids_as_they_stand(embatch, few_rows_here, tmp_path, end):
    ids = [*RARE_IDS, "lead", "trail", "tab", "cr", "x", "y", "separator"]
    rows = [{"id": name, "text": f"story {n}"} for n, name in enumerate([*ids, "two\nlines"])]
    source, table = jsonl(tmp_path / "rows.jsonl", rows), str(tmp_path / "t")
    run(EmbedConfig(source, table, "hash", id_column="id"), HashModel())
    asked = ["unknown\u2028one", *RARE_IDS, "", "unknown two "]
    (tmp_path / "ids.txt").write_bytes(
        "".join(f"{name}{end}" for name in asked).encode("utf-8-sig")
    )
    code, out, err = embatch("delete", table, "--ids", tmp_path / "ids.txt", "--json")
    said = json.loads(out)
    assert (code, said["deleted"], said["unknown"]) == (0, len(RARE_IDS), 2)
    assert said["unknown_ids"] == ["unknown two ", "unknown\u2028one"]
    assert r"2 of 16 ids were neither in" in err
    assert r"'unknown two ', 'unknown\u2028one'" in err
    assert ids_of(table) == sorted(
        ["lead", "trail", "tab", "cr", "x", "y", "separator", "two\nlines"]
    )
    jsonl(tmp_path / "ids.jsonl", ["two\nlines", "x"])
    code, out, err = embatch("delete", table, "--ids", tmp_path / "ids.jsonl")
    assert (code, err) == (0, "")
    assert "2 rows and 0 failures deleted, 0 ids unknown" in out
    assert ids_of(table) == sorted(["lead", "trail", "tab", "cr", "y", "separator"])


def test_delete_run_twice_is_done_and_names_a_few_of_many_unknown_ids(embatch, articles, tmp_path):
    ids = write_ids(tmp_path, "a03", *(f"nobody {n:02}" for n in range(30)))
    for unknown in (30, 31):
        code, out, err = embatch("delete", articles, "--ids", ids)
        assert code == 0
        assert f"{unknown} ids unknown" in out
        assert f"{unknown} of 31 ids were neither in" in err
        assert ("nobody 08" in err, "nobody 10" in err, err.endswith(", …\n")) == (
            True,
            False,
            True,
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", "a03\n".encode("utf-16"), "ids.txt is not UTF-8: byte 0"),
        ("ids.jsonl", b'"a03"\na17\n', "ids.jsonl, line 2: expected a JSON string"),
        ("ids.jsonl", b"17\n", "ids.jsonl, line 1: expected a JSON string"),
    ],
)
def test_delete_refuses_ids_that_it_cannot_read(
    embatch, articles, tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    code, _, err = embatch("delete", articles, "--ids", tmp_path / name)
    assert code == 1
    assert message in err
    assert len(ids_of(articles)) == 20


def test_delete_takes_a_document_with_all_its_passages(answer, passages, tmp_path):
    assert len(ids_of(passages)) == 9
    summary = answer("delete", passages, "--ids", write_ids(tmp_path, "d1", "d2#0"))
    assert (summary["deleted"], summary["unknown"]) == (4, 0)
    assert ids_of(passages) == ["d0#0", "d0#1", "d0#2", "d2#1", "d2#2"]


def test_delete_without_ids_or_with_a_file_that_is_not_there_is_one_message(embatch, articles):
    code, _, err = embatch("delete", articles)
    assert (code, "--ids is missing" in " ".join(err.split())) == (2, True)
    code, out, err = embatch("delete", articles, "--ids", "none.txt")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "none.txt" in err
    assert len(ids_of(articles)) == 20


def test_restore_brings_an_older_version_back_unless_vacuum_took_it(
    embatch, answer, articles, tmp_path
):
    version = DeltaTable(articles).version()
    answer("delete", articles, "--ids", write_ids(tmp_path, "a03", "a17"))
    summary = answer("restore", articles, "--version", version)
    assert (summary["restored"], summary["rows"]) == (version, 20)
    assert len(ids_of(articles)) == 20
    code, _, err = embatch("restore", articles, "--version", "999")
    assert (code, "999" in err) == (1, True)

    answer("delete", articles, "--ids", write_ids(tmp_path, "a03"))
    answer("vacuum", articles, "--hours", "0")
    code, _, err = embatch("restore", articles, "--version", version)
    assert code == 1
    assert f"Version {version} of {articles} cannot come back: vacuum took" in err
    assert len(ids_of(articles)) == 19
