"""Losses from features on a device: by the simulator, and by compiled kernels that the interpreter of PTX runs.

The products of features are NumPy's in both.
"""

import sys

import dense
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from feature_cases import LINEAR, LOSSES, WRONG, case

import fastce

pytest.importorskip("numba_cuda")

CHECKS = dense  # for the fixtures
NAN = np.nan


@pytest.fixture
def on_device(on_device, small_blocks, monkeypatch):
    monkeypatch.setattr("fastce.cuda.sigmoid.THREADS", 32)
    return on_device


# ---------------------------------------------------------------------------------- against the formulas
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", NAMES)
def test_value_and_all_gradients_are_those_of_the_dense_formula(on_device, rng, name, dtype):
    arguments, options = case(name, rng, dtype=dtype_of(dtype))
    reduction = REDUCTIONS[NAMES.index(dtype) % 3]
    dense.check(name, *arguments, reductions=[reduction], memory_budget=600, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "normalize"), [("siglip_loss", True), ("info_nce", False), ("sup_con", False)])
def test_features_may_be_normalized_or_not(on_device, rng, name, normalize, reduction):
    arguments, options = case(name, rng, dtype=np.float64)
    options |= {} if name == "siglip_loss" else {"temperature": 1.5}
    dense.check(name, *arguments, reductions=[reduction], normalize=normalize, memory_budget=2000, **options)


@pytest.mark.parametrize("several", [False, True])
def test_siglip_with_any_positives(on_device, rng, several):
    (images, texts, *numbers), _ = case("siglip_loss", rng, 9, 9)
    targets = scipy.sparse.csr_array(rng.random((9, 9)) * (rng.random((9, 9)) < 0.3)) if several else None
    dense.check("siglip_loss", images, texts, *numbers, targets=targets, reductions=["none"], memory_budget=500)


@pytest.mark.parametrize("form", ["in the batch", "own"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_info_nce_with_negatives_of_any_form(on_device, rng, form, dtype):
    (query, positive, _), _ = case("info_nce", rng, dtype=dtype)
    negative = rng.normal(size=(9, 3, 5)).astype(dtype) if form == "own" else None
    dense.check("info_nce", query, positive, negative, reductions=["mean"], memory_budget=1000)


@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5], [-(2**62), 3, -(2**62), 8, 3, 3]]
)
def test_sup_con_with_classes_of_any_size(on_device, rng, labels):
    features = rng.normal(size=(6, 4))
    dense.check("sup_con", features, np.array(labels), reductions=["mean"], memory_budget=500)


OPTIONS = {
    "weights": {"weight": "per class", "sample_weight": "per row, some 0"},
    "one sample weight": {"sample_weight": 0.7},
    "ignored rows": {"ignore_index": 3},
    "smoothing": {"label_smoothing": 0.2, "smoothing_over": "others", "logit_scale": 2.5},
    "all": {
        "weight": "per class", "sample_weight": "per row, some 0", "ignore_index": 3, "label_smoothing": 0.1,
        "softcap": 5.0, "z_loss": 0.01, "grad_output": -2.5,
    },
}  # fmt: skip


def targets_of(kind, rng, rows, classes):
    if kind == "indices":
        return rng.integers(0, classes, rows).astype(np.int32)
    probabilities = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.4)
    return probabilities if kind == "probabilities" else scipy.sparse.csr_array(probabilities)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["indices", "probabilities", "sparse"])
def test_linear_cross_entropy_has_every_option_of_cross_entropy(on_device, rng, kind, options):
    (features, linear_weight, _), _ = case(LINEAR, rng, 11, 6)
    drawn = {"per class": rng.random(6) + 0.1, "per row, some 0": rng.random(11) * (np.arange(11) % 3 > 0)}
    given = {key: drawn.get(o, o) if isinstance(o, str) else o for key, o in OPTIONS[options].items()}
    if kind != "indices":
        given.pop("ignore_index", None)
    targets, bias = targets_of(kind, rng, 11, 6), rng.normal(size=6).astype(np.float32)
    reduction = REDUCTIONS[len(options) % 3]
    dense.check(
        LINEAR, features, linear_weight, targets, linear_bias=bias, reductions=[reduction], memory_budget=700, **given
    )


@pytest.mark.parametrize("lead", [(), (2, 3), (0,), (3, 0)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_features_of_any_leading_dimensions(on_device, rng, lead, kind):
    features, linear_weight = rng.normal(size=(*lead, 4)), rng.normal(size=(5, 4))
    targets = rng.integers(0, 5, lead) if kind == "indices" else rng.random((*lead, 5))
    ours = dense.check(LINEAR, features, linear_weight, targets, reductions=["none"], memory_budget=1)
    assert (np.shape(ours.value), ours.grad_features.shape) == (lead, features.shape)


def test_gradients_are_multiplied_by_a_number_for_each_row(on_device, rng):
    arguments, _ = case(LINEAR, rng)
    arguments[2][::4] = -100
    dense.check(LINEAR, *arguments, grad_output=rng.normal(size=9), reductions=["none"], memory_budget=300)


# ------------------------------------------------------------------------------------------------- panels
@pytest.mark.parametrize("name", LOSSES)
def test_panels_keep_within_the_memory_budget(on_device, rng, name):
    arguments, options = case(name, rng, dtype=np.float64)
    function, rows = getattr(on_device, name), 18 if name == "nt_xent" else 9
    values, totals = [], []
    for budget in (1, 300 if name in ("siglip_loss", LINEAR) else 1500, 1 << 20):
        steps = []
        options["progress"] = lambda done, total, steps=steps: steps.append((done, total))
        values.append(function(*arguments, memory_budget=budget, **options))
        totals.append(len(steps))
        assert steps == [(k, len(steps)) for k in range(1, len(steps) + 1)]
    fewest = 2 if name == "nt_xent" else 1  # two sets of views have panels of their own
    assert rows == totals[0] > totals[1] > totals[2] == fewest
    np.testing.assert_allclose(values, values[0], rtol=1e-13)


def test_what_progress_raises_ends_the_call(on_device, rng):
    steps = []

    def stop(done, total):
        steps.append(done)
        raise KeyboardInterrupt

    arguments, options = case("sup_con", rng)
    with pytest.raises(KeyboardInterrupt):
        on_device.sup_con_value_and_grad(*arguments, memory_budget=1, progress=stop, **options)
    assert steps == [1]


def gemm(b_transposed, a_transposed, n, m, k, b, b_step, a, a_step, out_step):
    """What BLAS computes, for which columns follow each other in memory."""

    def matrix(flat, rows, columns, step, transposed=False):
        if transposed:
            return matrix(flat, columns, rows, step).T
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, step * flat.itemsize))

    out = np.zeros(out_step * m)
    matrix(out, n, m, out_step)[...] = matrix(b, n, k, b_step, b_transposed) @ matrix(a, k, m, a_step, a_transposed)
    return out


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (3, 1, 1), (1, 4, 1)])
def test_products_are_told_to_blas_without_copies(rng, shape):
    from fastce.cuda.products import gemm_arguments

    m, n, k = shape

    def matrix(rows, columns, transposed):  # a part of a larger one
        if transposed:
            return matrix(columns, rows, False).T
        return rng.normal(size=(rows + 2, columns + 3))[1 : rows + 1, 2 : columns + 2]

    for a_transposed, b_transposed in np.ndindex(2, 2):
        a, b, out = matrix(m, k, a_transposed), matrix(k, n, b_transposed), matrix(m, n, False)
        (of_b, of_a), sizes, (b_step, a_step, out_step) = gemm_arguments(a, b, out)
        flat = gemm(of_b, of_a, *sizes, b, b_step, a, a_step, out_step)
        room = np.lib.stride_tricks.as_strided(flat, (m, n), (8 * out_step, 8))
        np.testing.assert_allclose(room, a @ b, rtol=1e-12)
        assert m == 1 or out_step == n + 3


# ----------------------------------------------------------------------------------------------- features
LAYOUTS = {
    "transposed": lambda x: np.asfortranarray(x),
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda x: x.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "columns of wider rows": lambda x: np.pad(x, [(0, 0), (1, 2)])[:, 1:-2],
    "the same for all rows": lambda x: np.broadcast_to(x[0], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_of_any_strides(on_device, rng, layout, dtype):
    (features, linear_weight, labels), _ = case(LINEAR, rng, dtype=dtype_of(dtype))
    features = LAYOUTS[layout](features)
    if layout != "the same for all rows":
        linear_weight = LAYOUTS[layout](linear_weight)
    dense.check(LINEAR, features, linear_weight, labels, reductions=["sum"], memory_budget=400)


def test_integers_count_as_float64_and_each_side_has_its_own_dtype(on_device, rng):
    integers = rng.integers(-2, 3, (6, 4))
    dense.check("nt_xent", integers, rng.normal(size=(6, 4)).astype(np.float32), reductions=["mean"])
    dense.check("info_nce", rng.normal(size=(6, 4)).astype(np.float16), integers.astype(np.float32), reductions=["sum"])


def test_rows_of_any_length_can_be_normalized(on_device, rng):
    features = rng.normal(size=(8, 4)) * 10.0 ** np.array([[0], [-200], [-310], [300], [0], [-30], [30], [5]])
    features[4] = 0
    labels = np.arange(8) % 3
    ours = on_device.sup_con_value_and_grad(features, labels)
    theirs = fastce.sup_con_value_and_grad(features, labels)
    assert ours.value == pytest.approx(theirs.value, rel=1e-13)
    np.testing.assert_allclose(ours.grad_features, theirs.grad_features, rtol=1e-9)
    assert not ours.grad_features[4].any()


def test_features_without_width(on_device):
    features, bias = np.ones((2, 3, 0)), np.array([0.0, 1.0, -2.0])
    ours = on_device.linear_cross_entropy_value_and_grad(
        features, np.ones((3, 0)), np.zeros((2, 3), int), linear_bias=bias
    )
    p = np.exp(bias) / np.exp(bias).sum()
    assert ours.value == pytest.approx(-np.log(p[0]), rel=1e-14)
    np.testing.assert_allclose(ours.grad_linear_bias, p - [1, 0, 0], rtol=1e-14)
    assert (ours.grad_features.shape, ours.grad_linear_weight.shape) == ((2, 3, 0), (3, 0))


# ------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confident_rows_keep_their_digits(on_device, dtype):
    n, margin, bound = 6, 25, 8 * float(np.finfo(dtype).eps)
    features, others = np.eye(n, dtype=dtype), np.zeros((n - 1, n), dtype)
    exact = np.log1p((n - 1) * np.exp(-float(margin)))
    options = dict(temperature=1 / margin, normalize=False, reduction="none")
    np.testing.assert_allclose(on_device.info_nce(features, features, others, **options), exact, rtol=bound)
    np.testing.assert_allclose(on_device.nt_xent(features, features, **options), _of_views(n, margin), rtol=bound)
    couples = features[np.arange(2 * n) // 2]
    labels = np.arange(2 * n) // 2
    np.testing.assert_allclose(on_device.sup_con(couples, labels, **options), _of_views(n, margin), rtol=bound)
    losses = on_device.linear_cross_entropy(features, margin * features, np.arange(n), reduction="none")
    np.testing.assert_allclose(losses, exact, rtol=bound)
    losses = on_device.siglip_loss(features, features, 2.0 * margin, -margin, reduction="none")
    np.testing.assert_allclose(losses, n * np.log1p(np.exp(-float(margin))), rtol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_of_confident_rows_keep_their_digits(on_device, dtype):
    n, margin, bound = 6, 25, 8 * float(np.finfo(dtype).eps)
    features = np.eye(n, dtype=dtype)
    options = dict(temperature=1 / margin, normalize=False)
    slope = -np.expm1(-_of_views(n, margin))
    ours = on_device.nt_xent_value_and_grad(features, features, **options)
    np.testing.assert_allclose(np.diag(ours.grad_first_views), -margin * slope / n, rtol=bound)
    assert ours.grad_temperature == pytest.approx(margin**2 * slope, rel=bound)
    ours = on_device.sup_con_value_and_grad(np.concatenate([features, features]), np.arange(2 * n) % n, **options)
    assert ours.grad_temperature == pytest.approx(margin**2 * slope, rel=bound)
    slope = -np.expm1(-np.log1p((n - 1) * np.exp(-float(margin))))
    for negative in (None, np.zeros((n - 1, n), dtype)):
        ours = on_device.info_nce_value_and_grad(features, features, negative, **options)
        np.testing.assert_allclose(np.diag(ours.grad_positive_key), -margin * slope / n, rtol=bound)
        assert ours.grad_temperature == pytest.approx(margin**2 * slope, rel=bound)


def _of_views(n, margin):
    return np.log1p((2 * n - 2) * np.exp(-float(margin)))


@pytest.mark.parametrize(("scale", "bias"), [(1e-46, 0.5), (1e39, -3.0), (2.0, -1e39)])
def test_numbers_that_float32_does_not_have(on_device, rng, scale, bias):
    images, texts = (rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    images *= np.float32(1e-38) if scale > 1e30 else np.float32(1)
    z = scale * (images.astype(float) @ texts.T.astype(float)) + bias
    expected = (np.logaddexp(0, z).sum() - np.trace(z)) / 6
    assert on_device.siglip_loss(images, texts, scale, bias) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", ["ignored", "of no weight, with probabilities", "of no weight, sparse"])
def test_what_ignored_rows_hold_is_harmless(on_device, rng, how):
    (features, linear_weight, labels), _ = case(LINEAR, rng)
    left_out, options, targets = np.arange(9) % 3 == 1, {}, labels
    if how == "ignored":
        labels[left_out] = -100
    else:
        options["sample_weight"] = np.where(left_out, 0.0, rng.random(9))
        targets = np.eye(7)[labels] if "probabilities" in how else scipy.sparse.csr_array(np.eye(7)[labels])
    function = on_device.linear_cross_entropy_value_and_grad
    clean = function(features, linear_weight, targets, reduction="none", **options)
    features[left_out] = NAN
    ours = function(features, linear_weight, targets, reduction="none", **options)
    assert dense.bits(ours) == dense.bits(clean)
    assert np.all(ours.grad_features[left_out] == 0)
    assert np.all(ours.value[left_out] == 0)


@pytest.mark.parametrize("name", LOSSES)
def test_one_nan_shows_where_it_does_on_the_cpu(on_device, rng, name):
    arguments, options = case(name, rng)
    arguments[0][4, 2] = NAN
    function = f"{name}_value_and_grad"
    ours = getattr(on_device, function)(*arguments, reduction="none", **options)
    theirs = getattr(fastce, function)(*arguments, reduction="none", **options)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other)) if other is not None else None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_nobody_at_all(on_device, rng, name, reduction):
    arguments, options = case(name, rng, rows=0)
    function = f"{name}_value_and_grad"
    ours = getattr(on_device, function)(*arguments, reduction=reduction, **options)
    theirs = getattr(fastce, function)(*arguments, reduction=reduction, **options)
    assert dense.bits(ours) == dense.bits(theirs)


def test_all_rows_ignored_and_no_negative_key(on_device, rng):
    (features, linear_weight, labels), _ = case(LINEAR, rng)
    value, *gradients = on_device.linear_cross_entropy_value_and_grad(features, linear_weight, labels * 0 - 100)
    assert np.isnan(value)
    assert not any(gradient.any() for gradient in gradients[:2])
    for negative in (np.empty((0, 5), np.float32), np.empty((9, 0, 5), np.float32)):
        ours = on_device.info_nce_value_and_grad(features, features, negative)
        assert (ours.value, ours.grad_temperature, ours.grad_negative_keys.shape) == (0.0, 0.0, negative.shape)
        assert not ours.grad_query.any()


@pytest.mark.parametrize("dtype", NAMES)
def test_no_row_counts_and_weights_are_of_any_dtype(on_device, dtype):
    features, weight, bias = np.ones((3, 2), np.float32), np.ones((4, 2), dtype_of(dtype)), np.ones(4, dtype_of(dtype))
    for labels, options in (([-100] * 3, {}), ([0] * 3, {"sample_weight": 0.0})):
        ours = on_device.linear_cross_entropy_value_and_grad(
            features, weight, np.array(labels), linear_bias=bias, reduction="sum", **options
        )
        assert ours.value == 0.0
        assert not any(np.asarray(gradient, float).any() for gradient in ours[1:])


def test_one_number_for_all_gradients_may_be_an_array(on_device, rng):
    arguments, _ = case(LINEAR, rng)
    function = on_device.linear_cross_entropy_value_and_grad
    expected = function(*arguments, grad_output=2.5)
    ours = function(*arguments, grad_output=np.array([2.5]))
    for one, other in zip(ours[1:3], expected[1:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# -------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("what", WRONG)
def test_errors_are_those_of_the_cpu(on_device, what):
    name, arguments, options = WRONG[what]
    for function in (name, f"{name}_value_and_grad"):
        with pytest.raises((TypeError, ValueError, IndexError)) as theirs:
            getattr(fastce, function)(*arguments, **options)
        with pytest.raises(type(theirs.value)) as ours:
            getattr(on_device, function)(*arguments, **options)
        assert str(ours.value) == str(theirs.value)


def test_without_cupy_the_error_says_how_to_get_it(monkeypatch):
    from fastce.cuda import products

    monkeypatch.setattr(products.config, "ENABLE_CUDASIM", 0)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="pip install cupy-cuda12x or cupy-cuda13x"):
        products.array_module()


# ---------------------------------------------------------------------------------------- compiled kernels
@pytest.mark.ptx
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_kernels(launched, rng, name):
    arguments, options = case(name, rng, columns=21)
    dense.check(name, *arguments, reductions=["mean"], memory_budget=2000, **options)


@pytest.mark.ptx
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_panels_of_siglip_are_read_and_written_16_bytes_at_a_time(launched, rng, dtype):
    (images, texts, *numbers), _ = case("siglip_loss", rng, 3, 1037, dtype=dtype)
    labels = np.array([5, 1036, 0])
    dense.check("siglip_loss", images, texts, *numbers, targets=labels, reductions=["mean"])
    of_sigmoids = [one for one in launched.device.launches if one.kernel.__name__ == "sigmoid_rows"]
    assert len(of_sigmoids) == 2
    vector = "v2.f64" if dtype is np.float64 else "v4"
    for one in of_sigmoids:
        assert f"ld.global.{vector}" in one.text or "ld.global.v4" in one.text
        assert "st.global.v" in one.text
        assert one.report.sectors_read <= 1.1 * 3 * 1037 * np.dtype(dtype).itemsize / 32 + 20
