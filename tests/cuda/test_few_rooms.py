"""Few classes in shared memory: the banks that a warp meets, and the same bits wherever rows begin."""

import types

import numpy as np
import pytest
import scipy.sparse

import fastce

pytest.importorskip("numba_cuda")

CHECKS = types.SimpleNamespace(fastce=fastce)  # for the fixture
WARP, BANKS, WORD = 32, 32, 4


def wavefronts(starts, size):
    """How often the banks are asked for one access of ``size`` bytes by each thread of a warp, at these addresses.

    So many threads are served at once as ask for 128 bytes; then a bank gives one word after another.
    """
    at_once = BANKS * WORD // size
    total = 0
    for threads in np.reshape(starts, (-1, at_once)):
        words = np.unique(threads[:, None] // WORD + np.arange(size // WORD))
        total += np.bincount(words % BANKS).max()
    return total


@pytest.mark.parametrize("classes", [4, 8, 12, 16, 20, 24, 28, 32])
@pytest.mark.parametrize("before", range(4))
def test_threads_meet_few_others_in_a_bank(classes, before):
    from fastce.cuda._kernels.few_rooms import Stand, place_by

    stand = Stand(classes, 128, 4, before)
    first, place = before + np.arange(WARP) * stand.step, place_by(stand)
    reads = [(c, stand.narrow) for c in range(0, stand.head, stand.narrow)]
    reads += [(c, stand.width) for c in range(stand.head, stand.tail, stand.width)]
    reads += [(c, stand.narrow) for c in range(stand.tail, classes, stand.narrow)]
    assert sum(width for _, width in reads) == classes
    total = sum(wavefronts(WORD * place(first, c), WORD * width) for c, width in reads)
    assert total <= classes + (12 if before else 0)  # one for a row's word of each of the 32 threads


@pytest.mark.parametrize(("dtype", "classes"), [(np.float32, 16), (np.float32, 12), (np.float64, 8), (np.float16, 16)])
def test_the_same_bits_wherever_rows_begin(on_device, rng, dtype, classes):
    rows, lanes = 70, 16 // np.dtype(dtype).itemsize
    values, y = (4 * rng.normal(size=(rows, classes))).astype(dtype), rng.integers(0, classes, rows)
    dense = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
    for targets in (y, dense, scipy.sparse.csr_array(np.where(dense > 0.1, dense, 0))):
        expected = on_device.cross_entropy_value_and_grad(values, targets, reduction="none")
        for before in (1, lanes - 1):
            room = np.empty(values.size + lanes, dtype)
            x = room[(before - room.ctypes.data // room.itemsize) % lanes :][: values.size].reshape(rows, classes)
            x[:] = values
            on_device.cross_entropy_value_and_grad(x, targets, reduction="sum", out=x)
            np.testing.assert_array_equal(x, expected.grad)
