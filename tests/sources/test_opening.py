import codecs
import gzip
import io

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sources import SourceError, SourceOptions
from sources.opening import as_utf8, guess_encoding

WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
MARKED = ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be")
TELLS = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}
WRITTEN = {
    ".csv": "n,text\r\n1,Zoë's café\r\n2,naïve 漢字 😀\r\n",
    ".tsv": "n\ttext\n1\tZoë's café\n2\tnaïve 漢字 😀\n",
    ".jsonl": '{"text": "Zoë\'s café"}\n{"text": "naïve 漢字 😀"}\n',
}
TEXTS = ["Zoë's café", "naïve 漢字 😀"]


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("ending", WRITTEN)
def test_a_byte_order_mark_tells_the_encoding(tmp_path, read, ending, encoding):
    data = TELLS.get(encoding, b"") + WRITTEN[ending].encode(encoding)
    assert read(write(tmp_path / f"a{ending}", data)).texts() == TEXTS
    assert read(write(tmp_path / f"a{ending}.gz", gzip.compress(data))).texts() == TEXTS


@pytest.mark.parametrize("encoding", MARKED)
def test_lines_documents_and_classes_may_have_any_mark(tmp_path, read, encoding):
    data = TELLS.get(encoding, b"") + "\n".join(TEXTS).encode(encoding)
    path = write(tmp_path / "a.txt", data)
    assert read(path, lines=True).texts() == TEXTS
    assert read(path, labels=True).ids() == TEXTS
    assert read(path).texts() == ["\n".join(TEXTS)]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("ending", [*WRITTEN, ".txt"])
def test_utf16_without_a_mark_is_an_error_that_names_the_option(tmp_path, read, ending, encoding):
    path = write(tmp_path / f"a{ending}", WRITTEN.get(ending, "one\ntwo\n").encode(encoding))
    message = f"it looks like {encoding.upper()}, without a byte order mark.*--encoding {encoding}$"
    with pytest.raises(SourceError, match=message):
        read(path)
    if ending in WRITTEN:
        assert read(path, encoding=encoding).texts() == TEXTS


def test_one_such_file_among_others_is_a_failure(tmp_path, read):
    write(tmp_path / "a.csv", b"text,n\na,1\n")
    write(tmp_path / "b.csv", "text,n\nb,1\n".encode("utf-16-le"))
    result = read(tmp_path)
    assert result.texts() == ["a"]
    ((position, stage, reason),) = result.reasons()
    assert (position, stage) == (0, "file")
    assert reason.startswith("it looks like UTF-16-LE, without a byte order mark")


def test_another_encoding_is_named_where_bytes_are_not_utf8(tmp_path, read):
    hint = ". A file in another encoding takes --encoding (such as cp1252)"
    csv = write(tmp_path / "a.csv", 'text,n\n"Zoë, café",1\nplain,2\n'.encode("cp1252"))
    result = read(csv)
    assert result.texts() == ["plain"]
    assert result.reasons() == [(0, "read", f"text is not UTF-8: byte 2{hint}")]
    assert read(csv, encoding="cp1252").texts() == ["Zoë, café", "plain"]
    jsonl = write(tmp_path / "a.jsonl", b'{"text": "caf\xe9"}\n{"text": "b"}\n')
    told = f"line 1 is not a JSON object: it is not UTF-8: byte 13{hint}"
    assert read(jsonl).reasons() == [(0, "read", told)]
    assert read(jsonl, encoding="latin-1").texts() == ["café", "b"]
    path = write(tmp_path / "a.txt", b"caf\xe9")
    for options in ({}, {"lines": True}, {"labels": True}):
        told = [(0, "read", f"text is not UTF-8: byte 3{hint}")]
        assert read(path, **options).reasons() == told
        assert read(path, encoding="cp1252", **options).texts() == ["café"]


def test_what_is_no_text_in_its_encoding_fails_its_row_alone(tmp_path, read):
    half = "a\n".encode("utf-16") + b"\x00\xd8\n\x00" + "c\n".encode("utf-16-le") + b"d"
    result = read(write(tmp_path / "a.txt", half), lines=True)
    assert result.texts() == ["a", "c"]
    assert [reason[:29] for _, _, reason in result.reasons()] == [
        "text is not UTF-8: byte 0. A "
    ] * 2
    path = write(tmp_path / "b.txt", b"caf\xe9\na\x81\n")
    result = read(path, lines=True, encoding="cp1252")
    assert result.texts() == ["café"]
    assert result.reasons() == [(1, "read", "text is not cp1252")]


def test_nul_bytes_fail_their_row_alone(tmp_path, read):
    reason = "text holds a NUL byte, which no text has"
    result = read(write(tmp_path / "a.csv", b"text,n\na\0b,1\nc,2\nd,\0\n"))
    assert result.texts() == ["c"]
    assert result.reasons() == [(0, "read", reason), (2, "read", reason.replace("text", "n", 1))]
    path = write(tmp_path / "a.txt", b"one\ntwo\0\nthree\n")
    result = read(path, lines=True)
    assert (result.texts(), result.reasons()) == (["one", "three"], [(1, "read", reason)])
    result = read(path)
    assert (result.texts(), result.reasons()) == ([], [(0, "read", reason)])


def test_lines_that_end_as_those_of_old_macs_are_lines(tmp_path, read):
    assert read(write(tmp_path / "a.txt", b"one\rtwo\r"), lines=True).texts() == ["one", "two"]
    data = b'{"text": "one"}\r{"text": "two"}'
    assert read(write(tmp_path / "a.jsonl", data)).texts() == ["one", "two"]
    assert read(write(tmp_path / "b.txt", b"one\rstill\ntwo"), lines=True).texts() == [
        "one\rstill",
        "two",
    ]
    assert read(write(tmp_path / "a.csv", b"text,n\rone,1\r")).texts() == ["one"]


def test_an_encoding_that_does_not_exist_is_refused():
    with pytest.raises(SourceError, match="no encoding 'cp9'. Expected one .* such as cp1252"):
        SourceOptions("a.csv", encoding="cp9")
    with pytest.raises(SourceError, match="no encoding 'base64'"):
        SourceOptions("a.csv", encoding="base64")


# -- compressed files -----------------------------------------------------------------------------

TWO = gzip.compress(b"one\n") + gzip.compress(b"two\n")
PACKED = {
    "two members": (TWO, ["one", "two"], ""),
    "an empty member behind": (TWO + gzip.compress(b""), ["one", "two"], ""),
    "zeros behind": (TWO + bytes(512), ["one", "two"], ""),
    "zeros between": (gzip.compress(b"one\n") + bytes(9) + TWO, ["one", "one", "two"], ""),
    "garbage behind": (TWO + b"garbage", ["one", "two"], "what follows the end of the gzip is none"),
    "no end": (TWO[:-6], ["one", "two"], "Compressed file ended before the end-of-stream marker was reached"),
    "a wrong checksum": (TWO[:-8] + bytes(4) + TWO[-4:], ["one", "two"], "CRC check failed 0x0 != 0x"),
    "none at all": (b"one\ntwo\n", ["one", "two"], ""),
    "no bytes": (b"", [], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_a_gzip_gives_its_good_rows_and_says_what_is_wrong(tmp_path, read, name):
    data, texts, why = PACKED[name]
    write(tmp_path / "0.txt", b"zero\n")
    write(tmp_path / "a.txt.gz", data)
    result = read(tmp_path, lines=True)
    assert result.texts() == ["zero", *texts]
    assert [(position, stage) for position, stage, _ in result.reasons()] == [
        (len(texts), "file")
    ] * bool(why)
    assert all(reason.startswith(why) for _, _, reason in result.reasons())


def test_what_is_no_zstd_is_read_as_it_is(tmp_path, read):
    assert read(write(tmp_path / "a.zst", b"one\ntwo\n"), lines=True).texts() == ["one", "two"]


def test_a_long_gzip_is_read_on_from_where_the_first_way_stopped(tmp_path, read):
    lines = [f"line {n * 7919 % 100_003}" for n in range(20_000)]
    members = (
        "\n".join(lines[start : start + 5000]).encode() + b"\n" for start in range(0, 20_000, 5000)
    )
    data = b"".join(gzip.compress(member) + bytes(512) for member in members)
    assert read(write(tmp_path / "a.gz", data), lines=True).texts() == lines


scripts = st.sampled_from(["latin", "ελλάδα", "日本語テキスト一", "кириллица", "naïve café", "😀"])
texts = st.lists(st.lists(scripts, min_size=1, max_size=6).map(" ".join), min_size=2, max_size=20)


@given(texts.map("\n".join), st.sampled_from(WIDE))
def test_wide_text_is_recognised_in_any_script_and_utf8_never(text, encoding):
    assert guess_encoding(text.encode(encoding)) == encoding
    assert guess_encoding(text.encode()) is None
    damaged = f"{text}\n{text}".encode().replace(b"\n", b"\0\0\0\0\n", 1)
    assert guess_encoding(damaged) is None


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(MARKED), st.integers(1, 9))  # fmt: skip
def test_any_text_comes_back_as_utf8(text, encoding, n):
    assume(not (encoding == "utf-16" and text.startswith("\0")))  # the mark of UTF-32
    data = TELLS.get(encoding, b"") + (text * n).encode(encoding)
    with as_utf8(io.BytesIO(data)) as stream:
        assert stream.read().decode() == text * n
