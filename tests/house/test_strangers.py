"""What strangers hand over - tables, texts, configs, addresses - is read, and nothing else happens."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from jobs.cli import main
from schemas.delta.fragments import Fragment, OutsideTable
from schemas.delta.store import Table
from schemas.errors import without_secrets
from schemas.tables.failures import FailureLog
from tests.support.hash_model import HashModel
from tests.support.tables import fill

pytestmark = pytest.mark.usefixtures("few_rows_here")


def log_says(table, change):
    """Rewrite the add actions of a table's newest commit."""
    newest = sorted((table / "_delta_log").glob("*.json"))[-1]
    actions = [json.loads(line) for line in newest.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            change(action["add"])
    newest.write_text("\n".join(map(json.dumps, actions)))


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "a/../../secret.parquet", "{}/secret.parquet"]
)
def test_a_table_whose_log_names_a_file_elsewhere_is_not_read(tmp_path, name):
    name = name.format(tmp_path)
    pq.write_table(pa.table({"id": ["secret"]}), tmp_path / "secret.parquet")
    write_deltalake(str(tmp_path / "t"), pa.table({"id": ["x"]}))
    log_says(tmp_path / "t", lambda add: add.update(path=name))
    table = Table.open(str(tmp_path / "t"))
    with pytest.raises(
        OutsideTable, match=r"secret.parquet', a file outside of the table. It is not"
    ):
        table.read()
    with pytest.raises(OutsideTable):
        Fragment(name, 1, 1)


def test_no_command_reads_or_deletes_through_such_a_table(tmp_path, capsys):
    place = fill(tmp_path, "table", [{"key": "a", "text": "one"}, {"key": "b", "text": "two"}])
    files = [file.name for file in Table.open(place).files()]
    os.rename(tmp_path / "table" / files[0], tmp_path / "mine.parquet")
    newest = [path for path in (tmp_path / "table" / "_delta_log").glob("*.json")]
    for path in newest:
        path.write_text(path.read_text().replace(files[0], "../mine.parquet"))
    (tmp_path / "ids").write_text("a\n")
    for name, *rest in (
        ("status",),
        ("export", str(tmp_path / "out.parquet")),
        ("neighbours", str(tmp_path / "near")),
        ("project", str(tmp_path / "map")),
        ("delete", "--ids", str(tmp_path / "ids")),
    ):
        assert main([name, place, *rest]) == 1, name
        assert "a file outside of the table" in capsys.readouterr().err
    main(["vacuum", place, "--hours", "0"])
    assert (tmp_path / "mine.parquet").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/feed.xml", "https://…@host/feed.xml"),
        ("https://h/a?X-Amz-Signature=0f&page=2", "https://h/a?X-Amz-Signature=…&page=2"),
        ("cannot read s3://b/c?api_key=1 now", "cannot read s3://b/c?api_key=… now"),
        ("https://h/a?sv=1&sig=abc%3D", "https://h/a?sv=1&sig=…"),
        ("mail me@host: key=value", "mail me@host: key=value"),
        ("/folder/a@b?c.txt", "/folder/a@b?c.txt"),
    ],
)
def test_addresses_are_shown_without_their_secrets(text, shown):
    assert without_secrets(text) == shown


def test_no_secret_of_an_address_stays_in_tables_logs_or_messages(tmp_path, capfd):
    secret = "hunter2hunter2"
    code = main(
        [
            "embed",
            f"https://me:{secret}@127.0.0.1:1/feed.xml?token={secret}",
            str(tmp_path / "t"),
            "--model",
            "all-MiniLM-L6-v2",
            "--log",
            str(tmp_path / "log"),
        ]
    )
    assert code == 1
    said = capfd.readouterr()
    assert "127.0.0.1:1" in said.err
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in said.out + said.err + written.decode(errors="replace")


def test_an_option_with_a_secret_stays_out_of_the_table(tmp_path):
    secret = "hunter2hunter2"
    rows = [{"key": "a", "text": "one"}, {"key": "b", "text": ""}]
    option = (f"AWS_SECRET_ACCESS_KEY={secret}",)
    place = fill(tmp_path, "table", rows, HashModel(), storage_option=option, max_failures=1.0)
    assert len(FailureLog(place).rows) == 1
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.encode() not in written
