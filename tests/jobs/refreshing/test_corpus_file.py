import dataclasses
import re

import pytest

from jobs.init import EXAMPLE
from jobs.refreshing import corpus_file
from jobs.refreshing.corpus_file import KINDS, Step, read_corpus
from tests.support.corpora import SECTIONS


def corpus(tmp_path, text):
    path = tmp_path / "corpus.toml"
    path.write_text(text)
    return read_corpus(path)


def test_sections_are_commands_with_their_options(tmp_path):
    told = corpus(
        tmp_path,
        f"""{SECTIONS}
        [all]
        device = "cpu"
        [storage]
        AWS_REGION = "eu-central-1"
        [neighbours.near]
        base = "articles"
        k = 3
        """,
    )
    embed, near = told.steps
    assert (str(embed), str(near)) == ("embed articles", "neighbours near")
    assert (embed.config.source, embed.config.prune, embed.config.device) == (
        "articles.jsonl",
        True,
        "cpu",
    )
    assert (near.config.base, near.config.out, near.config.k) == (
        f"{tmp_path}/tables/articles",
        f"{tmp_path}/tables/near",
        3,
    )
    assert (near.inputs, near.output) == ((near.config.base,), near.config.out)
    assert embed.config.storage_option == near.config.storage_option == ("AWS_REGION=eu-central-1",)


def test_steps_come_after_what_they_read_and_else_as_they_are_written(tmp_path):
    told = corpus(
        tmp_path,
        f"""tables = "s3://bucket/tables/"
        [report.page]
        tables = ["articles", "map", "b-on-map", "elsewhere/near"]
        [project.b-on-map]
        table = "b"
        onto = "map"
        [project.map]
        table = "articles"
        [embed.b]
        source = "b"
        model = "m"
        {SECTIONS}""",
    )
    names = [step.name for step in told.steps]
    assert names == ["b", "articles", "map", "b-on-map", "page"]
    assert told.steps[-1].inputs == (
        *(f"s3://bucket/tables/{name}" for name in ("articles", "map", "b-on-map")),
        "elsewhere/near",
    )
    assert told.steps[-1].output == "page.html"


def test_the_example_is_right_also_with_all_its_comments_made_true(tmp_path):
    text = EXAMPLE.read_text()
    assert [str(step) for step in corpus(tmp_path, text).steps] == [
        "embed articles",
        "neighbours near",
    ]
    full = re.sub(r"(?m)^# (?=\[|\w+ = )", "", text)
    told = corpus(tmp_path, full)
    assert [step.command for step in told.steps] == [
        "embed",
        "embed",
        "neighbours",
        "project",
        "zero-shot",
        "evaluate",
        "report",
    ]
    assert told.keep_days == 30
    assert all(step.config.storage_option for step in told.steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tables = ", r"corpus.toml is no TOML: "),
        ("", r"declares no table: expected a section such as \[embed.articles\]"),
        ("[embd.a]\n" + SECTIONS, r"unknown key 'embd'. Known: .*Did you mean 'embed'\?"),
        ("tables = 3\n" + SECTIONS, r"tables = 3 is not of the kind that tables takes"),
        ("keep_days = true\n" + SECTIONS, r"keep_days = True is not of the kind"),
        ("keep_days = -1\n" + SECTIONS, r"keep_days = -1: expected 0 or more"),
        (
            "embed = {a = 1}",
            r"embed.a = 1: expected a section such as \[embed.articles\]",
        ),
        (SECTIONS + "[neighbours.articles]\nbase='b'", r"another section makes a table of this"),
        (SECTIONS + "[neighbours.'a/b']\nbase='b'", r"a name is of letters, digits, - and _"),
        (
            SECTIONS + "[neighbours.'a.next']\nbase='b'",
            r"the names 'refreshes', '….next' and '….failures' are taken",
        ),
        (SECTIONS + "[neighbours.refreshes]\nbase='b'", r"\[neighbours.refreshes\]: the names"),
        (
            SECTIONS + "[neighbours.n]\nbse='articles'",
            r"\[neighbours.n\]: unknown option 'bse'.*'bas",
        ),
        (SECTIONS + "[neighbours.n]\nk=1", r"\[neighbours.n\]: base: Field required"),
        (SECTIONS + "[neighbours.n]\nbase='b'\nk='ten'", r"k: Input should be a valid int.*'ten'"),
        (SECTIONS + "[neighbours.n]\nbase='b'\nk=0", r"\[neighbours.n\]: --k is 0, expected 1"),
        (
            SECTIONS + "[neighbours.n]\nbase='b'\nout='x'",
            r"out is the section's name. Leave it out",
        ),
        (SECTIONS + "[neighbours.n]\nbase=2020-01-01", r"\[neighbours.n\]: .*date is not JSON"),
        (SECTIONS + "dry_run = true", r"\[embed.articles\]: unknown option 'dry_run'"),
        (SECTIONS + "[all]\ndevise='cpu'", r"\[all\]: unknown option 'devise'.*'device'"),
        (
            SECTIONS + "[project.a]\ntable='b'\nonto='b'\n[project.b]\ntable='a'\nonto='a'",
            r"each of these needs another of them: project a, project b",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_section(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        corpus(tmp_path, text)


def test_a_file_that_is_named_and_changed_makes_a_step_due(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qrels.tsv").write_text("a\tb\t1\n")
    text = f"{SECTIONS}\n[evaluate.e]\ntable='articles'\nqrels='qrels.tsv'"
    before = corpus(tmp_path, text).steps[1].options()
    assert corpus(tmp_path, text).steps[1].options() == before
    assert corpus(tmp_path, "[storage]\nSECRET='x'\n" + text).steps[1].options() == before
    (tmp_path / "qrels.tsv").write_text("a\tb\t2\nc\td\t1\n")
    assert corpus(tmp_path, text).steps[1].options() != before


AT = "/tmp/corpus/tables/"
STEPS = {  # what refreshes wrote down when every option counted, at a default or not
    "40b2573e4450c2ff": ("neighbours", [f"{AT}royal", f"{AT}like"], {"k": 1}),
    "b31a40d18403a163": ("project", [f"{AT}royal", f"{AT}map"], {"method": "pca"}),
    "353d65fb7dc23f5c": ("zero-shot", [f"{AT}royal", f"{AT}classes", f"{AT}predicted"], {}),
    "cd32f4cce4bd2774": ("evaluate", [f"{AT}royal"], {"label_column": "label"}),
    "605cbca210dde5f1": ("report", [(f"{AT}royal", f"{AT}map")], {"out": "page.html"}),
}


def step(command, arguments, options):
    return Step(command, "x", KINDS[command].config(*arguments, **options), (), "")


@pytest.mark.parametrize("told", STEPS)
def test_what_earlier_refreshes_wrote_down_still_holds(told):
    assert step(*STEPS[told]).options() == told


@pytest.mark.parametrize("told", STEPS)
def test_a_new_option_makes_nothing_due_until_it_is_used(monkeypatch, told):
    command, arguments, options = STEPS[told]
    old = KINDS[command]
    later = dataclasses.make_dataclass(
        "Later", [("colour", str, "red")], bases=(old.config,), frozen=True
    )
    monkeypatch.setitem(corpus_file.KINDS, command, dataclasses.replace(old, config=later))
    assert step(command, arguments, options).options() == told
    assert step(command, arguments, options | {"colour": "blue"}).options() != told


@pytest.mark.parametrize("told", STEPS)
def test_a_default_that_is_changed_makes_a_step_due(told):
    command, arguments, options = STEPS[told]
    name, value = {"report": ("images", "."), "evaluate": ("qrels", "q")}.get(
        command, ("label_column", "kind")
    )
    if command == "neighbours":
        name, value = "index", "faiss"
    assert step(command, arguments, options | {name: value}).options() != told


def test_only_options_that_name_files_are_looked_up_as_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = "evaluate", ["table"], {"label_column": "label", "qrels": "q", "picture": "pairs.png"}
    before = step(*asked).options()
    for name in ("label", "pairs.png", "table"):
        (tmp_path / name).touch()
    assert step(*asked).options() == before
    (tmp_path / "q").touch()
    assert step(*asked).options() != before
