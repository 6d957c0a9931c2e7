import io
import tarfile

import pytest

from sources import SourceError, SourceOptions, open_source

SAMPLE = {"jpg": b"an image", "txt": b" a dog \n", "json": b'{"width": 8}', "cls": b"3"}


def tar_of(path, samples, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, parts in samples.items():
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_a_sample_is_a_row(tmp_path, read, name, mode):
    other = {"png": b"another image", "seg.png": b"a mask", "bin": b"unknown"}
    tar_of(tmp_path / name, {"000/1": SAMPLE, "000/2": other, "3": {"json": b"{}"}}, mode)
    result = read(tmp_path)
    first, second = result.rows
    assert first["id"] == f"{name}/000/1"
    assert first["image"] == {"bytes": b"an image", "path": f"{name}/000/1.jpg"}
    assert (first["caption"], first["json"], first["label"]) == ("a dog", '{"width": 8}', "3")
    assert result.source.columns == ("caption", "json", "label")
    assert (second["id"], second["caption"]) == (f"{name}/000/2", None)
    assert [(f["id"], f["reason"]) for f in result.failures] == [
        (f"{name}/3", f"image has no bytes, only the path '{name}/3'")
    ]


def test_a_tar_that_was_cut_off_costs_its_rest(tmp_path, read):
    path = tar_of(tmp_path / "a.tar", {f"{n:03}": SAMPLE for n in range(20)})
    path.write_bytes(path.read_bytes()[: 10 * 4 * 1024 + 700])
    tar_of(tmp_path / "b.tar", {"1": SAMPLE})
    result = read(tmp_path)
    assert [row["id"] for row in result.rows if row["id"].startswith("b")] == ["b.tar/1"]
    assert 8 <= len(result.rows) - 1 <= 10
    (failure,) = result.failures
    assert (failure["stage"], failure["source_file"]) == ("file", "a.tar")


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
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        member = tarfile.TarInfo("../../2.jpg")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"image"))
    result = read(path)
    assert [row["image"]["bytes"] for row in result.rows] == [b"image"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "secret"]


def test_tars_beside_photos_are_no_table(tmp_path):
    tar_of(tmp_path / "a.tar", {"1": SAMPLE})
    (tmp_path / "b.jpg").write_bytes(b"image")
    with pytest.raises(SourceError, match="cannot be one table"):
        open_source(SourceOptions(str(tmp_path)))
