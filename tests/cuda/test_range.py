"""Numbers of a call beyond the range of float32, and numbers that do not count, against the same in float64."""

import itertools

import calls
import mpmath
import numpy as np
import pytest
import scipy.sparse
import test_magnitudes

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_magnitudes  # for the fixtures
LOGITS = np.float32([[1, 2, 0], [0, 300, 1], [2, 0, 0.5]])
LABELS = np.array([0, 1, 2])
SHAPES = {"few": (1, 3), "rows": (1, 40), "lone": (0, 3)}  # axis and classes of each kernel


def logits_of(shape, dtype=np.float32):
    axis, classes = SHAPES[shape]
    logits = np.concatenate([LOGITS, np.full((3, classes - 3), -2, np.float32)], axis=1).astype(dtype)
    return (logits if axis == 1 else logits.T.copy()), axis


def sparse(masses, classes=3):
    return scipy.sparse.csr_array((np.array(masses), LABELS.copy(), np.arange(4)), shape=(3, classes))


def assert_as_in_float64(function, logits, *args, **options):
    ours = function(logits, *args, **options)
    exact = function(logits.astype(float), *args, **options)
    with np.errstate(over="ignore", under="ignore"):
        for one, other in zip(ours, exact, strict=True):
            if other is None:
                continue
            other = np.asarray(other).astype(np.asarray(one).dtype)
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-38, equal_nan=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "above", [[1e39, 1, 1], [3e38, -3e38, 1e-46], [1e200, 1e300, 0], [1e-300, 1e38, 1e35]], ids=str
)
def test_a_grad_output_on_the_device(on_device, shape, above):
    logits, axis = logits_of(shape)
    options = {"axis": axis, "reduction": "none", "grad_output": np.array(above)}
    assert_as_in_float64(on_device.cross_entropy_value_and_grad, logits, LABELS, **options)
    factors = np.array([1e-20, 1e5, 1.0])
    assert_as_in_float64(on_device.cross_entropy_value_and_grad, logits, LABELS, sample_weight=factors, **options)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_one_grad_output_on_the_device(on_device, reduction):
    for above in (1e39, 1e-300):
        options = {"reduction": reduction, "grad_output": np.array(above)}
        assert_as_in_float64(on_device.cross_entropy_value_and_grad, LOGITS, LABELS, **options)


def test_a_grad_output_that_is_not_finite_goes_into_its_row_alone(on_device):
    above = np.array([np.nan, np.inf, 2.0])
    ours = on_device.cross_entropy_value_and_grad(LOGITS, LABELS, reduction="none", grad_output=above).grad
    plain = on_device.cross_entropy_value_and_grad(LOGITS, LABELS, reduction="none").grad
    assert np.isnan(ours[0]).all()
    np.testing.assert_array_equal(ours[2], 2 * plain[2])


@pytest.mark.parametrize(("shape", "masses"), [
    (shape, masses) if k % 3 == m % 3 else pytest.param(shape, masses, marks=pytest.mark.slow)
    for k, shape in enumerate(SHAPES)
    for m, masses in enumerate(([1e39, 1, 1], [1e-46, 1e-46, 1e-46], [1e300, 1e-300, 0], [3e38, 3e38, 1]))
], ids=str)  # fmt: skip
def test_masses_of_targets(on_device, shape, masses):
    logits, axis = logits_of(shape)
    points = sparse(masses, SHAPES[shape][1])
    dense = points.toarray() if axis == 1 else points.toarray().T.copy()
    for reduction in ("none", "sum"):
        for targets in (points, dense):
            if 0 < masses[0] < 1e-38 and targets is dense and reduction == "sum":
                continue  # a float32 result has no digits of it
            options = {"axis": axis, "reduction": reduction}
            assert_as_in_float64(on_device.cross_entropy_value_and_grad, logits, targets, **options)
            value = on_device.cross_entropy(logits, targets, **options)
            assert not np.isnan(value).any()
    total = on_device.cross_entropy(logits, points, axis=axis, reduction="sum")
    assert total == pytest.approx(
        on_device.cross_entropy(logits.astype(float), points, axis=axis, reduction="sum"), 1e-6
    )


def test_weights_whose_products_float32_does_not_hold(on_device):
    for of_classes, of_rows in ((1e25, 1e25), (1e-25, 1e-25), (1e25, 1e-60)):
        options = {"weight": np.full(3, of_classes), "sample_weight": np.full(3, of_rows), "reduction": "sum"}
        assert_as_in_float64(on_device.cross_entropy_value_and_grad, LOGITS, LABELS, **options)
    assert_as_in_float64(on_device.cross_entropy_value_and_grad, LOGITS * np.float32(1e30), LABELS, z_loss=1e20)


def test_products_that_even_float64_does_not_hold_are_refused(on_device):
    words = (
        r"^on a GPU, what gradients of float64 are multiplied by .* must be 0 or between 1e-308 and 1e\+308 in size$"
    )
    for dtype in (np.float32, np.float64):
        weights = {"weight": np.full(3, 1e200), "sample_weight": np.full(3, 1e200)}
        with pytest.raises(ValueError, match=words):
            on_device.cross_entropy_value_and_grad(LOGITS.astype(dtype), LABELS, reduction="sum", **weights)


def test_in_place_of_logits_float32_is_refused_where_only_the_end_of_a_row_tells(on_device):
    in_place = LOGITS * np.float32(1e30)
    with pytest.raises(
        ValueError, match=r"^on a GPU, what gradients in the place of logits of float32 .* another out$"
    ):
        on_device.cross_entropy_value_and_grad(in_place, LABELS, z_loss=1e20, out=in_place)
    in_place = LOGITS.copy()
    options = {"reduction": "none", "grad_output": np.array([1e39, 1, 1])}  # which is known before anything is written
    ours = on_device.cross_entropy_value_and_grad(in_place, LABELS, out=in_place, **options)
    exact = on_device.cross_entropy_value_and_grad(LOGITS, LABELS, **options)
    np.testing.assert_array_equal(in_place, exact.grad)
    np.testing.assert_array_equal(ours.value, exact.value)


def test_of_a_layer(on_device, rng):
    features, weight = (rng.normal(size=(n, 2)).astype(np.float32) for n in (3, 4))
    for options in (
        {"grad_output": np.array([1e39, 1, 1e-10]), "reduction": "none"},
        {"weight": np.array([1e35, 1, 1, 1])},
        {"sample_weight": np.array([1e35, 1, 1]), "weight": np.array([1, 1e20, 1, 1])},
    ):
        ours = on_device.linear_cross_entropy_value_and_grad(features, weight, LABELS, **options)
        exact = on_device.linear_cross_entropy_value_and_grad(
            features.astype(float), weight.astype(float), LABELS, **options
        )
        for one, other in zip(ours[:3], exact[:3], strict=True):
            scale = np.abs(np.where(np.isfinite(other), other, 0)).max()
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(one, np.asarray(other).astype(np.asarray(one).dtype), 1e-6, 1e-6 * scale)


# --- distances and losses at the ends of the range ------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_beyond_float32(on_device, shape):
    """Sums are of float64, which a weight brings back into the range of float32."""
    logits, axis = logits_of(shape)
    logits *= np.float32(1e36)
    targets = np.array([2, 2, 1])
    for options in ({"weight": np.full(SHAPES[shape][1], 1e10)}, {"label_smoothing": 0.9}):
        ours = on_device.cross_entropy(logits, targets, axis=axis, **options)
        assert ours == pytest.approx(on_device.cross_entropy(logits.astype(float), targets, axis=axis, **options), 1e-6)
        assert np.isfinite(ours)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e200, 1e290])
def test_weights_raise_losses_below_the_normal_numbers_of_float64(on_device, shape, size):
    axis, classes = SHAPES[shape]
    gaps = [700.0, 740.0, 745.5, 750.0, 800.0, 1300.0]
    logits = np.full((6, classes), -3000.0)
    logits[:, 0], logits[:, 1] = 0.0, [-gap for gap in gaps]
    exact = [float(mpmath.log1p(mpmath.exp(-mpmath.mpf(gap))) * size) for gap in gaps]
    logits = logits if axis == 1 else logits.T.copy()
    per_class = np.full(classes, size)
    for options in ({"weight": per_class}, {"sample_weight": np.full(6, size)}):
        ours = on_device.cross_entropy(logits, np.zeros(6, int), axis=axis, reduction="none", **options)
        np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=0)
        total = on_device.cross_entropy(logits, np.zeros(6, int), axis=axis, reduction="sum", **options)
        assert total == pytest.approx(sum(exact), rel=1e-14)


# --- what does not count --------------------------------------------------------------------------------------------


GARBAGE = [np.nan, np.inf, -np.inf, 3e38, 1e300]


@pytest.mark.parametrize(("shape", "garbage"), [
    ("few", np.nan), ("rows", 1e300), ("lone", np.inf),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product(SHAPES, GARBAGE)),
])  # fmt: skip
def test_rows_that_do_not_count_may_hold_anything(on_device, shape, garbage):
    logits, axis = logits_of(shape)
    clean, dirty = logits.T if axis == 0 else logits, logits.copy()
    with np.errstate(over="ignore"):
        (dirty.T if axis == 0 else dirty)[1] = np.float32(garbage)
    weights, ignored = np.array([1.0, 0.0, 2.0]), np.array([0, -100, 2])
    dense = np.full(clean.shape, 0.25)
    dense_dirty = dense.copy()
    dense_dirty[1] = garbage
    spoilt = np.array([1.0, garbage, 1.0])
    pairs = [(ignored, ignored, {}), (LABELS, LABELS, {"sample_weight": weights})]
    pairs += [(*(d.T.copy() if axis == 0 else d for d in (dense, dense_dirty)), {"sample_weight": weights})]
    if 0 <= garbage < np.inf:
        of_classes = [sparse([1.0, mass, 1.0], clean.shape[1]) for mass in (1.0, garbage)]
        pairs += [(*of_classes, {"sample_weight": weights})]
    for given, spoilt_targets, options in pairs:
        for reduction in ("mean", "none"):
            some = {"axis": axis, "reduction": reduction} | options
            above = {"grad_output": np.ones(3)} if reduction == "none" else {}
            spoilt_above = {"grad_output": spoilt} if reduction == "none" else {}
            ours = on_device.cross_entropy_value_and_grad(dirty, spoilt_targets, **some, **spoilt_above)
            exact = on_device.cross_entropy_value_and_grad(logits, given, **some, **above)
            for one, other in zip(ours, exact, strict=True):
                np.testing.assert_array_equal(one, other)
    if np.isfinite(garbage):  # weights must be
        options = {"axis": axis, "reduction": "none"}
        ours = on_device.cross_entropy_value_and_grad(logits, ignored, sample_weight=spoilt, **options)
        exact = on_device.cross_entropy_value_and_grad(logits, ignored, sample_weight=np.ones(3), **options)
        for one, other in zip(ours, exact, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e25, 3e38, 1e300])
def test_features_that_do_not_count_may_hold_anything(on_device, rng, dtype, garbage):
    features, weight = (rng.normal(size=(n, 2)).astype(dtype) for n in (3, 4))
    dirty = features.copy()
    with np.errstate(over="ignore"):
        dirty[1] = dtype(garbage)
    for targets, options in ((np.array([0, -100, 2]), {}), (LABELS, {"sample_weight": np.array([1.0, 0.0, 2.0])})):
        ours = on_device.linear_cross_entropy_value_and_grad(dirty, weight, targets, **options)
        exact = on_device.linear_cross_entropy_value_and_grad(features, weight, targets, **options)
        for one, other in zip(ours[:3], exact[:3], strict=True):
            np.testing.assert_array_equal(one, other)


# --- SigLIP ---------------------------------------------------------------------------------------------------------


def exact_siglip(a, b, scale, bias):
    """Value and gradients of one pair on the diagonal and its negatives, by mpmath."""
    a, b = ([[mpmath.mpf(float(x)) for x in row] for row in rows] for rows in (a, b))
    rows, width = len(a), len(a[0])
    value = of_bias = of_scale = mpmath.mpf(0)
    of_a, of_b = ([[mpmath.mpf(0)] * width for _ in range(rows)] for _ in range(2))
    for i in range(rows):
        for j in range(rows):
            product = sum(x * y for x, y in zip(a[i], b[j], strict=True))
            sign = 1 if i == j else -1
            z = sign * (scale * product + bias)
            value += mpmath.log1p(mpmath.exp(-z)) / rows
            slope = -sign / (1 + mpmath.exp(z)) / rows
            of_bias, of_scale = of_bias + slope, of_scale + slope * product
            for k in range(width):
                of_a[i][k] += scale * slope * b[j][k]
                of_b[j][k] += scale * slope * a[i][k]
    return value, of_a, of_b, of_scale, of_bias


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [z * sign for z in (80, 86.5, 89, 104, 709, 745.2, 1e4) for sign in (1, -1)])
def test_siglip_far_from_0(on_device, dtype, bias):
    a = np.array([[1, 0], [0.5, 0.25]], dtype)
    b = np.array([[1, 0.5], [-0.25, 1]], dtype)
    ours = on_device.siglip_loss_value_and_grad(a, b, 2.0, bias, normalize=False)
    exact = exact_siglip(a, b, mpmath.mpf(2), mpmath.mpf(bias))
    eps = 8 * np.finfo(dtype).eps
    for one, other in zip(ours, exact, strict=True):
        other = np.array(other, dtype=float)
        np.testing.assert_allclose(np.asarray(one, float), other, rtol=eps * (1 + abs(bias)), atol=np.finfo(dtype).tiny)
    if bias < 0:  # all negatives are confident; the loss of positives is large and those of negatives are not seen
        assert ours.grad_logit_bias == pytest.approx(float(exact[-1]), rel=1e-6)


@pytest.mark.parametrize("form", calls.CONTRASTIVE)
def test_scales_that_make_similarities_large(on_device, rng, form):
    """Float32 is as float64, whose results test_losses_from_features.py compares with the CPU's."""
    features = [a.astype(np.float32) for a in calls.features_of(form, rng)]
    rest = calls.rest_of(form, len(features[0]))
    for number in (100.0, 1e4):
        options = dict(calls.options_of(form))
        name = next(iter(options))
        options[name] = 1 / number if name == "temperature" else number
        function = getattr(on_device, f"{calls.name_of(form)}_value_and_grad")
        ours = function(*features, *rest, **options, normalize=True)
        exact = function(*(a.astype(float) for a in features), *rest, **options, normalize=True)
        for one, other in zip(ours, exact, strict=True):
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4 * np.abs(other).max())


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_results_have_the_dtype_of_features_whatever_they_are_computed_in(on_device, rng, reduction):
    a, b = (rng.normal(size=(3, 2)).astype(np.float32) for _ in range(2))
    labels = np.array([0, 0, 1])
    for name, args, options in (
        ("linear_cross_entropy", (a, b, LABELS), {"logit_scale": 1e35}),
        ("linear_cross_entropy", (a, b, np.array([0, -100, 1])), {"weight": np.array([1e35, 1, 1])}),
        ("siglip_loss", (a, b, 1e35, 0.0), {}),
        ("siglip_loss", (a, b, 1.0, 1e39), {}),
        ("info_nce", (a, b), {"temperature": 1e-35}),
        ("nt_xent", (a, b), {"temperature": 1e-35}),
        ("sup_con", (a, labels), {"temperature": 1e-35}),
        ("clip_loss_from_features", (a, b, 1e35), {}),
    ):
        for function in (name, f"{name}_value_and_grad"):
            ours = getattr(on_device, function)(*args, reduction=reduction, **options)
            theirs = getattr(fastce, function)(*args, reduction=reduction, **options)
            of_ours, of_theirs = (r if isinstance(r, tuple) else (r,) for r in (ours, theirs))
            assert [getattr(x, "dtype", None) for x in of_ours] == [getattr(x, "dtype", None) for x in of_theirs]


def test_a_number_for_the_gradients_of_a_layer_that_float32_does_not_hold(on_device, rng):
    features, weight = (rng.normal(size=(n, 2)).astype(np.float32) for n in (3, 40))
    probabilities = np.full((3, 40), 0.025, np.float32)
    options = {"grad_output": 1e33, "reduction": "sum"}
    ours = on_device.linear_cross_entropy_value_and_grad(features, weight, probabilities, **options)
    exact = fastce.linear_cross_entropy_value_and_grad(features, weight, probabilities, **options)
    for one, other in zip(ours[:3], exact[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


def test_smoothed_losses_of_similarities_that_are_all_the_same(on_device):
    for dtype, sizes in ((np.float32, [1.0, 1e6, 1e30, -3e38]), (np.float64, [1.0, 1e6])):
        for size in sizes:
            similarity = np.full((7, 7), size, dtype)
            ours = on_device.clip_loss(similarity, logit_scale=3.0, label_smoothing=0.3)
            assert ours == pytest.approx(np.log(7), rel=1e-6)


def test_smoothed_losses_at_the_end_of_float64(on_device):
    most = np.finfo(float).max
    similarity = np.array([[most, -most], [-most, most]])
    ours = on_device.clip_loss_value_and_grad(similarity, label_smoothing=0.3)
    np.testing.assert_allclose(ours.value, 0.3 * most)
    np.testing.assert_allclose(ours.grad, [[0.075, -0.075], [-0.075, 0.075]])
    np.testing.assert_allclose(ours.grad_logit_scale, 0.3 * most)


@pytest.mark.ptx
@pytest.mark.parametrize("shape", ["lone", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("few", "rows"))])
def test_in_compiled_kernels(launched, shape):
    logits, axis = logits_of(shape)
    classes = SHAPES[shape][1]
    function = launched.cross_entropy_value_and_grad
    products = {"weight": np.full(classes, 1e25), "sample_weight": np.full(3, 1e25), "reduction": "sum"}
    assert_as_in_float64(function, logits, LABELS, axis=axis, **products)  # at the end of rows, all of them
    options = {"axis": axis, "reduction": "none", "grad_output": np.array([1e39, 1, 1])}
    assert_as_in_float64(function, logits, sparse([1e39, 1, 1], classes), **options)
    faint = np.full(logits.shape, -750.0)
    (faint if axis == 1 else faint.T)[:, 0] = 0.0
    ours = launched.cross_entropy(faint, np.zeros(3, int), axis=axis, reduction="none", sample_weight=np.full(3, 1e200))
    exact = float(mpmath.log1p((classes - 1) * mpmath.exp(-750)) * mpmath.mpf("1e200"))
    np.testing.assert_allclose(ours, exact, rtol=1e-12)
