import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sources import SourceError, SourceOptions, open_source
from sources.formats import webdataset

SAMPLE = {"jpg": b"an image", "txt": b" a dog \n", "json": b'{"width": 8}', "cls": b"3"}


def tar_of(path, samples, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, parts in samples.items():
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def tar_with(path, *members, **options):
    """A tar of (name, content), or of TarInfos that have none."""
    with tarfile.open(path, "w", **options) as tar:
        for one in members:
            member = one if isinstance(one, tarfile.TarInfo) else tarfile.TarInfo(one[0])
            content = b"" if isinstance(one, tarfile.TarInfo) else one[1]
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name, to, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, str(to)
    return member


def failed(result):
    return [(f["position"], f["id"], f["reason"]) for f in result.failures]


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_a_sample_is_a_row(tmp_path, read, name, mode):
    other = {"png": b"another image", "bin": b"unknown"}
    tar_of(tmp_path / name, {"000/1": SAMPLE, "000/2": other, "3": {"json": b"{}"}}, mode)
    result = read(tmp_path)
    first, second = result.rows
    assert first["id"] == f"{name}/000/1"
    assert first["image"] == {"bytes": b"an image", "path": f"{name}/000/1.jpg"}
    assert (first["caption"], first["json"], first["label"]) == ("a dog", '{"width": 8}', "3")
    assert result.source.columns == ("caption", "json", "label")
    assert (second["id"], second["caption"]) == (f"{name}/000/2", None)
    assert failed(result) == [(2, f"{name}/3.json", "no image beside it under its key, only .json")]
    assert result.left_out == {".bin in a tar": 1}


IMAGES_OF_ONE_KEY = {
    "0001.left.jpg": "for left",
    "0001.right.JPG": "for both",
    "0001.heic": "for both",
    "0001.png": "for both",
}


@pytest.mark.parametrize("reverse", [False, True])
def test_several_images_under_one_key_are_rows_whatever_their_order(tmp_path, read, reverse):
    members = [(name, name.encode()) for name in IMAGES_OF_ONE_KEY]
    members += [("0001.txt", b"for both"), ("0001.left.txt", b"for left"), ("0002.png", b"2")]
    result = read(tar_with(tmp_path / "a.tar", *(members[::-1] if reverse else members)))
    rows = {row["id"]: (row["image"]["bytes"].decode(), row["caption"]) for row in result.rows}
    names = {"a.tar/0001": "0001.heic"} | {
        f"a.tar/{name}": name for name in IMAGES_OF_ONE_KEY if name != "0001.heic"
    }
    want = {one: (name, IMAGES_OF_ONE_KEY[name]) for one, name in names.items()}
    assert rows == want | {"a.tar/0002": ("2", None)}
    assert not result.failures


def test_a_key_ends_at_the_first_dot_of_the_name_and_folders_may_have_dots(tmp_path, read):
    names = ("shot 2.0 final.jpg", "shot 2.1 final.jpg", "v1.5/plain.JPG", "2024.05.06.jpg")
    members = [(name, b"image") for name in names]
    texts = [(name[:-3] + "TXT", name.encode()) for name in names]
    both = [member for pair in zip(members, texts, strict=True) for member in pair]
    result = read(tar_with(tmp_path / "a.tar", *both))
    assert [(row["id"], row["caption"]) for row in result.rows] == [
        ("a.tar/shot 2.0 final.jpg", "shot 2.0 final.jpg"),
        ("a.tar/shot 2.1 final.jpg", "shot 2.1 final.jpg"),
        ("a.tar/v1.5/plain", "v1.5/plain.JPG"),
        ("a.tar/2024.05.06.jpg", "2024.05.06.jpg"),
    ]
    assert not result.failures


def test_members_that_stand_apart_do_not_vanish(tmp_path, read):
    kinds = [(f"000{n}.{end}", f"{n}".encode()) for end in ("jpg", "txt", "cls") for n in (1, 2)]
    result = read(tar_with(tmp_path / "a.tar", *kinds))
    assert [(row["id"], row["caption"]) for row in result.rows] == [
        ("a.tar/0001", None),
        ("a.tar/0002", None),
    ]
    reason = "no image beside it under its key, only {}"
    assert failed(result) == [
        (2, "a.tar/0001.txt", reason.format(".txt")),
        (3, "a.tar/0002.txt", reason.format(".txt")),
        (4, "a.tar/0001.cls", reason.format(".cls")),
        (5, "a.tar/0002.cls", reason.format(".cls")),
    ]


def test_the_same_name_twice_is_two_rows_of_one_id_and_no_column_is_overwritten(tmp_path, read):
    parts = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"first"), ("a.txt", b"second")]
    result = read(tar_with(tmp_path / "t.tar", *parts, ("b.jpg", b"3"), ("a.jpg", b"4")))
    rows = [(row["id"], row["image"]["bytes"], row["caption"]) for row in result.rows]
    assert rows == [
        *[("t.tar/a", b"1", "first"), ("t.tar/a", b"2", "first")],
        *[("t.tar/b", b"3", None), ("t.tar/a", b"4", None)],
    ]
    why = "another member of its name and ending stands before it"
    assert failed(result) == [(0, "t.tar/a.txt", why)]


def test_what_cannot_be_read_of_a_member_costs_no_other(tmp_path, read, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 100)
    members = [
        ("a.jpg", b"1"),
        ("a.txt", b"caf\xe9"),
        ("b.jpg", b"2" * 101),
        link("c.png", "a.jpg"),
    ]
    members += [link("d.jpg", "a.jpg", tarfile.LNKTYPE), ("e.jpg", b""), ("f.jpg", b"6")]
    result = read(tar_with(tmp_path / "a.tar", *members))
    assert [row["id"] for row in result.rows] == ["a.tar/a", "a.tar/f"]
    assert failed(result) == [
        (0, "a.tar/a.txt", "caption is not UTF-8: byte 3"),
        (2, "a.tar/b.jpg", "101 bytes, more than the 100 that are read"),
        (3, "a.tar/c.png", "a link or a device, which is not followed"),
        (4, "a.tar/d.jpg", "a link or a device, which is not followed"),
        (5, "a.tar/e", "the file is empty"),
    ]


def test_files_of_other_kinds_are_counted_and_hidden_ones_are_none(tmp_path, read):
    folder = tarfile.TarInfo("x")
    folder.type = tarfile.DIRTYPE
    members = [folder, ("x/._a.jpg", b"Mac OS X"), ("x/a.jpg", b"1"), ("x/._a.txt", b"Mac OS X")]
    members += [("x/a.txt", b"one"), ("x/a.mask.npy", b"0"), ("x/b.npy", b"0"), ("README", b"read")]
    result = read(tar_with(tmp_path / "a.tar", *members, (".hidden", b""), ("./c.jpg", b"2")))
    assert [(r["id"], r["caption"]) for r in result.rows] == [
        ("a.tar/x/a", "one"),
        ("a.tar/./c", None),
    ]
    assert result.left_out == {".npy in a tar": 2, "none in a tar": 1}
    assert not result.failures


def test_a_name_that_is_not_utf8_is_a_row(tmp_path, read):
    names = {"encoding": "latin-1", "format": tarfile.GNU_FORMAT}
    result = read(tar_with(tmp_path / "a.tar", ("caf\xe9.jpg", b"1"), ("é.jpg", b"2"), **names))
    assert result.ids() == [r"a.tar/caf\xe9", r"a.tar/\xe9"]


def test_a_whole_tar_under_one_key_is_not_held_in_memory(tmp_path, read, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_BYTES", 25)
    days = [(f"2024.{day}.{end}", day.encode() * 5) for day in "123456" for end in ("jpg", "txt")]
    members = [("2024.cls", b"x"), *days, ("2024.json", b"{}")]
    result = read(tar_with(tmp_path / "a.tar", *members))
    assert [(r["id"], r["caption"], r["label"], r["json"]) for r in result.rows] == [
        (f"a.tar/2024.{day}.jpg", day * 5, "x", None) for day in "123456"
    ]
    assert failed(result) == [
        (5, "a.tar/2024.json", "25 bytes of images of its key stand before it: put it first")
    ]


TEN = [f"{key}.{end}" for key in "ab" for end in ("jpg", "l.jpg", "l.txt", "png", "txt")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.permutations(TEN))
def test_each_image_is_a_row_and_each_text_is_taken_or_a_failure(tmp_path, read, names):
    result = read(tar_with(tmp_path / "t.tar", *((name, name.encode()) for name in names)))
    images = sorted(row["image"]["bytes"].decode() for row in result.rows)
    assert images == sorted(name for name in names if not name.endswith("txt"))
    for row in result.rows:
        name = row["image"]["bytes"].decode()
        assert row["id"] in (f"t.tar/{name}", f"t.tar/{name[0]}" if name.count(".") == 1 else "")
    taken = {row["caption"] for row in result.rows} - {None}
    lost = {f["id"].removeprefix("t.tar/") for f in result.failures}
    assert taken | lost == {name for name in names if name.endswith("txt")}
    assert not taken & lost


def test_a_tar_that_was_cut_off_costs_its_rest(tmp_path, read):
    path = tar_of(tmp_path / "a.tar", {f"{n:03}": SAMPLE for n in range(20)})
    path.write_bytes(path.read_bytes()[: 10 * 4 * 1024 + 700])
    tar_of(tmp_path / "b.tar", {"1": SAMPLE})
    result = read(tmp_path)
    assert [row["id"] for row in result.rows if row["id"].startswith("b")] == ["b.tar/1"]
    assert 8 <= len(result.rows) - 1 <= 10
    (failure,) = result.failures
    assert (failure["stage"], failure["source_file"]) == ("file", "a.tar")


@pytest.mark.parametrize("end", [6 * 1024, 6 * 1024 + 300])
def test_a_tar_that_was_cut_between_its_members_says_so(tmp_path, read, end):
    path = tar_of(tmp_path / "a.tar", {f"{n:03}": {"jpg": b"image"} for n in range(20)})
    path.write_bytes(path.read_bytes()[:end])
    result = read(path)
    assert len(result.rows) == 6
    assert result.reasons() == [
        (6, "file", "the tar stops without the zeros that end it: it was cut off or not closed")
    ]


def test_a_broken_header_or_a_second_tar_says_that_more_follows(tmp_path, read):
    reason = "more follows after a header that is broken, or after the end of a first tar"
    path = tar_of(tmp_path / "a.tar", {f"{n:03}": {"jpg": b"image"} for n in range(20)})
    whole = path.read_bytes()
    path.write_bytes(whole[: 4 * 1024 + 20] + b"X" + whole[4 * 1024 + 21 :])
    result = read(path)
    assert (len(result.rows), result.reasons()) == (4, [(4, "file", reason)])
    path.write_bytes(whole + whole)
    result = read(path)
    assert (len(result.rows), result.reasons()) == (20, [(20, "file", reason)])


def test_a_file_that_is_no_tar(tmp_path, read):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    result = read(tmp_path)
    assert not result.rows
    assert [f["stage"] for f in result.failures] == ["file"]


def test_links_and_names_that_lead_out_are_not_followed(tmp_path, read):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.addfile(link("1.jpg", secret))
        member = tarfile.TarInfo("../../2.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"image"))
    result = read(path)
    assert [row["image"]["bytes"] for row in result.rows] == [b"image"]
    assert [f["id"] for f in result.failures] == ["a.tar/1.jpg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "secret"]


def test_tars_beside_photos_are_no_table(tmp_path):
    tar_of(tmp_path / "a.tar", {"1": SAMPLE})
    (tmp_path / "b.jpg").write_bytes(b"image")
    with pytest.raises(SourceError, match="cannot be one table"):
        open_source(SourceOptions(str(tmp_path)))
