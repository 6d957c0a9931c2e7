import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import READ_CPUS, WINDOW_ROWS, allocate

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
