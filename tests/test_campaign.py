"""A campaign of faults finds nothing wrong, and finds what was made wrong on purpose."""

import re
import subprocess
import sys

import pytest

from tests.campaign import deck
from tests.fault_kinds import KINDS, RAY
from tests.fault_runs import ROOT


def campaign(*arguments):
    """Exit code, faults, violations and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *arguments],
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
    ("mutation", "kinds", "what"),
    [
        ("no-fence", "rivals-2", "ids twice"),
        ("twice", "commit", "ids twice"),
        pytest.param("early", "commit", "cannot be read", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_made_on_purpose_is_found(mutation, kinds, what):
    arguments = ("--n", "1", "--seed", "9", "--kinds", kinds, "--mutation", mutation)
    code, _, violations, said = campaign(*arguments)
    assert (code, violations > 0) == (1, True), said
    told = [line for line in said.splitlines() if line.startswith("VIOLATION seed 9, fault 1")]
    assert any(what in line for line in told), said
    assert "again: python -m tests.campaign --seed 9 --only 1" in said


def test_every_round_holds_every_kind_and_some_of_ray():
    drawn = deck(300, list(KINDS), 1)
    assert set(drawn[:30]) == set(KINDS)
    assert 15 <= sum(kind in RAY for kind in drawn) <= 30
    assert deck(30, list(KINDS), 1) == drawn[:30]
