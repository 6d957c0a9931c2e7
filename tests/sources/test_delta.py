import json
import shutil
from datetime import date
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from xxhash import xxh3_128_hexdigest

from schemas.delta.fragments import Fragment
from schemas.delta.store import Table
from schemas.tables.embeddings import Fingerprint, table_schema
from sources import SourceError, SourceOptions, open_source
from sources.delta import DeltaSource

FINGERPRINT = Fingerprint("hash", 2, "hash", "hash-1")
NOTE = {"run": "r", "host": "h", "command": "embed"}


def table_at(path, **columns):
    write_deltalake(path, pa.table(columns), mode="append", schema_mode="merge")
    return path


def found(result, *columns):
    return sorted(tuple(row[name] for name in columns) for row in result.rows)


def test_rows_that_were_deleted_or_overwritten_are_not_read(tmp_path, read):
    table = table_at(tmp_path / "t", text=["keep this", "please delete my data", "old"])
    DeltaTable(table).delete("text = 'please delete my data'")
    DeltaTable(table).update({"text": "'new'"}, predicate="text = 'old'")
    assert len(list(table.glob("*.parquet"))) == 3
    result = read(table)
    assert isinstance(result.source, DeltaSource)
    assert sorted(result.texts()) == ["keep this", "new"]
    assert result.ids() == [xxh3_128_hexdigest(text.encode()) for text in result.texts()]
    assert (result.source.unlisted(), result.source.left_out(), result.source.remarks()) == (
        [],
        {},
        [],
    )


def test_a_table_without_rows_has_none(tmp_path, read):
    table = table_at(tmp_path / "t", text=["a"], n=[1])
    DeltaTable(table).delete()
    result = read(table)
    assert (result.rows, result.failures, result.pieces) == ([], [], [])
    assert (result.source.options.text_column, result.source.columns) == (("text",), ("n",))


def test_the_version_is_the_one_that_was_listed(tmp_path):
    table = table_at(tmp_path / "t", text=["a"])
    source = open_source(SourceOptions(str(table)))
    (piece,) = source.pieces()
    write_deltalake(table, pa.table({"text": ["b"]}), mode="overwrite")
    ((rows, _, _),) = source.read(piece)
    assert rows["text"].to_pylist() == ["a"]


def test_partitions_are_as_the_log_has_them(tmp_path, read):
    days = [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 1), None]
    languages = ["de", "a b/c=ü", None, "fr"]
    rows = pa.table({"text": ["taxi"] * 4, "lang": languages, "day": days})
    write_deltalake(tmp_path / "t", rows, partition_by=["lang", "day"])
    result = read(tmp_path / "t")
    pairs = {(row["lang"], row["day"]) for row in result.rows}
    assert pairs == set(zip(languages, days, strict=True))
    assert result.tables[0].schema.field("day").type == pa.date32()
    assert len(set(result.ids())) == len({row["row_hash"] for row in result.rows}) == 4
    assert {f for piece in result.pieces for f in piece.files} == {
        str(file.relative_to(tmp_path / "t")) for file in (tmp_path / "t").rglob("*.parquet")
    }
    chosen = read(tmp_path / "t", columns=("day",))
    assert (chosen.source.columns, "lang" in chosen.rows[0]) == (("day",), False)
    with pytest.raises(SourceError, match="'lang' of .* is one of partitions, not of files"):
        read(tmp_path / "t", id_column="lang")


def test_columns_that_came_later_are_null_in_older_files(tmp_path, read):
    table = table_at(tmp_path / "t", id=["a", "b"])
    table_at(table, id=["c"], text=["text"], n=[1])
    result = read(table, id_column="id")
    assert found(result, "id", "text", "n") == [("c", "text", 1)]
    assert [(f["id"], f["stage"], f["reason"]) for f in result.failures] == [
        ("a", "read", "text is null"),
        ("b", "read", "text is null"),
    ]


def test_files_need_no_ending_and_are_cut_by_row_groups(tmp_path, read, monkeypatch):
    monkeypatch.setattr("sources.formats.parquet.PIECE_ROWS", 2)
    pq.write_table(pa.table({"text": list("abc")}), tmp_path / "000000_0", row_group_size=1)
    fields = [{"name": "text", "type": "string", "nullable": True, "metadata": {}}]
    written_by_hand(tmp_path, fields, add={"path": "000000_0", "partitionValues": {}})
    result = read(tmp_path)
    assert [piece.part for piece in result.pieces] == [(0, 2), (2, 3)]
    assert result.texts() == ["a", "b", "c"]


def written_by_hand(folder, fields, *, add=None, configuration=None, reader=1):
    """A log of one commit."""
    schema = json.dumps({"type": "struct", "fields": fields})
    metadata = {"id": "1", "format": {"provider": "parquet", "options": {}}, "createdTime": 1}
    metadata |= {"schemaString": schema, "partitionColumns": []}
    metadata["configuration"] = configuration or {}
    actions = [
        {"protocol": {"minReaderVersion": reader, "minWriterVersion": 5}},
        {"metaData": metadata},
    ]
    if add:
        size = (folder / add["path"]).stat().st_size if "/" not in add["path"] else 9
        actions.append({"add": {"size": size, "modificationTime": 1, "dataChange": True, **add}})
    (folder / "_delta_log").mkdir()
    text = "\n".join(map(json.dumps, actions))
    (folder / "_delta_log" / f"{0:020}.json").write_text(text)


def test_columns_under_other_names_in_the_files_are_refused(tmp_path, read):
    physical = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
    fields = [{"name": "text", "type": "string", "nullable": True, "metadata": physical}]
    mapped = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "1"}
    written_by_hand(tmp_path, fields, configuration=mapped, reader=2)
    with pytest.raises(SourceError, match="uses columnMapping, which embatch cannot read"):
        read(tmp_path)


def test_deletion_vectors_are_refused(tmp_path, read):
    table = table_at(tmp_path / "t", text=["a"])
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
    (table / "_delta_log" / f"{1:020}.json").write_text(json.dumps({"protocol": protocol}))
    with pytest.raises(SourceError, match="uses deletionVectors, which embatch cannot read"):
        read(table)


def test_files_of_another_table_are_refused(tmp_path, read):
    fields = [{"name": "text", "type": "string", "nullable": True, "metadata": {}}]
    add = {
        "path": f"{tmp_path.as_uri()}/elsewhere/x.parquet",
        "partitionValues": {},
        "stats": '{"numRecords": 1}',
    }
    written_by_hand(tmp_path, fields, add=add)
    with pytest.raises(
        SourceError, match="log names .*elsewhere/x.parquet', a file outside of the table"
    ):
        read(tmp_path)


def test_what_lies_in_a_table_is_its_live_files(tmp_path, read):
    rows = pa.table({"text": ["taxi", "taxi", "hotel"], "lang": ["de", "fr", "fr"]})
    write_deltalake(tmp_path / "t", rows, partition_by=["lang"])
    DeltaTable(tmp_path / "t").delete("text = 'hotel'")
    whole = read(tmp_path / "t")
    french = read(tmp_path / "t" / "lang=fr")
    assert found(french, "id", "lang") == [row for row in found(whole, "id", "lang") if "fr" in row]
    assert french.pieces[0].files[0].startswith("lang=fr/")
    assert french.source.remarks() == [
        f"{tmp_path}/t/lang=fr lies in the Delta table {tmp_path}/t: 1 of its 2 files are read."
    ]
    assert found(read(tmp_path / "t" / "**/*.parquet"), "id") == found(whole, "id")
    live, stale = french.pieces[0].files[0], None
    for file in (tmp_path / "t" / "lang=fr").iterdir():
        stale = file if file.name not in live else stale
    assert read(tmp_path / "t" / live).texts() == ["taxi"]
    with pytest.raises(
        SourceError, match="has no file there: its rows were deleted or overwritten"
    ):
        read(stale)


def test_lines_are_not_read_from_a_table(tmp_path, read):
    table = table_at(tmp_path / "t", text=["a"])
    with pytest.raises(SourceError, match="is a Delta table.*Leave out --lines"):
        read(table, lines=True)


def test_a_table_where_delta_cannot_be_read_is_refused(tmp_path, read):
    table = table_at(tmp_path / "t", text=["a"])
    fs = fsspec.filesystem("memory")
    fs.put(f"{table}/", "/t/", recursive=True)
    try:
        with pytest.raises(SourceError, match="Copy the table to a disk or an object store"):
            read("memory://t")
    finally:
        fs.rm("/t", recursive=True)


# -- tables of embatch --------------------------------------------------------------------------


def ours(path, rows, *, columns=(), fingerprint=FINGERPRINT, **options):
    """A table as `embatch embed` makes it, of one file."""
    schema = table_schema(columns, fingerprint, **options)
    table = Table.create(str(path), schema, NOTE)
    for row in rows:
        row |= {"content_hash": "0" * 32, "row_hash": "0" * 16, "embedding": [1.0, 0.0]}
    pq.write_table(pa.Table.from_pylist(rows, schema), path / "a.parquet")
    table.commit(NOTE, [Fragment("a.parquet", (path / "a.parquet").stat().st_size, len(rows))])
    return path


LABEL = pa.field("label", pa.string())


def test_a_table_of_embatch_gives_its_texts_under_their_ids(tmp_path, read):
    rows = [{"id": "b", "text": "one", "label": "x", "n_tokens": 1}, {"id": "a", "text": "two"}]
    result = read(ours(tmp_path / "t", rows, columns=[LABEL]))
    assert found(result, "id", "text") == [("a", "two"), ("b", "one")]
    assert result.source.columns == ("label",)
    assert result.rows[0]["content_hash"].hex() == xxh3_128_hexdigest(b"one")
    assert result.source.remarks() == [
        f"{tmp_path}/t is a table of embatch: its rows keep their ids, and its columns content_hash, "
        "row_hash, n_tokens, truncated, embedding, embedded_at are left out. --id-column and --columns "
        "choose others."
    ]
    other = read(tmp_path / "t", text_column=("label",), id_column="text", columns=("n_tokens",))
    assert found(other, "id", "text", "n_tokens") == [("one", "x", 1)]


def test_passages_are_rows_that_know_their_documents(tmp_path, read):
    fingerprint = Fingerprint("hash", 2, "hash", "hash-1", chunking="8/0")
    row = {"id": "a#0", "parent_id": "a", "chunk": 0, "start": 0, "end": 3, "text": "one"}
    result = read(ours(tmp_path / "t", [row], fingerprint=fingerprint))
    assert result.source.columns == ("parent_id", "chunk", "start", "end")
    assert found(result, "id", "parent_id", "end") == [("a#0", "a", 3)]


def test_images_whose_bytes_were_kept_are_images(tmp_path, read):
    rows = [
        {"id": "a.jpg", "image": {"bytes": None, "path": "a.jpg"}},
        {"id": "b.jpg", "image": {"bytes": b"jpeg", "path": "b.jpg"}, "label": "x"},
    ]
    result = read(ours(tmp_path / "t", rows, columns=[LABEL], modality="image"))
    assert (result.ids(), result.rows[0]["image"]["bytes"]) == (["b.jpg"], b"jpeg")
    assert result.reasons() == [(0, "read", "image has no bytes, only the path 'a.jpg'")]
    assert result.source.columns == ("label",)


def test_images_without_bytes_are_not_in_the_table(tmp_path, read):
    rows = [{"id": "a.jpg", "image": {"bytes": None, "path": "a.jpg"}, "label": "x"}]
    table = ours(tmp_path / "t", rows, columns=[LABEL], modality="image")
    for options in ({}, {"image_column": "image"}):
        with pytest.raises(
            SourceError, match="holds their paths alone. Give the images themselves"
        ):
            read(table, **options)
    assert read(table, text_column=("label",)).texts() == ["x"]


def test_a_table_without_texts_says_so(tmp_path, read):
    table = ours(tmp_path / "t", [{"id": "a", "label": "x"}], columns=[LABEL], with_text=False)
    with pytest.raises(
        SourceError, match="embedded with --no-text: it holds no texts. Give what it"
    ):
        read(table)
    assert read(table, text_column=("label",)).ids() == ["a"]


def test_a_table_that_loses_a_file_fails_that_file(tmp_path, read):
    table = table_at(table_at(tmp_path / "t", text=["a"]), text=["b"])
    lost = sorted(Path(uri) for uri in DeltaTable(table).file_uris())[0]
    shutil.move(lost, tmp_path / "elsewhere")
    result = read(table)
    assert len(result.rows) == 1
    assert [(f["source_file"], f["stage"]) for f in result.failures] == [(lost.name, "file")]
