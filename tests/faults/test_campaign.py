"""A campaign of faults finds nothing wrong, and finds what was made wrong on purpose."""

import re
import subprocess
import sys

import pytest

from tests.faults.campaign import deck
from tests.faults.kinds import KINDS, RAY
from tests.faults.runs import ROOT


def campaign(*arguments):
    """Exit code, faults, violations and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    last = re.fullmatch(r"(\d+) faults, (\d+) violations", done.stdout.splitlines()[-1])
    assert last, done.stdout + done.stderr
    return done.returncode, int(last[1]), int(last[2]), done.stdout


@pytest.mark.slow
def test_faults_leave_a_true_table():
    kinds = "commit,file,moment,full-disk,source"
    code, hits, violations, said = campaign("--n", "5", "--kinds", kinds)
    assert (code, hits, violations) == (0, 5, 0), said


@pytest.mark.parametrize(
    ("mutation", "kinds", "seed", "what"),
    [
        ("no-fence", "rivals-2", 9, "ids twice"),
        ("twice", "commit", 5, "ids twice"),
        pytest.param("early", "commit", 9, "cannot be read", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_made_on_purpose_is_found(mutation, kinds, seed, what):
    arguments = ("--n", "1", "--seed", f"{seed}", "--kinds", kinds, "--mutation", mutation)
    code, _, violations, said = campaign(*arguments)
    assert (code, violations > 0) == (1, True), said
    told = [
        line for line in said.splitlines() if line.startswith(f"VIOLATION seed {seed}, fault 1")
    ]
    assert any(what in line for line in told), said
    assert f"again: python -m tests.faults.campaign --seed {seed} --only 1" in said


def test_every_round_holds_every_kind_and_some_of_ray():
    drawn = deck(300, list(KINDS), 1)
    assert set(drawn[:30]) == set(KINDS)
    assert 15 <= sum(kind in RAY for kind in drawn) <= 30
    assert deck(30, list(KINDS), 1) == drawn[:30]
