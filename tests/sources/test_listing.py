import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from sources import SOURCES, SourceError, SourceOptions, open_source


def write(path, data="a"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)
    return path


FILES = "_DSC0001.txt _SUCCESS.md _delta_log.md _index.md _notes/_metadata/a.md _posts/a.md a/__/b.md z.md"
BESIDE_ROWS = (
    "_SUCCESS _metadata _common_metadata _committed_17 _started_17 "
    "_spark_metadata/0.md _temporary/0/a.md __MACOSX/a.md"
)
NO_FILES = ".a.txt ._DSC0001.txt .git/a.md a/.b/c.md"


@pytest.fixture(params=["local", "fsspec", "object store"])
def folder_of(request, tmp_path, monkeypatch):
    """Writes files of these names and returns their folder's address, in each kind of place."""

    def make(names):
        if request.param == "fsspec":
            fs.pipe({f"/corpus/{name}": b"a" for name in names})
            return "memory://corpus"
        for name in names:
            write(tmp_path / "corpus" / name)
        return "s3://bucket/corpus" if request.param == "object store" else str(tmp_path / "corpus")

    fs = fsspec.filesystem("memory")
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr("sources.listing.filesystem", lambda *_: bucket)
    yield make
    if fs.exists("/corpus"):
        fs.rm("/corpus", recursive=True)


def test_names_that_begin_with_a_dot_and_what_tables_keep_are_no_files(folder_of, read):
    beside = BESIDE_ROWS.split()
    folder = folder_of(
        [*FILES.split(), *beside, *(f"deep/er/{name}" for name in beside), *NO_FILES.split()]
    )
    result = read(folder)
    assert result.ids() == FILES.split()
    assert result.source.left_out() == {}
    assert read(f"{folder}/**/_*.md").ids() == ["_SUCCESS.md", "_delta_log.md", "_index.md"]


def test_a_folder_of_what_is_no_file_is_refused(folder_of, read):
    folder = folder_of([*BESIDE_ROWS.split(), *NO_FILES.split()])
    with pytest.raises(SourceError, match="is empty, or holds hidden files alone .* _SUCCESS"):
        read(folder)


def test_what_is_not_read_is_counted_by_ending(folder_of, read):
    others = ["README", "_a.HEIC", "b.heic", "c.svg", "d/e.svg.gz", "d/f.gz", "g.heic", "license"]
    source = read(folder_of(["a.txt", *others])).source
    assert list(source.left_out().items()) == [(".heic", 3), (".svg", 2), ("none", 2), (".gz", 1)]


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/0.json", "Delta"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
    ],
)
def test_files_of_a_table_below_the_folder_are_refused(folder_of, read, mark, kind):
    folder = folder_of([f"lake/a/{mark}", "lake/a/x.parquet", "lake/b.md"])
    for path in (folder, f"{folder}/**/*.parquet"):
        with pytest.raises(
            SourceError, match=f"holds files of a table of {kind}, .*/lake/a. Read one by one"
        ):
            read(path)
    assert read(f"{folder}/*/*.md").ids() == ["lake/b.md"]


@pytest.mark.parametrize("mark", [".hoodie/hoodie.properties", "metadata/v1.metadata.json"])
def test_a_table_of_another_kind_is_refused(folder_of, read, mark):
    with pytest.raises(SourceError, match="holds files of a table of .* Export its rows first"):
        read(folder_of([mark, "data/x.parquet"]))


def test_a_readme_beside_tables_is_counted(folder_of, read):
    folder = folder_of(["README.md", "a.csv", "LICENSE.txt", "_notes.pdf"])
    assert read(folder, no_header=True).source.left_out() == {".md": 1, ".pdf": 1, ".txt": 1}


def test_what_a_glob_does_not_match_is_not_meant(folder_of, read):
    folder = folder_of(["a.txt", "b.pdf", "c/d.pdf"])
    assert read(f"{folder}/*").source.left_out() == {".pdf": 1}
    assert read(f"{folder}/*.txt").source.left_out() == {}
    assert read(f"{folder}/a.txt").source.left_out() == {}
    assert read(folder, lines=True).source.left_out() == {}


def test_a_folder_under_a_hidden_one_is_read(tmp_path, read):
    write(tmp_path / ".cache" / "corpus" / "a.txt")
    assert read(tmp_path / ".cache" / "corpus").ids() == ["a.txt"]


def test_loops_of_links_end_and_links_are_followed(tmp_path, read):
    write(tmp_path / "elsewhere" / "b.txt")
    write(tmp_path / "corpus" / "a" / "x.txt")
    (tmp_path / "corpus" / "a" / "loop").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "file.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    assert read(tmp_path / "corpus").ids() == ["a/x.txt", "file.txt", "link/b.txt"]


def test_links_that_lead_nowhere_are_failures(tmp_path, read):
    write(tmp_path / "a.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    result = read(tmp_path)
    assert result.ids() == ["a.txt"]
    assert result.reasons() == [
        (0, "file", "No such file or directory"),
        (0, "file", "Too many levels of symbolic links"),
    ]


def test_a_pipe_is_no_file(tmp_path, read):
    write(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path).ids() == ["a.txt"]


@contextmanager
def nobody():
    """As a user who may not read everything; root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_told_and_the_rest_goes_on(read):
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in ("a.txt", "b.txt", "locked/c.txt", "open/d.txt"):
            write(folder / file)
        (folder / "b.txt").chmod(0)
        (folder / "locked").chmod(0)
        try:
            with nobody():
                result = read(folder)
        finally:
            (folder / "locked").chmod(0o755)
    assert result.ids() == ["a.txt", "open/d.txt"]
    assert result.reasons() == [(0, "file", "Permission denied")]
    assert result.source.unlisted() == [("locked", "Permission denied")]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_a_file_that_vanishes_after_listing_is_a_failure(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", '{"text": "a"}')
    source = open_source(SourceOptions(str(path), text_column=() if kind == "txt" else ("text",)) if kind in
                         ("txt", "jsonl", "parquet") else SourceOptions(str(path), no_header=True))  # fmt: skip
    pieces = source.pieces()
    path.unlink()
    ((table, failures, _),) = source.read(pieces[0])
    assert len(table) == 0
    assert failures.select(["position", "stage", "reason"]).to_pylist() == [
        {"position": 0, "stage": "file", "reason": "No such file or directory"}
    ]


@pytest.mark.parametrize(
    ("kind", "stage", "reason"),
    [
        ("txt", "read", "text is empty"),
        ("md", "read", "text is empty"),
        ("parquet", "file", "Parquet file size is 0 bytes"),
    ],
)
def test_an_empty_file_that_is_an_item_or_no_table_is_a_failure(
    tmp_path, read, kind, stage, reason
):
    path = write(tmp_path / f"a.{kind}", "")
    assert read(path).rows == []
    assert read(path).reasons() == [(0, stage, reason)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "jsonl.gz", "csv.zst"])
def test_an_empty_file_of_lines_has_no_rows_and_is_no_error(tmp_path, read, kind):
    path = write(tmp_path / f"a.{kind}", "")
    assert (read(path).rows, read(path).failures) == ([], [])
    other = "other.jsonl" if "json" in kind else f"other.{kind[:3]}"
    mark = "\t" if kind == "tsv" else ","
    write(tmp_path / other, '{"text": "a"}' if "json" in kind else f"text{mark}n\na{mark}1\n")
    assert (read(tmp_path).texts(), read(tmp_path).failures) == (["a"], [])


def test_globs(tmp_path, read):
    for name in ("a.txt", "b.md", "x/c.txt", "x/y/d.txt", "x/.z/e.txt"):
        write(tmp_path / name)
    assert read(tmp_path / "*.txt").ids() == ["a.txt"]
    assert read(tmp_path / "**/*.txt").ids() == ["a.txt", "x/c.txt", "x/y/d.txt"]
    assert read(tmp_path / "x/?.txt").ids() == ["c.txt"]
    assert read(tmp_path / "[ab].*").ids() == ["a.txt", "b.md"]


def test_a_name_that_looks_like_a_glob_is_a_file_if_there_is_one(tmp_path, read):
    assert read(write(tmp_path / "a[1].txt")).ids() == ["a[1].txt"]


def test_any_fsspec_address(read):
    fs = fsspec.filesystem("memory")
    fs.pipe(
        {
            "/corpus/a.txt": b"a",
            "/corpus/x/b.txt": b"b",
            "/corpus/.c.txt": b"c",
            "/one.jsonl": b'{"text": "d"}',
        }
    )
    try:
        assert read("memory://corpus").ids() == ["a.txt", "x/b.txt"]
        assert read("memory://corpus/**/*.txt").ids() == ["a.txt", "x/b.txt"]
        assert read("memory://one.jsonl").texts() == ["d"]
        with pytest.raises(
            SourceError,
            match="There is no file or folder memory://corpu. / holds corpus, one.jsonl",
        ):
            read("memory://corpu")
    finally:
        fs.rm("/", recursive=True)


def test_storage_options_reach_the_file_system(tmp_path, read):
    write(tmp_path / "a.txt")
    source = open_source(SourceOptions(str(tmp_path), storage_options={"auto_mkdir": "yes"}))
    assert source.fs.auto_mkdir == "yes"


def test_an_unknown_protocol_is_refused(read):
    with pytest.raises(
        SourceError, match="Cannot open nope://x: .*Expected a local path or an address"
    ):
        read("nope://x")


def test_a_missing_path_names_what_is_there(tmp_path, read):
    write(tmp_path / "corpus.jsonl")
    with pytest.raises(
        SourceError,
        match=r"no file or folder .*corpsu.jsonl. .* holds corpus.jsonl. Did you mean 'corpus.jsonl'\?",
    ):
        read(tmp_path / "corpsu.jsonl")
    with pytest.raises(SourceError, match=rf"{tmp_path} holds corpus.jsonl\."):
        read(tmp_path / "no" / "such" / "folder")


@pytest.mark.parametrize(
    "path", ["./corpus", "a/b/c", "corpus.csv", "/corpus", "data/corpus.jsonl", "../x"]
)
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(tmp_path, read, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError, match="^There is no file or folder [^ ]+ [^ ]+ holds (?!.*hub)"
    ):
        read(path)


def test_an_empty_folder_is_refused(tmp_path, read):
    with pytest.raises(SourceError, match="Folder .* is empty, or holds hidden files alone"):
        read(tmp_path)


def test_a_glob_that_matches_nothing_is_refused(tmp_path, read):
    write(tmp_path / "a.txt")
    with pytest.raises(
        SourceError, match=r"The glob .*\*.csv matches no file. .* holds a.txt\. A glob names files"
    ):
        read(tmp_path / "*.csv")
    with pytest.raises(SourceError, match=rf"matches no file. {tmp_path} holds a.txt"):
        read(tmp_path / "nowhere" / "*.csv")


def test_a_folder_of_unknown_files_is_refused(tmp_path, read):
    write(tmp_path / "a.pdf")
    write(tmp_path / "README")
    with pytest.raises(
        SourceError, match=r"no file of a known ending. Known: .parquet, .*Found: .pdf, none"
    ):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"Found: .pdf\. With --lines"):
        read(tmp_path / "a.pdf")


def test_unknown_files_beside_known_ones_are_passed_over(tmp_path, read):
    write(tmp_path / "a.pdf")
    write(tmp_path / "b.txt")
    assert read(tmp_path).ids() == ["b.txt"]


def test_each_source_is_listed():
    assert list(SOURCES) == ["labels", "delta", "feeds", "dataset", "folder"]
