import gzip
import os
import re
from pathlib import Path

import pytest

from sources import SourceError, SourceOptions


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_all_columns_are_strings(tmp_path, read):
    result = read(write(tmp_path / "a.csv", "text,n\nä,1\nb,\n"))
    assert [(row["text"], row["n"], row["position"]) for row in result.rows] == [
        ("ä", "1", 0),
        ("b", "", 1),
    ]
    assert result.source.columns == ("n",)


def test_tsv_has_tabs(tmp_path, read):
    assert read(write(tmp_path / "a.tsv", "text\tn\na,b\t1\n")).texts() == ["a,b"]
    assert read(write(tmp_path / "a.csv", "text\tn\na,b\t1\n"), delimiter="\\t").texts() == ["a,b"]


def test_delimiter_quote_and_no_header(tmp_path, read):
    result = read(
        write(tmp_path / "a.csv", "Web;'it''s; here'\nSport;'b'\n"),
        delimiter=";", quote="'", no_header=True, text_column=("column_2",),
    )  # fmt: skip
    assert [(row["column_1"], row["text"]) for row in result.rows] == [
        ("Web", "it's; here"),
        ("Sport", "b"),
    ]


def test_no_quoting(tmp_path, read):
    assert read(write(tmp_path / "a.csv", 'text,n\n"a,1\n'), quote="").texts() == ['"a']


def test_quoted_newlines_and_blank_lines(tmp_path, read):
    result = read(write(tmp_path / "a.csv", '\ntext,n\r\n"a\nb",1\r\n\r\n"c ""d""",2'))
    assert result.texts() == ["a\nb", 'c "d"']


def test_a_byte_order_mark_is_dropped(tmp_path, read):
    assert read(write(tmp_path / "a.csv", b"\xef\xbb\xbftext,n\na,1\n")).texts() == ["a"]


def test_bad_utf8_fails_only_its_row(tmp_path, read):
    result = read(write(tmp_path / "a.csv", b"text,n\na,1\nb\xff,2\nc,\xe4\nd,4\n"))
    assert result.texts() == ["a", "d"]
    assert [(position, reason.partition(".")[0]) for position, _, reason in result.reasons()] == [
        (1, "text is not UTF-8: byte 1"),
        (2, "n is not UTF-8: byte 0"),
    ]


def test_another_number_of_fields_fails_only_its_row(tmp_path, read):
    result = read(write(tmp_path / "a.csv", "text,n\na\nb,1\nc,2,3\n"))
    assert [(row["text"], row["position"]) for row in result.rows] == [("b", 1)]
    assert result.reasons() == [
        (0, "read", "line 2 has 1 fields, not 2"),
        (2, "read", "line 4 has 3 fields, not 2"),
    ]


def test_an_unclosed_quote_does_not_swallow_the_rest_in_silence(tmp_path, read):
    result = read(write(tmp_path / "a.csv", 'n,text\n1,a\n2,"b\n3,c\n4,d\n'))
    assert result.texts() == ["a"]
    assert result.reasons() == [(1, "file", "line 3: a quote is never closed")]


def test_long_fields_are_read(tmp_path, read):
    assert read(write(tmp_path / "a.csv", f"text,n\n{'x' * 300_000},1\n")).texts() == [
        "x" * 300_000
    ]


def test_names_of_columns_are_made_unique(tmp_path, read):
    assert read(write(tmp_path / "a.csv", ",text,n,n\n1,a,2,3\n")).source.columns == (
        "column_1",
        "n",
        "n_2",
    )


@pytest.mark.parametrize(
    ("data", "options", "mark"),
    [
        ("id;text\n1;a, b\n", {}, ";"),
        ("id\ttext\n1\ta\n", {}, "\\t"),
        ("\n\nid|text\n1|a\n", {}, "|"),
        ("text;a|b|c\n", {}, "|"),
        ("1;a\n2;b\n", {"no_header": True}, ";"),
        ("id,text\n1,a\n", {"delimiter": ";"}, ","),
    ],
)
def test_a_header_of_one_column_that_holds_a_delimiter_is_refused(
    tmp_path, read, data, options, mark
):
    path = write(tmp_path / "a.csv", data)
    message = f"a.csv: it has one column if .* holds .*--delimiter '{re.escape(mark)}'.*--lines"
    with pytest.raises(SourceError, match=message):
        read(path, **options)


def test_commas_in_a_file_of_tabs_are_told(tmp_path, read):
    with pytest.raises(SourceError, match=r"holds ','. If that parts them, let its name end in"):
        read(write(tmp_path / "a.tsv", "id,text\n1,a\n"))


def test_a_later_file_of_one_column_is_a_failure(tmp_path, read):
    write(tmp_path / "a.csv", "id,text\n1,a\n")
    write(tmp_path / "b.csv", "id;text\n2;b\n")
    result = read(tmp_path)
    assert (result.texts(), result.failures[0]["stage"]) == (["a"], "file")
    assert "one column if ',' parts the fields" in result.failures[0]["reason"]


@pytest.mark.parametrize(
    ("data", "options", "texts"),
    [
        ("text\na; b\nc|d\n", {}, ["a; b", "c|d"]),
        ('"text;note"\na\n', {}, ["a"]),
        ("Hello, world\nBye\n", {"no_header": True, "delimiter": ";"}, ["Hello, world", "Bye"]),
    ],
)
def test_a_true_file_of_one_column_is_read(tmp_path, read, data, options, texts):
    assert read(write(tmp_path / "a.csv", data), **options).texts() == texts


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_first_line_may_name_the_delimiter(tmp_path, read, first):
    result = read(write(tmp_path / "a.csv", first + "n;text\r\n1;a, b\r\n2\r\n"))
    assert [(row["n"], row["text"], row["position"]) for row in result.rows] == [("1", "a, b", 0)]
    assert result.reasons() == [(1, "read", "line 4 has 1 fields, not 2")]


def test_a_column_that_is_asked_for_stands_there_once(tmp_path, read):
    path = write(tmp_path / "a.csv", "text,n,text,n\na,1,b,2\n")
    with pytest.raises(SourceError, match=r"a.csv: it has 2 columns 'text'. Rename all but"):
        read(path)
    path = write(tmp_path / "a.csv", "text,n,k,n\na,1,x,2\n")
    for options in ({"id_column": "n"}, {"columns": ("n",)}):
        with pytest.raises(SourceError, match="2 columns 'n'"):
            read(path, **options)
    (row,) = read(path).rows
    assert (row["text"], row["n"], row["n_2"]) == ("a", "1", "2")
    write(tmp_path / "b.csv", "text,text\na,b\n")
    assert read(tmp_path).failures[0]["reason"].startswith("it has 2 columns 'text'")


def test_a_truncated_file_gives_its_rows_so_far(tmp_path, read):
    rows = [f"{n},text {n * 7919 % 10007}" for n in range(20_000)]
    data = gzip.compress("\n".join(["n,text", *rows]).encode())
    result = read(write(tmp_path / "a.csv.gz", data[: len(data) // 2]))
    assert 1000 < len(result.rows) < 20_000
    assert result.reasons() == [
        (
            len(result.rows),
            "file",
            "Compressed file ended before the end-of-stream marker was reached",
        )
    ]


def test_a_file_without_the_columns_is_a_failure(tmp_path, read):
    write(tmp_path / "a.csv", "key,text\n1,a\n")
    write(tmp_path / "b.csv", "text,other\na,b\n")
    result = read(tmp_path, id_column="key")
    assert result.ids() == ["1"]
    assert result.reasons() == [(0, "file", "no column 'key' among text, other")]


def test_a_header_alone_is_no_rows(tmp_path, read):
    assert read(write(tmp_path / "a.csv", "text,n\n")).rows == []


@pytest.mark.data
def test_real_news_are_read(read):
    data = Path(os.environ.get("EMBATCH_TEST_DATA", "../shared/data")) / "10kgnad" / "test.csv"
    if not data.exists():
        pytest.skip(f"{data} is not here: set EMBATCH_TEST_DATA")
    options = {"delimiter": ";", "quote": "'", "no_header": True, "text_column": ("column_2",)}
    result = read(data, **options)
    assert (len(result.rows), len(result.failures)) == (1028, 0)
    assert len({row["column_1"] for row in result.rows}) == 9


def test_options_that_cannot_be_meant_are_refused():
    with pytest.raises(SourceError, match="Delimiter ';;' is not one character"):
        SourceOptions("a.csv", delimiter=";;")
    with pytest.raises(
        SourceError, match="Quote '``' is not one character; empty means no quoting"
    ):
        SourceOptions("a.csv", quote="``")
    with pytest.raises(SourceError, match="max_chars is 0, expected 1 or more"):
        SourceOptions("a.csv", max_chars=0)
    with pytest.raises(SourceError, match="SOURCE is empty"):
        SourceOptions("")
