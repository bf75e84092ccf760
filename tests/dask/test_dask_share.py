"""A task takes its share of the cores, and leaves the process as it found it."""

import threading

import pytest

import fastce

pytest.importorskip("threadpoolctl")
pytest.importorskip("dask.array")

from fastce.dask import share as module
from fastce.dask.share import share


def threads_of_blas():
    return {library.get_num_threads() for library in module._libraries()}


def in_a_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join(20)


@pytest.fixture(autouse=True)
def three_threads():
    """What BLAS has before."""
    before = [library.get_num_threads() for library in module._libraries()]
    for library in module._libraries():
        in_a_thread(library.set_num_threads, 3)
    yield
    assert threads_of_blas() == {3}
    for library, number in zip(module._libraries(), before, strict=True):
        in_a_thread(library.set_num_threads, number)


def test_inside_a_share_both_have_as_many_threads():
    for number in (None, 2):
        with share(number):
            assert fastce.get_num_threads() == (number or 1)
            assert threads_of_blas() == {number or 1}
        assert threads_of_blas() == {3}


@pytest.mark.parametrize("is_first_to_end", [True, False])
def test_shares_of_threads_overlap_in_any_order(is_first_to_end):
    begun, ends = threading.Event(), threading.Event()
    seen = []

    def other():
        with share(1):
            seen.append(threads_of_blas())
            begun.set()
            ends.wait(20)
            seen.append(threads_of_blas())

    thread = threading.Thread(target=other)
    with share(2):
        assert threads_of_blas() == {2}
        thread.start()
        assert begun.wait(20)
        assert threads_of_blas() == {1}
        if is_first_to_end:
            ends.set()
            thread.join(20)
            assert threads_of_blas() == {2}
    if not is_first_to_end:
        assert threads_of_blas() == {1}
        ends.set()
        thread.join(20)
    assert seen == [{1}, {1}]


def test_a_share_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), share(1):
        _ = 1 / 0
    with pytest.raises(ValueError, match="n_threads must be at least 1"), share(0):
        pass
