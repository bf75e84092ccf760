"""The derivative of linear cross entropy by its logit scale: that of the dense logits, and differences of the value."""

import sys

import dense
import naive
import numpy as np
import pytest
from checks import same_bits
from covering import covering
from scripts import run_script
from test_linear_cross_entropy import FOR_INDICES, LINEAR, OPTIONS, drawn, layer, targets_of

import fastce


def function(*arguments, **options):
    """Of `fastce` as this module finds it: other tests put functions on a device in its place."""
    return fastce.linear_cross_entropy_value_and_grad_logit_scale(*arguments, **options)


@covering(
    {
        "dtype": [np.float32, np.float64],
        "options": OPTIONS,
        "targets": ["indices", "probabilities", "sparse"],
        "reduction": ["mean", "sum", "none"],
        "classes": [21, 300],
    },
    quick=1,
)
def test_every_option_of_cross_entropy(small_tiles, rng, targets, options, dtype, reduction, classes):
    features, linear_weight, bias = layer(rng, 37, classes, dtype=dtype)
    options = drawn(OPTIONS[options], rng, 37, classes) | {"reduction": reduction}
    if targets != "indices":
        options = {name: option for name, option in options.items() if name not in FOR_INDICES}
    above = rng.uniform(0.5, 2.0, 37) if reduction == "none" else 1.7
    targets = targets_of(targets, rng, 37, classes)
    found = function(features, linear_weight, targets, linear_bias=bias, grad_output=above, **options)
    assert same_bits(
        found.value, fastce.linear_cross_entropy(features, linear_weight, targets, linear_bias=bias, **options)
    )
    x, w, b = (
        np.longdouble(array) if dtype == np.float64 else array.astype(float)
        for array in (features, linear_weight, bias)
    )
    logits, reduction = (x @ w.T + b).astype(float), options.pop("reduction")
    if not isinstance(targets, np.ndarray):
        targets = targets.toarray()
    terms = naive.cross_entropy_grad(logits, targets, reduction=reduction, grad_output=above, **options) * logits
    eps, scale = np.finfo(dtype).eps, options.get("logit_scale", 1.0)
    assert abs(found.grad_logit_scale * scale - terms.sum()) <= 8 * eps * np.abs(terms).sum()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_panels_threads_and_layouts_change_nothing_but_roundings(small_tiles, rng, n_threads):
    features, linear_weight, bias = layer(rng, 65, 40, dtype=np.float64)
    labels = rng.integers(0, 40, (5, 13))
    options = {"linear_bias": bias, "logit_scale": 3.0, "n_threads": n_threads}
    first = function(features.reshape(5, 13, -1), linear_weight, labels, **options)
    for given in (np.asfortranarray(features), np.repeat(features, 2, axis=0)[::2]):
        for budget in (1, 1 << 15):
            found = function(given, linear_weight, labels.ravel(), memory_budget=budget, **options)
            assert found == pytest.approx(first, rel=1e-13)
    assert first == function(features, linear_weight, labels.ravel(), **(options | {"n_threads": None}))


def test_rows_with_much_in_common_keep_their_digits(rng):
    """A bias that all classes have adds nothing to the derivative; the sum of features * gradients would lose it."""
    features, linear_weight, _ = layer(rng, 50, 30)
    labels = rng.integers(0, 30, 50)
    bias = np.full(30, 4096.0, np.float32)
    dense_logits = features.astype(float) @ linear_weight.T.astype(float)
    grad = fastce.cross_entropy_value_and_grad(dense_logits, labels).grad
    found = function(features, linear_weight, labels, linear_bias=bias).grad_logit_scale
    rounding = np.spacing(np.float32(4096.0))  # of each logit, which is what the layer is computed in
    assert found == pytest.approx(float((grad * dense_logits).sum()), abs=float(rounding))


@pytest.mark.parametrize(
    ("size_of_features", "size_of_weight", "scale"),
    [(1e30, 1e30, 1e-60), (1e-30, 1e-30, 1e60), (1e200, 1e180, 1e-300), (1.0, 1.0, 1e-200), (3.0, 1e-5, 1e5)],
)
def test_any_magnitude(rng, size_of_features, size_of_weight, scale):
    features, linear_weight, _ = layer(rng, 20, 9, dtype=np.float64)
    labels = rng.integers(0, 9, 20)
    rest = size_of_features * scale * size_of_weight if size_of_features < 1e150 else size_of_features * scale * 1e180
    exact = fastce.cross_entropy_value_and_grad(rest * (features @ linear_weight.T), labels, grad_output=1.0)
    expected = float((exact.grad * (features @ linear_weight.T)).sum()) * rest / scale
    found = function(size_of_features * features, size_of_weight * linear_weight, labels, logit_scale=scale)
    assert found.value == pytest.approx(exact.value, rel=1e-12)
    assert found.grad_logit_scale == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_any_weight_of_rows(rng, size):
    features, linear_weight, _ = layer(rng, 6, 9)
    labels = rng.integers(0, 9, 6)
    plain = function(features, linear_weight, labels, reduction="sum")
    found = function(features, linear_weight, labels, reduction="sum", grad_output=size)
    assert found.value == plain.value
    assert found.grad_logit_scale == pytest.approx(size * plain.grad_logit_scale, rel=1e-6)


def test_ignored_rows_count_nothing_and_nan_shows(rng):
    features, linear_weight, bias = layer(rng, 8, 5)
    labels = np.array([0, 1, -100, 3, 4, 0, 1, -100])
    expected = function(features, linear_weight, labels, linear_bias=bias)
    features[labels == -100] = np.nan
    assert function(features, linear_weight, labels, linear_bias=bias) == expected
    assert np.isnan(function(features, linear_weight, np.abs(labels) % 5, linear_bias=bias).grad_logit_scale)
    nothing = np.full(8, -100)
    assert function(features, linear_weight, nothing, reduction="sum") == (0.0, 0.0)
    assert function(features[:0], linear_weight, nothing[:0], reduction="sum") == (0.0, 0.0)


def test_halves(rng):
    features, linear_weight, bias = layer(rng, 30, 11, dtype=np.float16)
    labels = rng.integers(0, 11, 30)
    found = function(features, linear_weight, labels, linear_bias=bias)
    wide = function(
        *(array.astype(float) for array in (features, linear_weight)), labels, linear_bias=bias.astype(float)
    )
    assert found == pytest.approx(wide, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a record of resident memory that can be set back")
def test_no_matrix_of_gradients_is_held(tmp_path):
    """Logits of 80 MB; few classes and many, and as many of a layer, whose features and weights are 5 MB."""
    out, _ = run_script(
        """
import numpy as np
import fastce
from fastce.profile.measure import extra_memory

rng = np.random.default_rng(0)
scaled = fastce.cross_entropy_value_and_grad_logit_scale
of_layer = fastce.linear_cross_entropy_value_and_grad_logit_scale
for shape in ((2000, 10_000), (400_000, 50), (5, 4_000_000)):
    logits, targets = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    scaled(logits[:2], targets[:2], z_loss=0.1)  # compiles
    print(extra_memory(lambda: scaled(logits, targets, z_loss=0.1))[0])
features, weight = (rng.normal(size=(n, 100)).astype(np.float32) for n in (2000, 10_000))
targets = rng.integers(0, 10_000, 2000)
of_layer(features[:2], weight[:20], targets[:2] % 20)
print(extra_memory(lambda: of_layer(features, weight, targets, memory_budget=8 << 20))[0])
""",
        tmp_path,
    )
    for line in out.splitlines():
        if line == "None":
            pytest.skip("the system does not tell")
        assert int(line) <= 40 << 20


def test_wrong_arguments():
    features, linear_weight = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match="logit_scale"):
        function(features, linear_weight, [0, 1], logit_scale=-1.0)
    with pytest.raises(IndexError, match="targets"):
        function(features, linear_weight, [0, 4])
    with pytest.raises(ValueError, match="grad_output has shape"):
        function(features, linear_weight, [0, 1], grad_output=np.ones(2))
    with pytest.raises(ValueError, match="linear_bias has shape"):
        function(features, linear_weight, [0, 1], linear_bias=np.ones(3))


@pytest.mark.parametrize("name", [f"{of}cross_entropy_value_and_grad_logit_scale" for of in ("linear_", "")])
def test_arrays_of_dask_are_refused_in_words(name):
    arguments = ([np.ones((4, 3))] if name.startswith("linear") else []) + [[0, 1]]
    dask = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="is computed by Dask"):
        getattr(fastce, name)(dask.ones((2, 3)), *arguments)


def test_the_derivative_is_the_slope_of_the_value(rng):
    features, linear_weight, bias = layer(rng, 4, 5, 3, dtype=np.float64)
    options = {"linear_bias": bias, "softcap": 5.0, "z_loss": 0.01, "logit_scale": 1.5}
    found = function(features, linear_weight, [0, 3, 1, 1], **options)
    slope = dense.differences(LINEAR, features, linear_weight, np.array([0, 3, 1, 1]), at="logit_scale", **options)
    assert found.grad_logit_scale == pytest.approx(float(slope), rel=1e-7)
