import gzip

import pytest
import zstandard
from xxhash import xxh3_128_hexdigest

from sources import rows
from sources.rows import MAX_ROWS

HINT = ". A file in another encoding takes --encoding (such as cp1252)"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_file_is_a_document_with_its_path_as_id(tmp_path, read):
    write(tmp_path / "b.txt", "second\n")
    write(tmp_path / "a" / "x.md", "first")
    write(tmp_path / "c.txt.gz", gzip.compress(b"third"))
    write(tmp_path / "d.txt.zst", zstandard.compress(b"fourth"))
    result = read(tmp_path)
    assert result.ids() == ["a/x.md", "b.txt", "c.txt.gz", "d.txt.zst"]
    assert result.texts() == ["first", "second\n", "third", "fourth"]
    assert result.source.columns == ()


def test_one_file_has_its_name_as_id(tmp_path, read):
    assert read(write(tmp_path / "b.txt", "b")).ids() == ["b.txt"]


def test_bad_files_fail_alone(tmp_path, read):
    write(tmp_path / "a.txt", b"a\xff")
    write(tmp_path / "b.txt", "  \n")
    write(tmp_path / "c.txt.gz", gzip.compress(b"half of a text is none" * 99)[:30])
    write(tmp_path / "d.txt", b"\xef\xbb\xbfd")
    write(tmp_path / "e.txt", "")
    result = read(tmp_path)
    assert [(row["id"], row["text"], row["position"]) for row in result.rows] == [("d.txt", "d", 0)]
    assert [(f["id"], f["source_file"], f["position"], f["stage"], f["reason"]) for f in sorted(
        result.failures, key=lambda f: f["source_file"]
    )] == [
        ("a.txt", "a.txt", 0, "read", f"text is not UTF-8: byte 1{HINT}"),
        ("b.txt", "b.txt", 0, "read", "text is empty"),
        (None, "c.txt.gz", 0, "file", "Compressed file ended before the end-of-stream marker was reached"),
        ("e.txt", "e.txt", 0, "read", "text is empty"),
    ]  # fmt: skip


def test_small_files_share_a_piece(tmp_path, read, monkeypatch):
    monkeypatch.setattr(rows, "GROUP_FILES", 2)
    monkeypatch.setattr(rows, "GROUP_BYTES", 10)
    for name, size in zip("abcde", (1, 1, 1, 12, 1), strict=True):
        write(tmp_path / f"{name}.txt", name * size)
    result = read(tmp_path)
    assert [(piece.files, piece.size_bytes) for piece in result.pieces] == [
        (("a.txt", "b.txt"), 2),
        (("c.txt",), 1),
        (("d.txt",), 12),
        (("e.txt",), 1),
    ]
    assert len(result.rows) == 5


@pytest.mark.parametrize("name", ["a.log", "a.txt", "a", "a.csv", "a.jsonl.gz", "a.xyz.zst"])
def test_each_line_of_any_file_can_be_a_document(tmp_path, read, name):
    pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    path = write(tmp_path / name, pack(b"\xef\xbb\xbfa,1\r\n\n  \n b\nc\xff\nd"))
    result = read(path, lines=True)
    assert result.texts() == ["a,1", " b", "d"]
    assert result.ids() == [xxh3_128_hexdigest(text.encode()) for text in ("a,1", " b", "d")]
    assert [row["position"] for row in result.rows] == [0, 1, 3]
    assert result.reasons() == [(2, "read", f"text is not UTF-8: byte 1{HINT}")]


def test_many_lines_come_in_tables_of_bounded_size(tmp_path, read):
    path = write(tmp_path / "a.txt", "\n".join(map(str, range(MAX_ROWS + 3))))
    result = read(path, lines=True)
    assert [len(table) for table in result.tables] == [MAX_ROWS, 3]


def test_truncated_lines_give_rows_so_far(tmp_path, read):
    data = gzip.compress("\n".join(str(n * 7919 % 10007) for n in range(50_000)).encode())
    result = read(write(tmp_path / "a.gz", data[: len(data) // 2]), lines=True)
    assert result.reasons() == [
        (
            len(result.rows),
            "file",
            "Compressed file ended before the end-of-stream marker was reached",
        )
    ]
    assert len(result.rows) > 1000
