import re

from jobs.runtime.progress import Progress


def test_a_log_gets_the_last_state_as_a_line(capsys):
    with Progress("embed", total=8, unit="rows") as progress:
        progress.add(6)
        progress.add(2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"embed: 100% \| 8/8 \[.* rows/s\]$", last)


def test_a_quiet_stage_and_one_without_work_say_nothing(capsys):
    for total, quiet in ((8, True), (0, False)):
        with Progress("embed", total, "rows", quiet=quiet) as progress:
            progress.add(total)
    assert capsys.readouterr().err == ""


def test_a_total_may_become_known_on_the_way(capsys):
    with Progress("scan", total=1, unit="files") as progress:
        progress.reach(3, 4)
        assert (progress.done, progress.total) == (3, 4)
        progress.reach(4, 4)
    assert capsys.readouterr().err.splitlines()[-1].startswith("scan: 100% | 4/4 ")
