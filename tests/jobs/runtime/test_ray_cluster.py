import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runtime import ray_cluster
from jobs.runtime.ray_cluster import READ_CPUS, WINDOW_ROWS, NoRay, allocate, session_folder

NODES = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(1, 128)}, optional={"GPU": st.integers(1, 8)}),
    min_size=1,
    max_size=6,
)


@given(nodes=NODES, n_due=st.integers(1, 10**7))
def test_threads_stay_within_the_cores_and_read_tasks_always_find_room(nodes, n_due):
    use = allocate(nodes, device="cpu", actors=None, n_due=n_due)
    smallest = min(node["CPU"] for node in nodes)
    a_node = -(-use.n_actors // len(nodes))
    assert use.threads * a_node <= max(smallest, a_node)
    assert use.cpus * a_node <= smallest - READ_CPUS
    assert 1 <= use.window_rows <= WINDOW_ROWS
    assert use.gpus == 0


def test_two_cores_are_used_by_one_actor_or_shared_by_two():
    one = allocate([{"CPU": 2}], device="auto", actors=None, n_due=100_000)
    assert (one.device, one.n_actors, one.threads, one.cpus) == ("cpu", 1, 2, 1.5)
    two = allocate([{"CPU": 2}], device="auto", actors=2, n_due=100_000)
    assert (two.n_actors, two.threads, two.cpus) == (2, 1, 0.75)


def test_an_actor_a_gpu_where_there_are_gpus():
    use = allocate([{"CPU": 16, "GPU": 4}, {"CPU": 4}], device="auto", actors=None, n_due=10**6)
    assert (use.device, use.n_actors, use.gpus) == ("cuda", 4, 1.0)


def test_a_small_model_shares_a_gpu_where_there_are_cores_for_it():
    def n_actors(cpus, model_bytes):
        nodes = [{"CPU": cpus, "GPU": 2}]
        use = allocate(nodes, device="auto", actors=None, n_due=10**6, model_bytes=model_bytes)
        assert use.gpus * use.n_actors == 2
        return use.n_actors

    assert n_actors(32, 90 << 20) == 4
    assert n_actors(8, 90 << 20) == 2  # tokenising would hold them up
    assert n_actors(32, 1 << 30) == 2


def test_a_cluster_that_grows_brings_the_gpus_that_are_asked_for():
    head = [{"CPU": 0}]
    use = allocate(head, device="cuda", actors=None, n_due=10**6, grows=True)
    assert (use.device, use.n_actors, use.gpus, use.grows) == ("cuda", 1, 1.0, True)
    two = allocate(head, device="cuda", actors=2, n_due=10**6, grows=True)
    assert (two.n_actors, two.gpus, two.grows) == (2, 1.0, False)
    assert allocate(head, device="auto", actors=None, n_due=1, grows=True).device == "cpu"


def test_a_gpu_that_is_not_there_is_one_message():
    with pytest.raises(ValueError, match="--device cuda: no GPU is on this machine"):
        allocate([{"CPU": 2}], device="cuda", actors=None, n_due=1)


def a_folder(n_bytes):
    return "/tmp/" + "x" * (n_bytes - 5)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_is_too_long_for_sockets_is_not_rays(monkeypatch, capsys, name):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, a_folder(39))
    assert session_folder() is None
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(name, a_folder(94))
    assert session_folder() == "/tmp/ray"
    told = capsys.readouterr().err
    assert told.startswith(f"embatch: {name} ({a_folder(94)}) is too long for Ray's sockets")
    assert "at most 39 bytes. Its session lies in /tmp/ray; RAY_TMPDIR may name" in told


def test_the_longest_folder_that_is_left_to_ray_is_one_that_it_takes():
    from ray._private.utils import validate_socket_filepath

    validate_socket_filepath(a_folder(39) + ray_cluster.SOCKET)
    with pytest.raises(OSError, match="length cannot exceed 107"):
        validate_socket_filepath(a_folder(40) + ray_cluster.SOCKET)


def test_where_no_short_folder_can_be_written_the_message_says_what_to_set(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", a_folder(94))
    monkeypatch.setattr(ray_cluster, "SHORT_TEMP", "/proc")
    monkeypatch.setattr(os, "access", lambda place, _: place != "/proc")
    with pytest.raises(NoRay, match="/proc cannot be written. Set RAY_TMPDIR to a folder with"):
        session_folder()


@pytest.mark.slow
def test_ray_starts_also_where_the_temporary_folder_has_a_long_name(tmp_path):
    folder = tmp_path / ("x" * 94)
    folder.mkdir()
    code = "from jobs.runtime.ray_cluster import cluster\nwith cluster(None, verbose=False) as it: it.nodes()"
    env = {name: v for name, v in os.environ.items() if name != "RAY_TMPDIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "is too long for Ray's sockets" in done.stderr
