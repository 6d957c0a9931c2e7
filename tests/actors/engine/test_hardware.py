import io
import os

import pytest

from actors.engine.hardware import cores

V1 = "/sys/fs/cgroup/cpu/cpu.cfs_"


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine of 16 cores, whose files under /sys/fs/cgroup are these."""

    def of(files, allowed=16):
        real = open
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
        monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        monkeypatch.setattr(os.path, "exists", lambda path: str(path) in files)
        monkeypatch.setattr(
            "builtins.open",
            lambda path, *more, **named: (
                io.StringIO(files[path]) if path in files else real(path, *more, **named)
            ),
        )

    return of


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({f"{V1}quota_us": "300000\n", f"{V1}period_us": "100000\n"}, 3),
        ({f"{V1}quota_us": "-1\n", f"{V1}period_us": "100000\n"}, 16),
        ({}, 16),
    ],
)
def test_the_quota_of_a_container_bounds_the_cores(machine, files, expected):
    machine(files)
    assert cores() == expected


def test_affinity_and_the_environment_bound_the_cores(machine, monkeypatch):
    machine({}, allowed=4)
    assert cores() == 4
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "3")
    assert cores() == 3
