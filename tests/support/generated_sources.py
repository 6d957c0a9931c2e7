"""Sources of every kind, written from a few drawn rows, and what each of their rows is.

`ROWS` draws rows, `KINDS` writes them as files of one kind, and `items` says what stands where, read
by nothing of embatch: `account` then tells what a table and its failures must hold after a run.
"""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image
from xxhash import xxh3_128_hexdigest

POISON = "POISON"
IDS = ["a", "b", "c", "d\u2028e", "é %20", "7", None]
TEXTS = ["sea", "ship", "storm at sea", "a\u0085b", " ", "", None, f"{POISON} 1", f"{POISON} 2"]
OTHERS = ("label", "source_id")  # a column `id` is another column where it is not the id
BAD = "bad"  # a row that no reader can parse
LONG = " and this is the rest of an item that is long enough to be one"


class Row(NamedTuple):
    """What is drawn: None stands for null, and a text that is BAD for no row at all."""

    id: str | None
    text: str | None
    label: str


class Item(NamedTuple):
    """A row of a source: its address, what it is, and the stage at which it fails by itself."""

    file: str
    position: int
    id: str | None
    content: object
    others: tuple
    fails: str | None


ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(IDS),
        st.sampled_from([*TEXTS, *TEXTS, BAD]),
        st.sampled_from(["x", "y"]),
    ),
    max_size=9,
)
FILES = st.lists(ROWS, min_size=1, max_size=3)


# -- tables of rows -----------------------------------------------------------------------------


def jsonl(rows):
    def line(row):
        return '{"id": ' if row.text == BAD else json.dumps(row._asdict())

    return "\n\n".join(map(line, rows)).encode()


def delimited(rows):
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(Row._fields)
    for row in rows:
        writer.writerow(["one", "too", "many", "fields"] if row.text == BAD else row)
    return sink.getvalue().encode()


def parquet(rows):
    sink = io.BytesIO()
    columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    pq.write_table(table, sink, row_group_size=2)
    return sink.getvalue()


def items_of_table(name, rows, *, with_ids, nulls=True, may_be_bad=True):
    """Rows of a file of columns; `nulls`: it knows them, else they are empty strings."""
    for position, row in enumerate(rows):
        text, id_ = (value if nulls else value or "" for value in (row.text, row.id))
        if text == BAD and may_be_bad:
            yield Item(name, position, None, None, (), "read")
            continue
        others = (row.label,) if with_ids else (row.label, id_)
        if not with_ids:
            id_ = xxh3_128_hexdigest((text or "").encode())
        fails = not (text or "").strip() or not id_
        yield Item(name, position, id_, text, others, "read" if fails else stage_of(text))


def stage_of(text):
    return "embed" if POISON in text else None


# -- files that are items -----------------------------------------------------------------------


def document(row):
    return b"no text \xff" if row.text == BAD else (row.text or "").encode()


def picture(row):
    """A PNG whose colour is the text's; POISON is cut in half, and empty is empty."""
    if not (row.text or "").strip():
        return b""
    colour = tuple(xxh3_128_hexdigest(row.text.encode()).encode()[:3])
    sink = io.BytesIO()
    Image.fromarray(np.full((5, 5, 3), colour, np.uint8)).save(sink, "PNG")
    return sink.getvalue()[: 40 if row.text == BAD or POISON in row.text else None]


def feed(rows):
    """Items parted by a line of one blank, which hold no more than that."""
    texts = (f"{row.text}{LONG}" if len(row.text or "") > 3 else row.text or "" for row in rows)
    return "\n \n".join(texts).encode()


def labels(rows):
    lines = (f"{row.id or ''}: {row.text}" if row.text else f"{row.id or ''}" for row in rows)
    return "\n".join(lines).encode()


# -- kinds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of source: what a file is called, what it holds, and what its rows are.

    Attributes:
        options: of EmbedConfig.
        others: columns that `Item.others` holds, where the table has them.
        with_ids: whether rows have ids of their own, or may: both are drawn.
        broken: what a file is called that belongs to the source and cannot be read.
        counts_others: whether files beside those that are read are counted as left out.
    """

    write: object
    items: object
    options: dict = field(default_factory=dict)
    others: tuple[str, ...] = ()
    with_ids: tuple[bool, ...] = (True, False)
    is_image: bool = False
    broken: str | None = None
    counts_others: bool = True


def names(ending, files):
    return {f"{stem}{ending}": rows for stem, rows in zip(cycle("abc"), files, strict=False)}


def tables(ending, write, **known):
    def files(drawn):
        return {name: write(rows) for name, rows in names(ending, drawn).items()}

    def items(drawn, with_ids):
        for name, rows in names(ending, drawn).items():
            yield from items_of_table(name, rows, with_ids=with_ids, **known)

    broken = "z.csv.gz" if ending == ".csv" else "z.jsonl.gz"  # JSON lines go with Parquet
    return Kind(files, items, {"text_column": "text"}, OTHERS, broken=broken)


def files_of_delta(drawn):
    """A log by hand, the files that it names, and one whose rows were overwritten."""
    live = {name: parquet(rows) for name, rows in names(".parquet", drawn).items()}
    fields = [{"name": n, "type": "string", "nullable": True, "metadata": {}} for n in Row._fields]
    metadata = {"id": "1", "format": {"provider": "parquet", "options": {}}, "createdTime": 1}
    metadata |= {"schemaString": json.dumps({"type": "struct", "fields": fields})}
    metadata |= {"partitionColumns": [], "configuration": {}}
    added = [
        {"path": name, "size": len(content), "partitionValues": {}, "modificationTime": 1}
        for name, content in live.items()
    ]
    actions = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": metadata},
        *({"add": {**one, "dataChange": True}} for one in added),
    ]
    log = "\n".join(map(json.dumps, actions)).encode()
    stale = {"aa.parquet": parquet([Row("a", "overwritten", "x"), Row("gone", "deleted", "x")])}
    return {**live, **stale, f"_delta_log/{0:020}.json": log}


PARTITIONS = {"lang=d%20e/day=1/": ("d e", "1"), "": (None, None), "day=2/": (None, "2")}


def in_partitions(drawn):
    """A file of JSON lines in each of up to three folders: name, values of partition columns, rows."""
    for (folder, values), rows in zip(PARTITIONS.items(), drawn, strict=False):
        yield f"{folder}rows.jsonl", values, rows


def files_of_partitions(drawn):
    return {name: jsonl(rows) for name, _, rows in in_partitions(drawn)}


def items_of_partitions(drawn, with_ids):
    for name, (lang, day), rows in sorted(in_partitions(drawn)):
        start = f"m2:s3:days1:{day}s4:langs3:{lang}" if lang else f"m1:s3:days1:{day}"
        for item in items_of_table(name, rows, with_ids=with_ids):
            id_ = item.id
            if day and id_ and not with_ids:
                id_ = xxh3_128_hexdigest(start.encode() + bytes.fromhex(id_))
            others = () if item.fails == "read" else (*item.others, lang, day)
            yield item._replace(id=id_, others=others)


def split_into_files(ending, drawn):
    """One file a row, in folders whose names begin with what hides a file elsewhere."""
    return {
        f"_{folder}/{number}{ending}": row
        for folder, rows in enumerate(drawn)
        for number, row in enumerate(rows)
    }


def whole_files(ending, write, fails, content, *, is_image=False):
    def files(drawn):
        return {name: write(row) for name, row in split_into_files(ending, drawn).items()}

    def items(drawn, _):
        for name, row in sorted(split_into_files(ending, drawn).items()):
            yield Item(name, 0, name, content(row), (), fails(row))

    return Kind(files, items, with_ids=(False,), is_image=is_image)


def document_fails(row):
    unreadable = row.text == BAD or not (row.text or "").strip()
    return "read" if unreadable else stage_of(row.text)


def picture_fails(row):
    if not (row.text or "").strip():
        return "read"
    return "decode" if row.text == BAD or POISON in row.text else None


def files_of_lines(drawn):
    texts = {name: [row.text or "" for row in rows] for name, rows in names(".log", drawn).items()}
    return {name: "\n".join(lines).encode() for name, lines in texts.items()}


def items_of_lines(drawn, _):
    for name, rows in names(".log", drawn).items():
        texts = [row.text for row in rows if (row.text or "").strip()]
        for position, text in enumerate(texts):
            yield Item(name, position, xxh3_128_hexdigest(text.encode()), text, (), stage_of(text))


def files_of_feeds(drawn):
    return {f"cat/f-2024-01-0{n}/00-00.txt": feed(rows) for n, rows in enumerate(drawn, start=1)}


def items_of_feeds(drawn, _):
    for n, rows in enumerate(drawn, start=1):
        name = f"cat/f-2024-01-0{n}/00-00.txt"
        texts = [row.text.strip() for row in rows if (row.text or "").strip()]
        for position, text in enumerate(texts):
            if len(text) <= 3:
                yield Item(name, position, None, text, (), "left out")
                continue
            text += LONG
            id_, when = xxh3_128_hexdigest(text.encode()), (datetime(2024, 1, n, tzinfo=UTC),)
            yield Item(name, position, id_, text, when, stage_of(text))


def files_of_labels(drawn):
    return {"classes.txt": labels(drawn[0])}


def items_of_labels(drawn, _):
    lines = [line.strip() for line in labels(drawn[0]).decode().split("\n")]
    for position, line in enumerate(filter(None, lines)):
        name, colon, wording = line.partition(": ")
        text = wording.strip() if colon else name.strip()
        fails = "read" if not (name.strip() and text) else stage_of(text)
        yield Item("classes.txt", position, name.strip(), text, (), fails)


KINDS = {
    "jsonl": tables(".jsonl", jsonl),
    "csv": tables(".csv", delimited, nulls=False),
    "parquet": tables(".parquet", parquet, may_be_bad=False),
    "delta": Kind(
        files_of_delta,
        tables(".parquet", parquet, may_be_bad=False).items,
        {"text_column": "text"},
        OTHERS,
        counts_others=False,
    ),
    "partitions": Kind(
        files_of_partitions,
        items_of_partitions,
        {"text_column": "text"},
        (*OTHERS, "lang", "day"),
    ),
    "documents": whole_files(
        ".txt", document, document_fails, lambda row: row.text if row.text != BAD else None
    ),
    "images": whole_files(".png", picture, picture_fails, picture, is_image=True),
    "lines": Kind(files_of_lines, items_of_lines, {"lines": True}, with_ids=(False,)),
    "feeds": Kind(files_of_feeds, items_of_feeds, {"feeds": True}, ("published",), (False,)),
    "labels": Kind(files_of_labels, items_of_labels, {"labels": True}, with_ids=(True,)),
    "passages": Kind(
        tables(".jsonl", jsonl).write,
        tables(".jsonl", jsonl).items,
        {"text_column": "text", "chunk_tokens": 2},
        OTHERS,
    ),
}


# -- what a run makes of them -------------------------------------------------------------------


@dataclass
class Account:
    """What must stand where after a run.

    Attributes:
        table: id to (content, others).
        failed: address to (stage, id).
        counts: those of the summary.
    """

    table: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)


def account(items, before, *, prune, broken=None):
    """The account of one run.

    Args:
        items: of the source, in their order.
        before: the account of the run before.
        prune: rows that the source has no longer go; not if a part of it is broken.
        broken: a file that cannot be read.
    """
    old_failed, before = before.failed, before.table
    table, failed, counts = {}, {}, Counter(dict.fromkeys(("left_out", "deleted"), 0))
    won, refused = {}, set()
    for item in items:
        counts["rows_read"] += 1
        address = item.file, item.position
        if item.fails in ("left out", "read"):
            counts["left_out" if item.fails == "left out" else "failed"] += 1
            if item.fails == "read":
                failed[address] = "read", item.id
                refused.add(item.id)
        elif item.id not in won:
            won[item.id] = item
        elif won[item.id].content == item.content:
            counts["duplicates"] += 1
        else:
            counts["failed"] += 1
            failed[address] = "id", item.id
    for id_, item in won.items():
        if item.fails:
            counts["failed"] += 1
            failed[item.file, item.position] = item.fails, id_
            continue
        table[id_] = item.content, item.others
        old = before.get(id_)
        if old == table[id_]:
            counts["unchanged"] += 1
        elif old is None:
            counts["embedded"] += 1
        else:
            counts["updated" if old[0] == item.content else "replaced"] += 1
    vanished = before.keys() - won.keys() - refused
    counts["withdrawn"] = len(before.keys() - vanished - table.keys())
    if broken is not None:
        counts["rows_read"] += 1
        counts["failed"] += 1
        stay = {at: f for at, f in old_failed.items() if at[0] == broken and f[1] not in won}
        failed |= {**stay, (broken, 0): ("file", None)}
    if prune and broken is None:
        counts["deleted"] = len(vanished)
    else:
        table |= {id_: before[id_] for id_ in vanished}
    return Account(table, failed, counts)
