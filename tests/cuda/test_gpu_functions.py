"""Functions that have kernels of their own, on a GPU: the tests of `test_ptx_functions` there, and larger rows.

python -m pytest -m gpu tests/cuda/test_gpu_functions.py
"""

import numpy as np
import pytest
import scipy.special
import test_nll_and_binary
import test_ptx_functions
import test_statistics
from checks import dtype_of
from on_device import OnDevice
from test_ptx_functions import hessians  # noqa: F401  (a fixture)

import fastce

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.gpu

CHECKS = test_nll_and_binary  # for the fixtures
NOT_HERE = {  # of code, or of arrays of the host that are written to
    "test_nothing_in_local_memory_and_no_spills",
    "test_conventions_for_hessians",
}
for name, function in vars(test_ptx_functions).items():
    if name.startswith("test_") and callable(function) and name not in NOT_HERE:
        globals()[name] = function


@pytest.fixture
def launched(request, monkeypatch):
    """The functions of fastce by way of the first library that is installed, of those that have most strides."""
    from devices import first_library

    gpu = first_library()
    functions = OnDevice(gpu.to_device, gpu.to_host)
    monkeypatch.setattr(request.module.CHECKS, "fastce", functions)
    return functions


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(100_000, 10), (300, 4097), (5, 131_072), (3, 1_000_000)])
def test_row_stats_of_large_rows(rng, launched, shape, name):
    x = (4 * rng.normal(size=shape)).astype(dtype_of(name))
    targets = rng.integers(0, shape[1], shape[0])
    stats = launched.row_stats(x, targets, outputs=test_statistics.OUTPUTS)
    for part, exact in test_statistics.expected_statistics(x, targets).items():
        np.testing.assert_allclose(stats[part].astype(float), exact.astype(float), rtol=2e-6, atol=1e-6, err_msg=part)


@pytest.mark.parametrize("shape", [(100_000, 10), (300, 4097), (3, 1_000_000)])
def test_other_functions_of_large_rows(rng, launched, shape):
    x, targets = (4 * rng.normal(size=shape)).astype(np.float32), rng.integers(0, shape[1], shape[0])
    for ours, expected in zip(
        launched.cross_entropy_grad_and_hess(x, targets), fastce.cross_entropy_grad_and_hess(x, targets), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    labels = rng.random(shape).astype(np.float32)
    pair = (f.binary_cross_entropy_with_logits_value_and_grad(x, labels) for f in (launched, fastce))
    for ours, expected in zip(*pair, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
    b = rng.uniform(0.5, 2, shape[1])
    np.testing.assert_allclose(
        launched.logsumexp(x, axis=1, b=b),
        scipy.special.logsumexp(x.astype(float), axis=1, b=b),
        rtol=1e-12,
        atol=1e-12,
    )
    log_probs = -np.abs(x)
    assert launched.nll_loss(log_probs, targets) == pytest.approx(fastce.nll_loss(log_probs, targets), rel=1e-12)
