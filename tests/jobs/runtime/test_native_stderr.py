import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import ctypes, os, signal, sys
from jobs.runtime.native_stderr import hide_native_noise
with hide_native_noise():
    os.write(2, b"x" * 5000 + b"terminate called: what(): no vectors\\n")
    print("told", file=sys.stderr)
"""


def ended(code, tmp_path):
    """A process that runs this, and the files that it leaves in its temporary folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    return done, list(tmp_path.iterdir())


def test_a_run_that_ends_well_shows_no_noise_and_leaves_no_file(tmp_path):
    done, left = ended(BEGIN, tmp_path)
    assert (done.returncode, done.stdout, done.stderr, left) == (0, "", "told\n", [])


def test_an_error_of_python_shows_no_noise_and_leaves_no_file(tmp_path):
    done, left = ended(f"{BEGIN}    raise ValueError('ours')", tmp_path)
    assert (done.returncode, left) == (1, [])
    assert re.fullmatch(r"(?s)told\nTraceback .*ValueError: ours\n", done.stderr)


@pytest.mark.parametrize(
    ("crash", "signum", "stack"),
    [
        ("os.abort()", signal.SIGABRT, "Fatal Python error: Aborted"),
        ("ctypes.string_at(0)", signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
        ("os.kill(os.getpid(), signal.SIGKILL)", signal.SIGKILL, ""),
    ],
)
def test_a_crash_shows_what_native_code_wrote_and_where_all_of_it_is(
    tmp_path, crash, signum, stack
):
    done, left = ended(f"{BEGIN}    {crash}", tmp_path)
    assert done.returncode == -signum
    (file,) = left
    assert re.search(rf"embatch: process \d+ died\. .* \(all of it is in {file}\)", done.stderr)
    assert "terminate called: what(): no vectors\n" in done.stderr
    assert stack in done.stderr
    assert len(done.stderr) < 4300
    assert Path(file).read_text().startswith("x" * 5000)


def test_a_killed_process_without_noise_leaves_nothing_and_says_nothing(tmp_path):
    code = BEGIN.replace('b"x" * 5000 + b"terminate called: what(): no vectors\\n"', 'b""')
    done, left = ended(f"{code}    os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert (done.returncode, done.stderr, left) == (-signal.SIGKILL, "told\n", [])
