"""What tests of Dask share: they are not there without it, and none of them may hang."""

import functools
import importlib.util
import signal

import pytest

if any(importlib.util.find_spec(name) is None for name in ("distributed", "threadpoolctl")):  # dask is this folder, too
    collect_ignore_glob = ["*"]

SECONDS = 240


@pytest.fixture(autouse=True)
def time_limit():
    """A test that waits for a worker which never answers fails."""

    def fail(number, frame):
        raise TimeoutError(f"the test took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def new_cluster():
    """Starts clusters of so many processes, each of one thread.

    A scheduler has a port for its state, whatever it is told: a free one here, not 8787, where another may be.
    """
    from distributed import LocalCluster

    return functools.partial(
        LocalCluster, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    )


@pytest.fixture(scope="session")
def cluster(new_cluster):
    with new_cluster(n_workers=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as client:
        yield client
