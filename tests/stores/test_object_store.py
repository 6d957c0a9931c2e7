"""Tables and sources in an object store: an S3 on this machine, which may be slow, full of holes or not ours."""

import io
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.images.pixels import Preprocess
from jobs.cli import main
from jobs.embed import run
from jobs.runtime.command import TableOptions, user_errors
from jobs.sync.config import EmbedConfig
from jobs.sync.errors import SyncError
from schemas.delta.claim import TableBusy
from schemas.delta.store import Refused, StoreError, Table
from schemas.vectors import vectors_of
from sources import SourceError, SourceOptions, open_source
from tests.stores.s3_server import COMMITS, KEY, SECRET, running_s3
from tests.support.hash_model import HashModel, vector_of
from tests.support.pictures import file_of, noise

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]
IDS = pa.schema([("id", pa.string())])
PIXELS = Preprocess((8, 8), (8, 8), 3, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TROUBLE = ["slow down", "cut upload", "cut answer", "lose answer"]
PLACES = itertools.count()


@pytest.fixture(scope="module")
def bucket():
    with running_s3() as bucket:
        yield bucket


@pytest.fixture
def here():
    """A prefix of the bucket that no other test has."""
    return f"test-{next(PLACES)}"


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def texts(n, word="text"):
    return [{"key": f"k{i:03}", "text": f"{word} {i}", "label": "ab"[i % 2]} for i in range(n)]


def embed(bucket, source, table, model=None, *, runs=None, **options):
    options = {"id_column": "key"} | options
    config = EmbedConfig(str(source), str(table), "hash", storage_option=bucket.pairs, **options)
    return run(config, model or HashModel(), **(runs or {}))


def held(bucket, uri):
    """Texts by id; every vector is that of its text, and no id comes twice."""
    rows = Table.open(uri, bucket.options).read()
    ids, found = rows["id"].to_pylist(), rows["text"].to_pylist()
    assert len(set(ids)) == len(ids)
    for text, vector in zip(found, vectors_of(rows["embedding"]), strict=True):
        np.testing.assert_allclose(vector, vector_of(text), atol=1e-6)
    return dict(zip(ids, found, strict=True))


def failed(bucket, uri):
    table = Table.open(f"{uri}.failures", bucket.options)
    return sorted(table.read(["stage", "reason"]).to_pylist(), key=str) if table else []


# -- a table follows its source --------------------------------------------------------------


def as_jsonl(rows):
    return {"rows.jsonl": lines(rows)}


def as_parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=4)
    return {"rows.parquet": sink.getvalue()}


def as_texts(rows):
    return {f"{row['key']}.txt": row["text"].encode() for row in rows}


def as_images(rows):
    picture = {row["text"]: file_of(Image.fromarray(noise(9, 9))) for row in rows}
    return {f"{row['label']}/{row['key']}.png": picture[row["text"]] for row in rows}


@pytest.mark.parametrize("form", [as_jsonl, as_parquet, as_texts, as_images])
def test_a_table_on_a_store_follows_a_source_there(bucket, here, form):
    source, table = bucket.uri(f"{here}/source"), bucket.uri(f"{here}/table")
    by_name = form in (as_texts, as_images)
    options = {"id_column": ""} if by_name else {"text_column": "text"}
    model = HashModel(preprocess=PIXELS if form is as_images else None)
    rows = texts(10)
    files = form(rows)
    for name, content in files.items():
        bucket.put(f"{here}/source/{name}", content)
    first = embed(bucket, source, table, model, **options)
    assert (first.rows_read, first.embedded) == (10, 10)
    second = embed(bucket, source, table, model, **options)
    assert (second.unchanged, second.embedded) == (10, 0)
    changed = [rows[0] | {"text": "other"}, *rows[1:9]]
    for name in files:
        bucket.delete(f"{here}/source/{name}")
    for name, content in (form(changed) if form is not as_images else files).items():
        if form is as_images and "k009" in name:
            continue
        if form is as_images and "k000" in name:
            content = file_of(Image.fromarray(noise(9, 9)))
        bucket.put(f"{here}/source/{name}", content)
    third = embed(bucket, source, table, model, prune=True, **options)
    assert (third.unchanged, third.replaced, third.deleted) == (8, 1, 1)
    rows_there = Table.open(table, bucket.options).read()
    assert len(rows_there) == len(set(rows_there["id"].to_pylist())) == 9
    if form is not as_images:
        assert sorted(held(bucket, table).values()) == sorted(row["text"] for row in changed)


@pytest.mark.parametrize("far", ["source", "table"])
def test_a_source_and_a_table_may_lie_in_two_places(bucket, here, tmp_path, far):
    bucket.put(f"{here}/rows.jsonl", lines(texts(5)))
    (tmp_path / "rows.jsonl").write_bytes(lines(texts(5)))
    source = bucket.uri(f"{here}/rows.jsonl") if far == "source" else tmp_path / "rows.jsonl"
    table = bucket.uri(f"{here}/table") if far == "table" else str(tmp_path / "table")
    assert embed(bucket, source, table).embedded == 5
    assert embed(bucket, source, table).unchanged == 5
    assert held(bucket, table) == {row["key"]: row["text"] for row in texts(5)}


def test_what_cannot_be_embedded_is_told_until_it_is_mended(bucket, here, capsys):
    source, table = bucket.uri(f"{here}/source"), bucket.uri(f"{here}/table")
    good = texts(6)
    bucket.put(f"{here}/source/rows.jsonl", lines(good) + b'{"key": "k9", "text": 4')
    bucket.put(f"{here}/source/more.jsonl", lines([{"key": "p", "text": "POISON"}]))
    model = HashModel(poison="POISON")
    summary = embed(bucket, source, table, model, max_failures=1.0)
    assert (summary.embedded, summary.failed) == (6, 2)
    assert [row["stage"] for row in failed(bucket, table)] == ["embed", "read"]
    assert cli(bucket, "failures", table) == 0
    assert "cannot embed 'POISON'" in capsys.readouterr().out
    bucket.put(f"{here}/source/rows.jsonl", lines([*good, {"key": "k9", "text": "4"}]))
    bucket.put(f"{here}/source/more.jsonl", lines([{"key": "p", "text": "honey"}]))
    assert embed(bucket, source, table, model).embedded == 2
    assert failed(bucket, table) == []


ODD = ["a b.txt", "a#b.txt", "50%.txt", "img[1].txt", "~x.txt", "größe.txt", "a+b.txt", "c:d.txt"]


def test_keys_of_a_store_may_hold_what_file_names_do_not(bucket, here):
    for name in [*ODD, "deep/er/x y.txt"]:
        bucket.put(f"{here}/source/{name}", name.encode())
    bucket.put(f"{here}/source/deep/", b"")  # how consoles mark a folder
    for name in ("_temporary/a.txt", ".b.txt"):
        bucket.put(f"{here}/source/{name}", b"hidden")
    table = bucket.uri(f"{here}/table")
    embed(bucket, bucket.uri(f"{here}/source"), table, id_column="")
    assert held(bucket, table) == {name: name for name in [*ODD, "deep/er/x y.txt"]}
    listed = open_source(
        SourceOptions(bucket.uri(f"{here}/source/**/x*.txt"), storage_options=bucket.options)
    )
    assert [piece.files for piece in listed.pieces()] == [("deep/er/x y.txt",)]


def test_a_table_of_a_store_is_the_source_of_another(bucket, here):
    bucket.put(f"{here}/a.jsonl", lines(texts(5)))
    first, second = bucket.uri(f"{here}/first"), bucket.uri(f"{here}/second")
    embed(bucket, bucket.uri(f"{here}/a.jsonl"), first)
    bucket.put(f"{here}/a.jsonl", lines(texts(3)))
    embed(bucket, bucket.uri(f"{here}/a.jsonl"), first, prune=True, force_prune=True)
    for source in (first, f"{first}/*.parquet"):
        embed(bucket, source, second, id_column="")
        assert held(bucket, second) == held(bucket, first)
    assert len(held(bucket, second)) == 3


def test_many_small_files_are_fetched_at_once(bucket, here):
    for i in range(32):
        bucket.put(f"{here}/{i:02}.txt", f"text {i}".encode())
    source = open_source(SourceOptions(bucket.uri(here), storage_options=bucket.options))
    pieces = source.pieces()
    with bucket.disturbed(["late"]):
        started = time.monotonic()
        (rows,) = [rows for piece in pieces for rows, _, _ in source.read(piece)]
        seconds = time.monotonic() - started
        n_asked = len(bucket.seen())
    assert rows["text"].to_pylist() == [f"text {i}" for i in range(32)]
    assert n_asked >= 32
    assert seconds < 0.1 * n_asked / 2


@pytest.mark.slow
def test_a_folder_of_more_keys_than_one_answer_holds(bucket, here):
    with ThreadPoolExecutor(8) as pool:
        keys = [f"{here}/source/{i % 3}/{i:04}.txt" for i in range(1100)]
        list(pool.map(lambda key: bucket.put(key, b"text"), keys))
    place = bucket.uri(f"{here}/source")
    source = open_source(SourceOptions(place, storage_options=bucket.options))
    listed = [f"{here}/source/{name}" for piece in source.pieces() for name in piece.files]
    assert listed == sorted(keys)


# -- commands --------------------------------------------------------------------------------


def cli(bucket, *words):
    return main([*words, *(word for pair in bucket.pairs for word in ("--storage-option", pair))])


@pytest.fixture
def told(bucket, capsys):
    """What a command that succeeds prints."""

    def run_it(*words):
        assert cli(bucket, *words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run_it


def test_commands_work_on_a_table_of_a_store(bucket, here, tmp_path, told):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    bucket.put(f"{here}/rows.jsonl", lines(texts(20)))
    assert embed(bucket, source, table, dry_run=True).embedded == 20
    assert bucket.keys(f"{here}/table") == []
    embed(bucket, source, table)
    (tmp_path / "ids.txt").write_text("k003\nk004\nnobody\n")
    out = tmp_path / "out.parquet"
    assert "rows      20" in told("status", table)
    assert "embedded 20" in told("runs", table)
    assert "No failures" in told("failures", table)
    assert "20 rows" in told("export", table, str(out))
    assert pq.read_table(out).num_rows == 20
    assert "2 rows and 0 failures deleted, 1 ids unknown" in told(
        "delete", table, "--ids", str(tmp_path / "ids.txt")
    )
    assert sorted(held(bucket, table)) == sorted({f"k{i:03}" for i in range(20)} - {"k003", "k004"})
    assert "1 files would go" in told("vacuum", table, "--hours", "0", "--dry-run")
    assert "holds the 20 rows of version 2" in told("restore", table, "--version", "2")
    assert len(held(bucket, table)) == 20
    before = set(bucket.keys(f"{here}/table/"))
    gone = told("vacuum", table, "--hours", "0").splitlines()[:-1]
    assert before - set(bucket.keys(f"{here}/table/")) == {f"{here}/table/{name}" for name in gone}
    assert len(gone) == 1
    assert len(held(bucket, table)) == 20


@pytest.mark.slow
def test_what_is_made_of_a_table_lies_in_the_store_too(bucket, here, tmp_path, told):
    table, near, points = (bucket.uri(f"{here}/{name}") for name in ("table", "near", "map"))
    source = tmp_path / "rows.jsonl"
    page, atlas = tmp_path / "page.html", tmp_path / "atlas.parquet"
    source.write_bytes(lines([*texts(20), {"key": "goal", "text": "The striker scored twice."}]))
    words = ("--model", "all-MiniLM-L6-v2", "--id-column", "key", "--text-column", "text")
    told("embed", str(source), table, *words)
    assert "scored twice" in told("search", table, "football players and goals", "--k", "1")
    for _ in range(2):  # made, and brought up to date
        told("neighbours", table, near, "--k", "3")
        told("project", table, points, "--method", "pca")
        (tmp_path / "ids.txt").write_text("k003\n")
        told("delete", table, "--ids", str(tmp_path / "ids.txt"))
    assert Table.open(near, bucket.options).read().num_rows == 60
    assert Table.open(points, bucket.options).read().num_rows == 20
    told("report", table, points, near, "--out", str(page))
    assert "text 7" in page.read_text()
    told("export", table, str(atlas), "--for", "atlas", "--map", points, "--neighbours", near)
    assert pq.read_table(atlas).num_rows == 20


@pytest.mark.parametrize(
    "words",
    [
        ("export", "s3://b/t", "s3://b/f.parquet"),
        ("report", "s3://b/t", "--out", "s3://b/page.html"),
    ],
)
def test_what_other_programs_open_is_written_on_this_machine(words, capsys):
    with pytest.raises(SystemExit):
        main(list(words))
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert "expected a file of this machine. Copy it on from here." in told


# -- commits ---------------------------------------------------------------------------------


def two_handles(bucket, uri):
    made = Table.create(uri, IDS, {"run": "made"}, bucket.options)
    return made, Table.open(uri, bucket.options)


def outcomes(tables):
    """What came of commits of several handles at once: None, or the error."""

    def commit(table):
        try:
            table.commit({"run": "one of two"})
        except StoreError as error:
            return error
        return None

    with ThreadPoolExecutor(len(tables)) as pool:
        return list(pool.map(commit, tables))


def test_of_two_commits_at_once_the_store_refuses_one(bucket, here):
    uri = bucket.uri(f"{here}/table")
    tables = two_handles(bucket, uri)
    with bucket.disturbed(["meet"], only=COMMITS):
        first, second = sorted(outcomes(tables), key=lambda error: error is not None)
        asked = bucket.seen(COMMITS)
    assert first is None
    assert isinstance(second, Refused)
    assert f"Somebody else wrote version 1 of {uri}" in str(second)
    assert [request["headers"]["HTTP_IF_NONE_MATCH"] for request in asked] == ["*", "*"]
    assert sorted(request["status"] for request in asked) == [200, 412]
    assert Table.open(uri, bucket.options).version == 1


def test_a_commit_whose_answer_is_lost_is_known_for_ones_own(bucket, here):
    uri = bucket.uri(f"{here}/table")
    table, other = two_handles(bucket, uri)
    with bucket.disturbed(["lose answer"], only=COMMITS, times=1):
        table.commit({"run": "mine"})
        assert [request["status"] for request in bucket.seen(COMMITS)] == [200, 412]
    assert table.version == Table.open(uri, bucket.options).version == 1
    with pytest.raises(Refused):
        other.commit({"run": "late"})


def test_a_store_without_conditional_puts_is_found_out(bucket, here):
    tables = two_handles(bucket, bucket.uri(f"{here}/table"))
    told = (
        "Version 1 of .* was written over by somebody else: this object store ignores conditional"
    )
    with bucket.disturbed(["meet, forget condition"], only=COMMITS):
        errors = [error for error in outcomes(tables) if error is not None]
        assert all(re.search(told, str(error)) for error in errors)
        if not errors:  # one looked before the other wrote
            with pytest.raises(StoreError, match=told):  # noqa: PT012
                for table in tables:
                    table.commit({"run": "one more"})


def test_conditional_puts_cannot_be_switched_off(bucket, here):
    uri, options = bucket.uri(f"{here}/table"), bucket.options
    with pytest.raises(StoreError, match="conditional puts are off.*Leave aws_conditional_put out"):
        Table.create(uri, IDS, {"run": "r"}, options | {"aws_conditional_put": "disabled"})
    assert bucket.keys(f"{here}/table") == []


def test_two_runs_on_one_table_lose_and_double_nothing(bucket, here):
    table, runs = bucket.uri(f"{here}/table"), {"claims": False, "wave_seconds": 0.0}
    rows = texts(40)
    for name, part in (("all", rows[:1]), ("one", rows[:25]), ("two", rows[15:])):
        bucket.put(f"{here}/{name}.jsonl", lines(part))
    embed(bucket, bucket.uri(f"{here}/all.jsonl"), table)
    model = HashModel(seconds_a_row=0.01)

    def go(name):
        return embed(bucket, bucket.uri(f"{here}/{name}.jsonl"), table, model, runs=runs)

    with ThreadPoolExecutor(2) as pool, bucket.disturbed(["late"], share=0.3, seed=2):
        both = list(pool.map(go, ["one", "two"]))
    assert sum(summary.replans for summary in both) > 0
    assert held(bucket, table) == {row["key"]: row["text"] for row in rows}


def test_a_run_leaves_a_table_that_another_one_holds(bucket, here):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    bucket.put(f"{here}/rows.jsonl", lines(texts(3)))
    embed(bucket, source, table)
    claim = {"run": "r2", "host": "elsewhere", "pid": 1, "state": "claim", "started": 0}
    Table.open(table, bucket.options).commit(claim)
    with pytest.raises(TableBusy, match="is being written by run r2 on elsewhere"):
        embed(bucket, source, table)


def test_a_table_is_made_neither_among_other_files_nor_in_its_source(bucket, here):
    bucket.put(f"{here}/source/rows.jsonl", lines(texts(3)))
    source = bucket.uri(f"{here}/source")
    with pytest.raises(StoreError, match="is no table and not empty .it holds rows.jsonl"):
        embed(bucket, f"{source}/rows.jsonl", source)
    with pytest.raises(ValueError, match=f"TABLE {source}/table lies inside SOURCE {source}"):
        embed(bucket, source, f"{source}/table")
    assert bucket.keys(here) == [f"{here}/source/rows.jsonl"]


# -- what a user can get wrong ---------------------------------------------------------------


def options_of(bucket, **changes):
    return tuple(f"{name}={value}" for name, value in (bucket.options | changes).items() if value)


WRONG = {
    "signature": ("wrong signature", {}, "the store refuses these credentials.*AWS_SECRET_ACCESS_KEY"),
    "key": ("unknown key", {}, "the store refuses these credentials.*AWS_ACCESS_KEY_ID"),
    "half": ("", {"AWS_SECRET_ACCESS_KEY": ""}, "no credentials were found, or a half of them"),
    "region": ("other region", {}, "the bucket lies in another region. Give its AWS_REGION"),
    "endpoint": ("", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "does not answer.*AWS_ENDPOINT_URL"),
}  # fmt: skip


@pytest.mark.parametrize("far", ["source", "table"])
@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_about_the_store_is_one_message(
    bucket, here, tmp_path, capfd, caplog, far, mistake
):
    what, changes, message = WRONG[mistake]
    (tmp_path / "rows.jsonl").write_bytes(lines(texts(3)))
    source = bucket.uri(f"{here}/source") if far == "source" else str(tmp_path / "rows.jsonl")
    table = bucket.uri(f"{here}/table") if far == "table" else str(tmp_path / "table")
    started = time.monotonic()
    with bucket.disturbed([what] if what else []):
        config = EmbedConfig(source, table, "m", storage_option=options_of(bucket, **changes))
        with pytest.raises((SourceError, StoreError), match=message) as caught:
            run(config, HashModel())
    assert time.monotonic() - started < 30
    assert {"source": source, "table": table}[far] in str(caught.value)
    told = "".join(capfd.readouterr()) + caplog.text + str(caught.value)
    assert SECRET not in told
    assert "\x1b" not in told
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(bucket, here, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines(texts(3)))
    with pytest.raises(SourceError, match="There is no bucket s3://none-such. Check its name"):
        embed(bucket, "s3://none-such/rows.jsonl", tmp_path / "table")
    with pytest.raises(StoreError, match="s3://none-such/table: there is no such bucket"):
        embed(bucket, tmp_path / "rows.jsonl", "s3://none-such/table")
    bucket.put(f"{here}/rows.jsonl", lines(texts(1)))
    with pytest.raises(SourceError, match=r"no file or folder .*/row.jsonl.*Did you mean 'rows"):
        embed(bucket, bucket.uri(f"{here}/row.jsonl"), tmp_path / "table")
    with pytest.raises(StoreError, match=f"There is no table at s3://bucket/{here}/none"):
        TableOptions(bucket.uri(f"{here}/none"), storage_option=bucket.pairs).open()


def test_options_may_come_from_the_environment(bucket, here, tmp_path, monkeypatch):
    for name, value in bucket.options.items():
        monkeypatch.setenv(name, value)
    bucket.put(f"{here}/rows.jsonl", lines(texts(3)))
    config = EmbedConfig(bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table"), "m")
    assert run(config, HashModel()).embedded == 3
    assert sorted(held(bucket, bucket.uri(f"{here}/table")).values()) == [
        "text 0",
        "text 1",
        "text 2",
    ]


def test_a_store_that_takes_no_files_is_one_message(bucket, here, capsys):
    bucket.put(f"{here}/rows.jsonl", lines(texts(3)))
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    denied = bucket.disturbed(["wrong signature"], only=r"POST .*\.parquet")
    with user_errors() as outcome, denied:
        embed(bucket, source, table)
    message = capsys.readouterr().err.splitlines()[-1]
    assert outcome.exit_code == 1
    assert message.startswith("embatch: the store refuses these credentials.")
    assert f"at key '{here}/table/" in message
    assert embed(bucket, source, table).embedded == 3


def test_a_folder_of_datasets_is_read_from_a_disk(bucket, here):
    for name in ("state.json", "dataset_info.json"):
        bucket.put(f"{here}/{name}", b"{}")
    with pytest.raises(SourceError, match="is a datasets folder, which is read from a disk alone"):
        open_source(SourceOptions(bucket.uri(here), storage_options=bucket.options))


def test_plain_http_has_to_be_allowed(bucket, here, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines(texts(3)))
    pairs = options_of(bucket, AWS_ALLOW_HTTP="")
    config = EmbedConfig(str(tmp_path / "rows.jsonl"), bucket.uri(here), "m", storage_option=pairs)
    with pytest.raises(StoreError, match="plain http.*AWS_ALLOW_HTTP=true"):
        run(config, HashModel())


def test_a_source_that_cannot_be_listed_empties_no_table(bucket, here):
    source, table = bucket.uri(f"{here}/source"), bucket.uri(f"{here}/table")
    for i in range(3):
        bucket.put(f"{here}/source/{i}.txt", f"text {i}".encode())
    embed(bucket, source, table, id_column="")
    listing = r"GET /bucket\?.*prefix=.*source"
    with (
        bucket.disturbed(["wrong signature"], only=listing),
        pytest.raises(SourceError, match=f"Cannot (read|list) .*{here}/source.*credentials"),
    ):
        embed(bucket, source, table, id_column="", prune=True, force_prune=True)
    assert len(held(bucket, table)) == 3


def test_a_secret_stays_with_who_gave_it(bucket, here, capfd, caplog):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    bucket.put(f"{here}/rows.jsonl", lines([*texts(5), {"key": "p", "text": "POISON"}]))
    with caplog.at_level("DEBUG"):
        summary = embed(bucket, source, table, HashModel(poison="POISON"), max_failures=1.0)
        assert cli(bucket, "status", table) == 0
    written = b"".join(bucket.get(key) for key in bucket.keys(f"{here}/table"))
    shown = repr(Table.open(table, bucket.options)) + summary.json() + summary.text()
    for secret in (SECRET, KEY):
        assert secret not in shown + caplog.text + "".join(capfd.readouterr())
        assert secret.encode() not in written


def test_a_pair_without_its_option_is_not_repeated_aloud(bucket, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["status", "s3://bucket/t", "--storage-option", "AWS_REGION=x", bucket.pairs[3]])
    assert stopped.value.code == 2
    told = "".join(capfd.readouterr())
    assert SECRET not in told
    assert "--storage-option before each" in told


# -- a store that is slow, and connections that end ------------------------------------------


def disturbed_run(bucket, here, seed, *, n=120, share=0.05):
    """A run through trouble, and one that finishes what it left."""
    source, table = bucket.uri(f"{here}/source"), bucket.uri(f"{here}/table")
    old, new = texts(n), [row for row in texts(n + 20, "word") if row["key"] != "k007"]
    new[20:] = [*old[20:7], *texts(n + 20)[21:]]
    bucket.put(f"{here}/source/rows.jsonl", lines(old))
    embed(bucket, source, table)
    bucket.put(f"{here}/source/rows.jsonl", lines(new))
    before, after = ({row["key"]: row["text"] for row in rows} for rows in (old, new))
    error = None
    with bucket.disturbed(TROUBLE, share=share, seed=seed):
        try:
            embed(bucket, source, table, prune=True, runs={"wave_seconds": 0.0})
        except (StoreError, SourceError) as failure:
            error = failure
            assert "\n" not in str(error)
        n_disturbed = sum(bool(request["what"]) for request in bucket.seen())
    now = held(bucket, table)
    for key, text in now.items():
        assert text in (before.get(key), after.get(key))
    if error is None:
        assert now == after
    # In this process the claim of a run that could not give it up is still alive.
    embed(bucket, source, table, prune=True, runs={"claims": error is None})
    assert held(bucket, table) == after
    assert failed(bucket, table) == []
    return n_disturbed, error


def test_trouble_with_the_store_costs_time_and_no_row(bucket, here):
    n_disturbed, _ = disturbed_run(bucket, here, seed=1)
    assert n_disturbed >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_much_trouble_with_the_store_leaves_a_true_table(bucket, here):
    shares = {seed: (0.2, 0.4, 0.6, 0.8)[seed % 4] for seed in range(16)}
    ends = [disturbed_run(bucket, f"{here}/{s}", s, share=share) for s, share in shares.items()]
    assert all(n_disturbed > 0 for n_disturbed, _ in ends)
    n_failed = sum(error is not None for _, error in ends)
    assert 0 < n_failed < len(ends)  # else it was too much trouble, or too little


@pytest.mark.parametrize("only", [r"GET .*_delta_log/\d+\.json", r"GET /bucket\?.*_delta_log"])
def test_an_answer_about_the_log_that_is_cut_off_is_asked_for_again(bucket, here, only):
    table, other = two_handles(bucket, bucket.uri(f"{here}/table"))
    for skip in range(3):
        with bucket.disturbed(["cut answer"], only=only, skip=skip, times=2):
            table.commit({"run": f"r{skip}"})
            assert any(request["what"] for request in bucket.seen())
        assert Table.open(table.uri, bucket.options).version == table.version == skip + 1
    with bucket.disturbed(["cut answer"], only=only, times=2):
        runs = [commit["note"]["run"] for commit in Table.open(table.uri, bucket.options).history()]
    assert runs == ["r2", "r1", "r0", "made"]
    with bucket.disturbed(["cut answer"], only=only, times=2), pytest.raises(Refused):
        other.commit({"run": "late"})


def test_an_answer_that_is_always_cut_off_is_one_message(bucket, here):
    with (
        bucket.disturbed(["cut answer"], only=r"GET /bucket\?"),
        pytest.raises(StoreError, match="Cannot open .* does not answer as it should"),
    ):
        Table.open(bucket.uri(f"{here}/table"), bucket.options)


def test_a_source_that_goes_away_in_the_middle_of_a_run_is_the_reason_told(bucket, here, tmp_path):
    bucket.put(f"{here}/rows.jsonl", lines(texts(5)))
    source, table = bucket.uri(f"{here}/rows.jsonl"), str(tmp_path / "table")
    with (
        bucket.disturbed(["wrong signature"], only=f"GET .*{here}/rows", skip=2),
        pytest.raises(SyncError, match="No row could be embedded"),
    ):
        embed(bucket, source, table)
    (reason,) = {row["reason"] for row in failed(bucket, table)}
    assert re.match("rows.jsonl could not be read again: .*ACCESS_DENIED", reason)
    assert embed(bucket, source, table).embedded == 5
    assert failed(bucket, table) == []


def test_a_store_that_is_too_busy_ends_the_run_with_a_message(bucket, here):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    bucket.put(f"{here}/rows.jsonl", lines(texts(5)))
    with (
        bucket.disturbed(["slow down"], only=COMMITS),
        pytest.raises(StoreError, match="asks to slow down.*Run again later"),
    ):
        embed(bucket, source, table)
    assert embed(bucket, source, table).embedded == 5


@pytest.mark.slow
def test_many_nights_leave_few_files_and_a_log_that_opens_quickly(bucket, here):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    rows = texts(40)
    for night in range(40):
        bucket.put(f"{here}/rows.jsonl", lines(rows[: night + 1]))
        embed(bucket, source, table)
    assert held(bucket, table) == {row["key"]: row["text"] for row in rows}
    opened = Table.open(table, bucket.options)
    assert opened.version > 100
    assert len(opened.files()) <= 33
    assert any(key.endswith(".checkpoint.parquet") for key in bucket.keys(f"{here}/table/_delta"))
    bucket.forget_seen()
    Table.open(table, bucket.options)
    assert len(bucket.seen()) < 2 * 50 + 10  # versions since the checkpoint, each read twice


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_is_killed_around_a_commit_is_finished_by_the_next(
    bucket, here, tmp_path, at, when
):
    source, table = bucket.uri(f"{here}/rows.jsonl"), bucket.uri(f"{here}/table")
    bucket.put(f"{here}/rows.jsonl", lines(texts(30)))
    asked = {"source": source, "table": table, "model": "hash", "id_column": "key"}
    config = {
        "embed": asked | {"storage_option": bucket.pairs},
        "model": {},
        "run": {"wave_seconds": 0.0},
        "settings": {"group_rows": 10},
        "faults": {"commit": {"table": "main", "at": at, "when": when}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.faults.driver", str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert SECRET not in done.stdout + done.stderr
    embed(bucket, source, table)
    assert held(bucket, table) == {row["key"]: row["text"] for row in texts(30)}


# -- Ray's workers ---------------------------------------------------------------------------


@pytest.mark.slow
def test_rays_tasks_read_from_a_store_and_its_workers_write_to_one(
    bucket, here, through_ray, monkeypatch
):
    monkeypatch.setattr("jobs.sync.planning.DRIVER_BYTES", 0)  # as a source that is large
    source, table = bucket.uri(f"{here}/source"), bucket.uri(f"{here}/table")
    for part in range(3):
        bucket.put(f"{here}/source/{part}.jsonl", lines(texts(300)[part::3]))
    bucket.put(f"{here}/source/bad.jsonl", lines([{"key": "p", "text": "POISON"}]))
    with bucket.disturbed(["slow down"], share=0.03, seed=5):
        summary = embed(bucket, source, table, HashModel(poison="POISON"), max_failures=1.0)
    assert (summary.embedded, summary.failed) == (300, 1)
    assert held(bucket, table) == {row["key"]: row["text"] for row in texts(300)}
    assert embed(bucket, source, table, HashModel(poison="POISON")).unchanged == 300
