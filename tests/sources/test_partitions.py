import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xxhash import xxh3_128_hexdigest

from sources import SourceError
from sources.partitions import partition_of

TEXTS = {"de": ["taxi"], "fr": ["taxi", "hotel"]}


def as_parquet(path, texts):
    pq.write_table(pa.table({"text": texts}), path.with_suffix(".parquet"))


def as_jsonl(path, texts):
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    path.with_suffix(".jsonl").write_text("".join(lines))


def as_csv(path, texts):
    path.with_suffix(".csv").write_text("\n".join(["text", *texts]))


def as_documents(path, texts):
    for number, text in enumerate(texts):
        path.with_name(f"{number}.txt").write_text(text)


def as_images(path, texts):
    for number, text in enumerate(texts):
        path.with_name(f"{number}.png").write_text(text)


def as_log(path, texts):
    path.with_suffix(".log").write_text("\n".join(texts))


TABLES = [as_parquet, as_jsonl, as_csv, as_log]


def write(root, form, partitions=None):
    for folder, texts in (partitions or {f"lang={key}": t for key, t in TEXTS.items()}).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        form(root / folder / "part", texts)
    return root


def found(result, *columns):
    return sorted(tuple(row[name] for name in columns) for row in result.rows)


@pytest.mark.parametrize("form", TABLES)
def test_the_column_is_there_and_equal_texts_of_two_partitions_are_two_rows(tmp_path, read, form):
    result = read(write(tmp_path, form), lines=form is as_log)
    assert found(result, "text", "lang") == [("hotel", "fr"), ("taxi", "de"), ("taxi", "fr")]
    assert len(set(result.ids())) == 3
    assert len({row["row_hash"] for row in result.rows}) == 2
    assert result.source.columns == ("lang",)
    assert result.source.remarks() == [
        "partition columns are read from the names of folders: lang."
    ]


@pytest.mark.parametrize("form", [as_documents, as_images])
def test_files_that_are_items_keep_their_paths_as_ids(tmp_path, read, form):
    result = read(write(tmp_path, form))
    ending = "txt" if form is as_documents else "png"
    assert found(result, "id", "lang") == [
        (f"lang=de/0.{ending}", "de"),
        (f"lang=fr/0.{ending}", "fr"),
        (f"lang=fr/1.{ending}", "fr"),
    ]


def test_a_partition_of_arrows_own_is_read_as_it_was_written(tmp_path, read):
    values = [("de", 2024), ("fr", 2025), ("a b/c=ü", 2024), (None, 2025)]
    languages, years = zip(*values, strict=True)
    table = pa.table({"text": ["taxi"] * 4, "lang": languages, "year": years})
    pq.write_to_dataset(table, tmp_path, partition_cols=["year", "lang"])
    result = read(tmp_path)
    assert {(row["lang"], int(row["year"])) for row in result.rows} == set(values)
    assert len(set(result.ids())) == 4


def test_ids_are_of_partition_and_content_and_without_a_partition_of_content(tmp_path, read):
    write(tmp_path, as_jsonl, {".": ["taxi"], "lang=de": ["taxi"], "x/lang=de/y": ["taxi"]})
    content = xxh3_128_hexdigest(b"taxi")
    in_lang = xxh3_128_hexdigest(b"m1:s4:langs2:de" + bytes.fromhex(content))
    result = read(tmp_path)
    assert [(row["id"], row["lang"]) for row in result.rows] == [
        (in_lang, "de"),
        (content, None),
        (in_lang, "de"),
    ]
    assert {row["content_hash"].hex() for row in result.rows} == {content}


def test_ids_of_rows_that_fail_are_of_their_partition_too(tmp_path, read):
    write(tmp_path, as_csv, {"lang=de": ['" "'], "lang=fr": ['" "', "a"]})
    one, two = read(tmp_path).failures
    assert one["id"] != two["id"]
    assert (one["content_hash"], one["reason"]) == (two["content_hash"], "text is empty")


def test_ids_that_rows_have_stay(tmp_path, read):
    (tmp_path / "lang=de").mkdir()
    (tmp_path / "lang=de" / "a.jsonl").write_text('{"key": 7, "text": "taxi"}\n')
    assert read(tmp_path, id_column="key").ids() == ["7"]


def test_the_name_of_source_itself_says_nothing_and_what_a_glob_finds_does(tmp_path, read):
    write(tmp_path / "run=3", as_jsonl)
    german = read(tmp_path / "run=3" / "lang=de")
    assert found(german, "id") == [(xxh3_128_hexdigest(b"taxi"),)]
    assert (german.source.columns, german.source.remarks()) == ((), [])
    assert read(tmp_path / "run=3" / "*" / "*.jsonl").source.columns == ("lang",)


def test_a_column_that_the_files_have_is_theirs(tmp_path, read):
    write(tmp_path, as_jsonl, {"lang=de/n=1": ["taxi"]})
    file = tmp_path / "lang=de" / "n=1" / "part.jsonl"
    file.write_text('{"text": "taxi", "n": 1}\n')
    result = read(tmp_path)
    assert found(result, "lang", "n") == [("de", 1)]
    assert result.source.remarks() == [
        "partition columns are read from the names of folders: lang.",
        "partition columns that the files have too are read from the files: n.",
    ]


def test_columns_are_chosen_as_others_are(tmp_path, read):
    write(tmp_path, as_csv, {"lang=de/day=1": ["a"], "lang=fr/day=2": ["b"]})
    result = read(tmp_path, columns=("day",))
    assert (result.source.columns, found(result, "text", "day")) == (
        ("day",),
        [("a", "1"), ("b", "2")],
    )
    assert "lang" not in result.rows[0]
    with pytest.raises(SourceError, match="no column 'land' .asked for as other column"):
        read(tmp_path, columns=("land",))
    for options in ({"text_column": ("text", "lang")}, {"id_column": "lang"}):
        with pytest.raises(SourceError, match="'lang' of .* is one of partitions, not of files"):
            read(tmp_path, **options)


def test_columns_are_there_also_where_partitions_are_empty(tmp_path, read):
    write(tmp_path, as_log, {"lang=de": [], ".": ["a"]})
    result = read(tmp_path, lines=True)
    assert found(result, "text", "lang") == [("a", None)]
    assert result.source.columns == ("lang",)


def test_names_that_rows_have_already_get_a_prefix(tmp_path, read):
    write(tmp_path, as_csv, {"id=1/text=x": ["a"]})
    result = read(tmp_path)
    assert found(result, "text", "source_id") == [("a", "1")]


@pytest.mark.parametrize(
    ("name", "partition"),
    [
        ("a.csv", {}),
        ("lang=de.csv", {}),
        ("=de/a=/b/c.csv", {"a": ""}),
        ("lang=de/day=2024%2D01/a.csv", {"lang": "de", "day": "2024-01"}),
        ("x%20y=a=b/lang=__HIVE_DEFAULT_PARTITION__/a", {"x y": "a=b", "lang": None}),
    ],
)
def test_names_of_folders_say_columns_and_values(name, partition):
    assert partition_of(name) == partition
