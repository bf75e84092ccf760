"""Losses from features on a GPU: against the formulas in a wider dtype, and against fastce on the CPU."""

import dense
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from devices import LIBRARIES
from feature_cases import LINEAR, LOSSES, WRONG, case

import fastce

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.gpu


class OnGpu:
    """Stands in for `fastce`: arrays go to a GPU, and what comes back from it is of the same library."""

    def __init__(self, device):
        self.device = device

    def __getattr__(self, name):
        def call(*args, **kwargs):
            named = {key: self.there(value) for key, value in kwargs.items()}
            return self.back(getattr(fastce, name)(*(self.there(value) for value in args), **named))

        return call

    def there(self, value):
        if scipy.sparse.issparse(value):
            return self.device.csr(value)
        return self.device.to_device(value) if isinstance(value, np.ndarray) and value.ndim else value

    def back(self, value):
        if isinstance(value, tuple):
            return type(value)(*(self.back(part) for part in value))
        if value is None or isinstance(value, float):
            return value
        assert self.device.is_theirs(value)
        return self.device.to_host(value)


@pytest.fixture(params=LIBRARIES)
def on_gpu(request, monkeypatch):
    pytest.importorskip("cupy")
    functions = OnGpu(LIBRARIES[request.param]())
    functions.there(np.zeros(1))  # skips if the library is not there
    monkeypatch.setattr(dense, "fastce", functions)
    return functions


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", NAMES)
def test_value_and_all_gradients_are_those_of_the_dense_formula(on_gpu, rng, name, dtype):
    for rows, columns, width, budget in [(9, 7, 5, 600), (130, 257, 33, 1 << 16), (200, 300, 64, 1 << 28)]:
        arguments, options = case(name, rng, rows, columns, width, dtype_of(dtype))
        dense.check(name, *arguments, memory_budget=budget, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_keys_and_positives_of_any_form(on_gpu, rng, dtype):
    (query, positive, _), _ = case("info_nce", rng, 70, 3, 16, dtype)
    for negative in (None, rng.normal(size=(70, 9, 16)).astype(dtype)):
        for budget in (1 << 12, 1 << 28):
            dense.check("info_nce", query, positive, negative, memory_budget=budget)
    several = scipy.sparse.csr_array(rng.random((70, 70)) * (rng.random((70, 70)) < 0.1))
    for targets in (None, several):
        dense.check("siglip_loss", query, positive, 10.0, -5.0, targets=targets, normalize=True, memory_budget=1 << 13)


@pytest.mark.parametrize("kind", ["indices", "probabilities", "sparse"])
def test_linear_cross_entropy_has_every_option_of_cross_entropy(on_gpu, rng, kind):
    (features, linear_weight, labels), _ = case(LINEAR, rng, 150, 90, 24)
    dense_targets = rng.random((150, 90)) * (rng.random((150, 90)) < 0.1)
    targets = {"indices": labels, "probabilities": dense_targets, "sparse": scipy.sparse.csr_array(dense_targets)}[kind]
    options = {
        "linear_bias": rng.normal(size=90).astype(np.float32), "weight": rng.random(90) + 0.1,
        "sample_weight": rng.random(150) * (np.arange(150) % 3 > 0), "label_smoothing": 0.1, "softcap": 5.0,
        "z_loss": 0.01, "logit_scale": 1.5,
    }  # fmt: skip
    if kind == "indices":
        options["ignore_index"] = 3
    for budget in (1 << 13, 1 << 28):
        dense.check(LINEAR, features, linear_weight, targets, memory_budget=budget, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_large_batches_are_as_on_the_cpu_and_the_same_each_time(on_gpu, rng, name, dtype):
    arguments, options = case(name, rng, 3000, 5000, 128, dtype_of(dtype))
    theirs = getattr(fastce, f"{name}_value_and_grad")(*arguments, **options)
    first, second = (getattr(on_gpu, f"{name}_value_and_grad")(*arguments, **options) for _ in range(2))
    assert dense.bits(first) == dense.bits(second)
    bound = 1e-2 if dtype == "bfloat16" else 1e-4
    for ours, expected in zip(first, theirs, strict=True):
        if expected is not None:
            expected = np.asarray(expected).astype(np.float64)
            np.testing.assert_allclose(
                np.asarray(ours).astype(np.float64), expected, rtol=bound, atol=bound * np.abs(expected).max()
            )


@pytest.mark.parametrize("what", WRONG)
def test_errors_are_those_of_the_cpu(on_gpu, what):
    name, arguments, options = WRONG[what]
    with pytest.raises((TypeError, ValueError, IndexError)) as theirs:
        getattr(fastce, name)(*arguments, **options)
    with pytest.raises(type(theirs.value)) as ours:
        getattr(on_gpu, name)(*arguments, **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", LOSSES)
def test_features_that_are_written_late_in_the_callers_stream(rng, name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("cupy")
    arguments, options = case(name, rng, 300, 300, 32)
    theirs = getattr(fastce, f"{name}_value_and_grad")(*arguments, **options)
    there = [torch.from_numpy(a).cuda() if isinstance(a, np.ndarray) else a for a in arguments]
    options = {key: torch.from_numpy(value).cuda() for key, value in options.items()}
    large = torch.ones(4096, 4096, device="cuda")
    late = torch.zeros_like(there[0])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            large = large @ large * 0  # keeps the stream busy
        late += there[0] + large[0, 0]
        ours = getattr(fastce, f"{name}_value_and_grad")(late, *there[1:], **options)
    stream.synchronize()
    assert ours.value == pytest.approx(theirs.value, rel=1e-5)
    np.testing.assert_allclose(ours[1].cpu().numpy(), theirs[1], atol=1e-4 * np.abs(theirs[1]).max())


def test_memory_stays_within_the_budget():
    torch = pytest.importorskip("torch")
    pytest.importorskip("cupy")
    features, weight = torch.randn(8192, 256, device="cuda"), torch.randn(65536, 256, device="cuda")
    targets = torch.randint(65536, (8192,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before, budget = torch.cuda.memory_allocated(), 1 << 27
    result = fastce.linear_cross_entropy_value_and_grad(features, weight, targets, memory_budget=budget)
    gradients = sum(part.numel() * part.element_size() for part in result[1:3])
    assert torch.cuda.max_memory_allocated() - before < gradients + budget + (1 << 22)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nobody_at_all(on_gpu, rng, reduction):
    for name in LOSSES:
        arguments, options = case(name, rng, rows=0)
        ours = getattr(on_gpu, f"{name}_value_and_grad")(*arguments, reduction=reduction, **options)
        theirs = getattr(fastce, f"{name}_value_and_grad")(*arguments, reduction=reduction, **options)
        assert dense.bits(ours) == dense.bits(theirs)
