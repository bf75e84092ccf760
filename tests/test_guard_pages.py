"""No function reads or writes a byte outside of its arrays: they lie between pages that nobody may touch.

A fault ends a process, so the calls are made in others, which say what they were about to do.
"""

import sys

import numpy as np
import pytest
from guard import ENDS, LAYOUTS, Guarded
from guard_calls import DTYPES, GROUPS, check
from numpy.lib.stride_tricks import as_strided
from scripts import finish, run_script, start_script

import fastce

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="protects pages as POSIX does")


def go_through(folder, program):
    """Run a program that makes guarded calls and writes each into the file ``case`` before."""
    process = start_script(f"import guard_calls\n{program}", folder)
    try:
        finish(process, timeout=500)  # if all has to be compiled
    except AssertionError as error:
        case = folder / "case"
        raise AssertionError(f"at {case.read_text().strip() if case.exists() else 'the start'}\n{error}") from None


def test_all_functions_and_layouts(tmp_path):
    go_through(tmp_path, 'guard_calls.run(guard_calls.GROUPS, "case", ["float32"], is_quick=True, share=2)')


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_all_dtypes_layouts_and_ends(tmp_path, group):
    go_through(tmp_path, f'guard_calls.run([{group!r}], "case")')


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_what_is_done_to_large_arrays(tmp_path, group):
    go_through(tmp_path, f'guard_calls.shrink()\nguard_calls.run([{group!r}], "case", is_quick=True)')


# --- and it would be seen --------------------------------------------------------------------------------------------

FAULTS = """
import ctypes, itertools, os, signal, sys
import numpy as np
from numpy.lib.stride_tricks import as_strided
from guard import ENDS, LAYOUTS, Guarded
from guard_calls import DTYPES
import fastce


def is_ended_by(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS)


def touch(address):
    ctypes.string_at(address, 1)


for layout, end, shape in itertools.product(LAYOUTS, ENDS, [(3, 5), (1, 7), (4, 1), (2, 2049), (6,)]):
    guarded = Guarded(np.zeros(shape, "f4"), layout, end)
    lowest, beyond = np.lib.array_utils.byte_bounds(guarded.array)
    inside, outside = (lowest, lowest - 1) if end == "before" else (beyond - 1, beyond)
    touch(inside)
    assert is_ended_by(lambda: touch(outside)), (layout, end, shape)

for dtype, classes in itertools.product(DTYPES.values(), (5, 16, 300)):
    fastce.logsumexp(np.zeros((3, classes + 1), dtype), axis=1, n_threads=1)
    x = Guarded(np.zeros((3, classes), dtype), "rows apart", "after").array
    fastce.logsumexp(x, axis=1, n_threads=1)
    one_more = as_strided(x, (3, classes + 1))
    assert is_ended_by(lambda: fastce.logsumexp(one_more, axis=1, n_threads=1)), (dtype, classes)
"""


@pytest.mark.slow
def test_one_byte_or_one_class_beyond_the_end_is_a_fault(tmp_path):
    run_script(FAULTS, tmp_path, timeout=300)


def refused(calls, layout, end="after"):
    with pytest.raises(AssertionError):
        check(calls, DTYPES["float32"], 4, 5, layout, end, seed=1)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("C", "rows apart", "columns apart")])
def test_a_stride_that_is_ignored_is_seen(layout):
    def as_if_contiguous(m):
        x = m.logits()
        lowest = np.lib.array_utils.byte_bounds(x)[0]
        inside = x if x.__array_interface__["data"][0] == lowest else x[::-1, ::-1]
        yield as_strided(inside, x.shape, (20, 4)).sum(axis=1)

    refused(as_if_contiguous, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_that_is_written_to_is_seen(layout):
    def into_input(m):
        m.logits()[0, 0] = 1
        yield 0.0

    refused(into_input, layout)


@pytest.mark.parametrize(("layout", "step"), [("C", -1), ("strided", 1), ("padded", 5)])
def test_what_is_written_beside_the_result_is_seen(layout, step):
    def beside(m):
        out = m.written((4, 5))
        out[...] = 1
        if m.place is not None:  # where nobody else's memory is
            as_strided(out, (2,), (step * out.itemsize,))[1] = 1
        yield out.copy()

    refused(beside, layout)


@pytest.mark.parametrize("end", ENDS)
def test_what_is_not_written_is_seen(end):
    def left_out(m):
        out = np.empty((4, 5), np.float32)
        out[:3] = 0
        yield out

    refused(left_out, "C", end)


def test_an_array_is_as_it_was_given(rng):
    for layout in LAYOUTS:
        for end in ENDS:
            values = rng.normal(size=(3, 7)).astype("f4")
            guarded = Guarded(values, layout, end, is_written=True)
            assert guarded.array.tobytes() == values.tobytes()
            fastce.softmax(guarded.array, axis=1, out=guarded.array)
            guarded.check()
            np.testing.assert_allclose(guarded.array.sum(axis=1), 1, rtol=1e-6)
