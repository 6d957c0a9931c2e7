from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pytest
from xxhash import xxh3_128_hexdigest

from sources import SourceError
from sources.feeds import FeedSource, parse_fetch_name

LONG = "This item of news is long enough to be kept by the reader. Number "


def write(root, name, *items):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\n \n".join(item if isinstance(item, bytes) else item.encode() for item in items)
    path.write_bytes(data)


@pytest.fixture
def read(read):
    return partial(read, feeds=True)


@pytest.fixture
def feeds(tmp_path):
    write(tmp_path, "sport/de/kicker-2024-03-01/18-30.txt", f"{LONG}1", "short", f"\n  {LONG}2 \n")
    write(tmp_path, "sport/de/kicker-2024-03-01/19-30.txt", f"{LONG}2", f"{LONG}ü")
    write(tmp_path, "politics/the-daily-2024-03-02/00-05.txt", f"{LONG}3")
    return tmp_path


def test_a_folder_of_feeds_is_read_by_items(feeds, read):
    result = read(feeds)
    assert isinstance(result.source, FeedSource)
    assert result.source.columns == ("label", "feed", "published")
    assert [(r["position"], r["text"][-1], r["label"], r["feed"]) for r in result.rows] == [
        (0, "3", "politics", "the-daily"),
        (0, "1", "sport", "kicker"),
        (2, "2", "sport", "kicker"),
        (0, "2", "sport", "kicker"),
        (1, "ü", "sport", "kicker"),
    ]
    assert result.rows[0]["published"] == datetime(2024, 3, 2, 0, 5, tzinfo=UTC)
    assert result.tables[0].schema.field("published").type == pa.timestamp("us", "UTC")


def test_ids_are_content_hashes_so_that_duplicates_collapse(feeds, read):
    ids = read(feeds).ids()
    assert ids[2] == ids[3] == xxh3_128_hexdigest(f"{LONG}2".encode())


def test_an_item_needs_more_than_50_characters(tmp_path, read):
    write(tmp_path, "a/f-2024-01-01/00-00.txt", "ü" * 50, " " + "ü" * 51 + " ", "x" * 49 + "\n\n\n")
    result = read(tmp_path)
    assert result.texts() == ["ü" * 51]
    assert result.left_out == {"items of fewer than 51 characters": 2}


def test_an_item_that_is_not_utf8_fails_alone(tmp_path, read):
    write(tmp_path, "a/f-2024-01-01/00-00.txt", f"{LONG}1", b"\xff" + LONG.encode(), f"{LONG}2")
    result = read(tmp_path)
    assert [row["position"] for row in result.rows] == [0, 2]
    ((position, stage, reason),) = result.reasons()
    assert (position, stage, reason[:25]) == (1, "read", "text is not UTF-8: byte 0")


def test_a_day_that_does_not_exist_fails_its_file_alone(feeds, read):
    write(feeds, "politics/f-2024-02-30/00-00.txt", f"{LONG}9")
    result = read(feeds)
    assert len(result.rows) == 5
    (failure,) = result.failures
    assert (failure["source_file"], failure["stage"]) == ("politics/f-2024-02-30/00-00.txt", "file")
    assert "out of range" in failure["reason"]


def test_files_of_other_names_are_left_out(feeds, read):
    for name in ("notes.txt", "sport/kicker/18-30.txt", "README.md"):
        write(feeds, name, LONG)
    result = read(feeds)
    assert len(result.ids()) == 5
    assert result.source.left_out() == {".txt": 2, ".md": 1}
    assert result.source.remarks() == []


def test_without_the_option_they_are_documents_and_that_is_said(feeds, read):
    result = read(feeds, feeds=False)
    assert result.ids() == [
        "politics/the-daily-2024-03-02/00-05.txt",
        "sport/de/kicker-2024-03-01/18-30.txt",
        "sport/de/kicker-2024-03-01/19-30.txt",
    ]
    (remark,) = result.source.remarks()
    assert "are named like fetches of news feeds (CATEGORY/" in remark
    assert "each is read as one document. --feeds reads the items" in remark
    assert read(feeds, feeds=False, lines=True).source.remarks() == []
    write(feeds, "notes.txt", "notes")
    assert read(feeds, feeds=False).source.remarks() == []


def test_a_folder_without_feeds_is_refused(tmp_path, read):
    write(tmp_path, "sport/a.txt", LONG)
    with pytest.raises(
        SourceError, match=r"holds no feeds: expected .*hh-mm.txt, .* found sport/a.txt\. Without"
    ):
        read(tmp_path)
    with pytest.raises(SourceError, match="--lines, --labels and --feeds read a file in different"):
        read(tmp_path, lines=True)


def test_feeds_have_the_columns_they_have(feeds, read):
    with pytest.raises(
        SourceError, match="no column 'title'.*It has: text, label, feed, published"
    ):
        read(feeds, text_column=("title",))
    assert read(feeds, columns=("label",)).tables[0].column_names[6:] == ["label"]


def test_names_say_category_feed_and_time():
    expected = ("sport", "kicker", datetime(2024, 3, 1, 18, 30, tzinfo=UTC))
    assert parse_fetch_name("sport/de/kicker-2024-03-01/18-30.txt") == expected
    assert parse_fetch_name("sport/a-b-2024-03-01/18-30.txt.gz")[1] == "a-b"
