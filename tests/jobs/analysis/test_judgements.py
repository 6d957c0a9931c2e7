import pytest

from jobs.analysis.judgements import read_judgements
from sources.rows import SourceError


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td,1\t2\nq2\td2\t0\n",
        "q 1\t0\td,1\t2\nq2\t0\td2\t0\n",
        '"q 1","d,1",2\nq2,d2,0\n',
        "\ufeffq 1\td,1\t2\n\nq2\td2\t0",
    ],
)
def test_forms(tmp_path, text):
    (tmp_path / "q").write_text(text, encoding="utf-8")
    assert read_judgements(str(tmp_path / "q")) == {"q 1": {"d,1": 2.0}, "q2": {"d2": 0.0}}


def test_marks_and_rare_line_breaks(tmp_path):
    text = "q\u20281\td1\t2\r\nq2\td\x0b2\t0\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "q").write_bytes(text.encode(encoding))
        judged = read_judgements(str(tmp_path / "q"))
        assert judged == {"q\u20281": {"d1": 2.0}, "q2": {"d\x0b2": 0.0}}
    (tmp_path / "q").write_bytes(b"q1 d1 1\rq2 d2 0\r")
    assert read_judgements(str(tmp_path / "q")) == {"q1": {"d1": 1.0}, "q2": {"d2": 0.0}}
    (tmp_path / "q").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(SourceError, match="q looks like UTF-16 without a byte order mark. Save"):
        read_judgements(str(tmp_path / "q"))


def test_blanks_and_pairs(tmp_path):
    (tmp_path / "q").write_text("q1 0 d7 2\nq1   0 d8 1\n")
    assert read_judgements(str(tmp_path / "q")) == {"q1": {"d7": 2.0, "d8": 1.0}}
    (tmp_path / "p").write_text("c1,photo.jpg\nc2,photo.jpg\n")
    assert read_judgements(str(tmp_path / "p")) == {"c1": {"photo.jpg": 1}, "c2": {"photo.jpg": 1}}


RARE = ["a\u2028b", "a\x85b", "a\x0bb", "a\x1cb", "a\u00a0b", "a\x0cb"]


@pytest.mark.parametrize("mark", ["\t", ",", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_ends_lines_elsewhere_is_part_of_an_id(tmp_path, mark, end):
    lines = [f"{name}{mark}{name}!{mark}1" for name in RARE]
    (tmp_path / "q").write_bytes(end.join(lines).encode())
    want = {name: {f"{name}!": 1.0} for name in RARE}
    assert read_judgements(str(tmp_path / "q")) == want


@pytest.mark.parametrize("mark", ["\t", ","])
def test_ids_are_taken_as_they_stand(tmp_path, mark):
    (tmp_path / "q").write_text(f' lead{mark}trail {mark}1\n"two\nlines"{mark}x{mark}2\n')
    want = {" lead": {"trail ": 1.0}, "two\nlines": {"x": 2.0}}
    assert read_judgements(str(tmp_path / "q")) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\n", "has 1 columns"),
        ("a b 1\na b\n", "line 2: 2 columns, expected 3"),
        ("\n\na b 1\na b\n", "line 4: 2 columns, expected 3"),
        ("a,b,1\na\rb,c,1\n", "line 2: new-line character seen"),
        ("a b 1\na c much\n", "line 2: the score 'much' is no number"),
    ],
)
def test_mistakes(tmp_path, text, message):
    (tmp_path / "q").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_judgements(str(tmp_path / "q"))
    with pytest.raises(SourceError, match="There is no file"):
        read_judgements(str(tmp_path / "nowhere"))
