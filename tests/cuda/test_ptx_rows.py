"""Rows in shared memory, by the kernels as they are compiled: right to the contract, every access to memory checked,
the matrix read and written once.
"""

import checks
import numpy as np
import pytest
from compiled import OPTIONS, case, check_options, check_special, kernels, lanes_of, near_zero, placed, reports

pytest.importorskip("numba_cuda")
pytestmark = [pytest.mark.ptx, pytest.mark.usefixtures("data_of_its_own")]


@pytest.mark.parametrize("lanes", [4, 8, 16, 32, "all"])
@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_by_any_number_of_threads(start, name, lanes):
    dtype = checks.dtype_of(name)
    from fastce.cuda.run import CHUNKS_OF_THREAD, THREADS

    lanes = THREADS if lanes == "all" else lanes
    classes = 3 * CHUNKS_OF_THREAD * lanes * lanes_of(dtype) // 4 + 3  # threads have more than half of their room
    x, y = case(2 + THREADS // lanes, classes, dtype)
    device = start()
    checks.check(x, y, reductions=["none", "mean"], near_zero=near_zero(x.dtype))
    assert kernels(device) == {"rows"}
    assert {one.block for one in device.launches if one.kernel.__name__ == "rows"} == {(lanes, THREADS // lanes)}


@pytest.mark.parametrize(("name", "offset"), [("float32", k) for k in range(4)] + [("bfloat16", k) for k in range(8)])
def test_rows_that_begin_anywhere(start, name, offset):
    dtype = checks.dtype_of(name)
    start()
    for classes, step in ((57, 57), (58, 61), (64, 72), (33, 37)):
        x, y = case(5, classes, dtype, offset, step)
        for room in (placed(x, offset, step), placed(x, 0), placed(x, offset + 1, step + 1)):
            checks.check(x, y, out=lambda room=room: room, near_zero=near_zero(x.dtype))
        ours = checks.fastce.cross_entropy_value_and_grad(placed(x, offset, step), y, reduction="sum").grad
        assert checks.fastce.cross_entropy_value_and_grad(x, y, reduction="sum", out=x).grad is x
        assert checks.same_bits(x, ours)


@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_in_parts(start, name):
    dtype = checks.dtype_of(name)
    classes = 5 * 1024 * lanes_of(dtype) + 1  # 3 parts
    x, y = case(4, classes, dtype, offset=1)
    results = []
    for multiprocessors, launches in ((2, 1), (1, 2)):  # parts wait for each other; or their states are found first
        device = start(multiprocessors=multiprocessors, resident=3, races=False, turn=500)
        results.append(checks.check(x, y, reductions=["sum", "none"], near_zero=near_zero(x.dtype)))
        assert len(reports(device, "rows")) == 2 + 2 * launches
    assert checks.same_bits(results[0].value, results[1].value)
    assert checks.same_bits(results[0].grad, results[1].grad)
    for function in ("logsumexp", "softmax", "log_softmax"):
        check_special(function, x, 1)


@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_are_read_and_written_once(start, name):
    dtype = checks.dtype_of(name)
    for rows, classes in ((40, 96), (6, 1024), (2, 5 * 1024 * lanes_of(dtype))):
        x, y = case(rows, classes, dtype, share=0.0)
        y = np.abs(y) % classes
        device = start(races=False)
        checks.fastce.cross_entropy_value_and_grad(x, y)
        checks.fastce.logsumexp(x, axis=1)
        both, value = reports(device, "rows")
        for report in (both, value):
            assert 16 * report.executed("cp.async.cg") == x.nbytes
            assert 0 <= report.sectors["read", 16] - x.nbytes // 32 <= x.nbytes // 512  # what rows begin and end with
        again = 16 * both.executed("st.global.v4") - x.nbytes
        assert 0 <= again <= 16 * rows  # the chunk with the target, once more
        assert 0 <= both.sectors["written", 16] - x.nbytes // 32 <= x.nbytes // 512 + rows
        assert value.executed("st.global.v4") == 0


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["classes", "probabilities", "sparse"])
def test_targets_and_options(start, kind, options):
    start()
    check_options(kind, 300, options)


@pytest.mark.parametrize("shape", [(70, 100), (9, 900), (3, 5000)])
@pytest.mark.parametrize("name", checks.NAMES)
def test_scipys_functions(start, name, shape):
    start()
    x, _ = case(*shape, checks.dtype_of(name), offset=1)
    for function in ("logsumexp", "softmax", "log_softmax"):
        check_special(function, x, 1)
