"""One matrix at a time: benchmarks come sorted by problem, and each is dropped before the next is made."""

import gc
import warnings

import pytest
from common import Bench, make_bench

_latest: dict[tuple[int, int, str], Bench] = {}


@pytest.fixture
def bench(request):
    """The problem of a shape and a dtype; see `common.cases`."""
    if request.param not in _latest:
        _latest.clear()
        gc.collect()
        _latest[request.param] = make_bench(*request.param)
    return _latest[request.param]


@pytest.fixture(autouse=True)
def _warnings_of_peers():
    """What other libraries warn of is not our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
