"""nll_loss and binary_cross_entropy_with_logits, and their gradients."""

import naive
import numpy as np
import pytest
from checks import dtype_of
from covering import covering

import fastce

REDUCTIONS = ["none", "sum", "mean"]
INF, NAN = np.inf, np.nan
EPS32 = np.finfo(np.float32).eps


def assert_value(value, expected, reduction, dtype, ulps=4):
    """reduction="none": so many ulp a row; else a Python float, as good as the sum of such rows.

    Every row is a sum of terms of one sign, so the relative error of a row is that of its terms.
    """
    if reduction == "none":
        assert value.dtype == dtype
        assert value.shape == np.shape(expected)
        assert np.max(naive.ulp_error(value, expected), initial=0) <= ulps
    else:
        assert type(value) is float
        assert value == pytest.approx(expected, rel=ulps * float(np.finfo(dtype).eps), abs=0, nan_ok=True)


# ---------------------------------------------------------------------------------------------- nll_loss
NLL_OPTIONS = {
    "plain": lambda rng, rows: {},
    "weight": lambda rng, rows: {"weight": rng.random(7)},
    "sample_weight": lambda rng, rows: {"sample_weight": rng.random(rows)},
    "ignore_index": lambda rng, rows: {"ignore_index": 2},
    "all_together": lambda rng, rows: {
        "weight": rng.random(7),
        "sample_weight": rng.random(rows),
        "ignore_index": 3,
    },
}


@covering(
    {
        "dtype": [np.float32, np.float64],
        "reduction": REDUCTIONS,
        "option": NLL_OPTIONS,
        "shape, axis": [
            ((7,), None),
            ((40, 7), None),
            ((7, 40), 0),
            ((4, 7, 5), None),
            ((4, 5, 7), -1),
            ((2, 7, 3, 4), None),
        ],
    }
)
def test_nll_loss_and_its_gradient_are_those_of_the_formula(rng, shape, axis, option, reduction, dtype):
    log_probs = -rng.random(shape).astype(dtype) * 5
    rows = tuple(np.delete(shape, (0 if len(shape) == 1 else 1) if axis is None else axis))
    labels, options = rng.integers(0, 7, rows), NLL_OPTIONS[option](rng, rows)
    labels = np.where(rng.random(rows) < 0.2, options.get("ignore_index", -100), labels)
    expected, expected_grad = naive.nll_loss_and_grad(log_probs, labels, axis=axis, reduction=reduction, **options)
    assert_value(
        fastce.nll_loss(log_probs, labels, axis=axis, reduction=reduction, **options),
        expected,
        reduction,
        dtype,
    )
    value, grad = fastce.nll_loss_value_and_grad(log_probs, labels, axis=axis, reduction=reduction, **options)
    assert_value(value, expected, reduction, dtype)
    assert grad.dtype == dtype
    np.testing.assert_allclose(grad, expected_grad, rtol=4 * np.finfo(dtype).eps, atol=0)  # products, no sums


def test_nll_loss_of_log_softmax_is_cross_entropy(rng):
    logits, labels, weight = rng.normal(size=(30, 9)), rng.integers(0, 9, 30), rng.random(9)
    for reduction in REDUCTIONS:
        nll = fastce.nll_loss(fastce.log_softmax(logits, axis=1), labels, weight=weight, reduction=reduction)
        cross_entropy = fastce.cross_entropy(logits, labels, weight=weight, reduction=reduction)
        np.testing.assert_allclose(nll, cross_entropy, rtol=1e-14)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_nll_loss_of_half_precision_is_a_float32(rng, name):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    log_probs, labels = -rng.random((20, 7)).astype(dtype), rng.integers(0, 7, 20)
    losses, grad = fastce.nll_loss_value_and_grad(log_probs, labels, reduction="none")
    np.testing.assert_array_equal(losses, -log_probs[np.arange(20), labels].astype(np.float32), strict=True)
    np.testing.assert_array_equal(grad, -np.eye(7)[labels].astype(dtype), strict=True)


def test_nll_loss_reads_the_targets_entry_only():
    log_probs = np.array([[-1.0, NAN, -INF], [NAN, -2.0, -3.0], [-INF, -1.0, -1.0], [INF, -4.0, -5.0]])
    losses, grad = fastce.nll_loss_value_and_grad(log_probs, [0, 0, 0, 1], reduction="none")
    np.testing.assert_array_equal(losses, [1, NAN, INF, 4])
    np.testing.assert_array_equal(grad[[0, 2, 3]], [[-1, 0, 0], [-1, 0, 0], [0, -1, 0]])


def test_nll_loss_of_no_mass_is_zero_even_at_minus_infinity():
    log_probs = np.array([[-INF, -1.0], [-INF, -1.0], [-INF, -1.0]])
    options = {"weight": [0.0, 1.0], "sample_weight": [1.0, 0.0, 1.0]}
    losses, grad = fastce.nll_loss_value_and_grad(log_probs, [0, 0, -100], reduction="none", **options)
    np.testing.assert_array_equal(losses, [0, 0, 0])
    np.testing.assert_array_equal(grad, np.zeros((3, 2)))


@pytest.mark.parametrize(("labels", "shape"), [([-100, -100], (2, 3)), (np.empty(0, int), (0, 3))])
def test_nll_loss_of_no_rows_that_count(labels, shape):
    log_probs = np.full(shape, NAN, np.float32)
    mean, total = (fastce.nll_loss_value_and_grad(log_probs, labels, reduction=r) for r in ("mean", "sum"))
    assert np.isnan(mean.value)
    assert total.value == 0.0
    np.testing.assert_array_equal(fastce.nll_loss(log_probs, labels, reduction="none"), np.zeros(len(labels)))
    for grad in (mean.grad, total.grad):
        np.testing.assert_array_equal(grad, np.zeros(shape, np.float32), strict=True)


@pytest.mark.parametrize(
    ("shape", "axis"), [((300_001, 2), 1), ((70_000, 10), 1), ((3, 7, 40_000), 1), ((5, 70_000), 0)]
)
@pytest.mark.parametrize("option", ["plain", "all_together"])
def test_nll_loss_of_many_rows_is_that_of_the_formula(rng, option, shape, axis):
    """Blocks of rows, on several threads; a part of the labels ignored."""
    log_probs, classes = -rng.random(shape, np.float32) * 5, shape[axis]
    rows = tuple(np.delete(shape, axis))
    labels = np.where(rng.random(rows) < 0.3, -100, rng.integers(0, classes, rows))
    options = {"axis": axis, "reduction": "mean"}
    if option == "all_together":
        options |= {"weight": rng.random(classes), "sample_weight": rng.normal(size=rows), "grad_output": -2.0}
    expected, expected_grad = naive.nll_loss_and_grad(log_probs, labels, **options)
    for out in (None, np.empty(shape, np.float32), np.empty(shape, np.float32, order="F"), log_probs):
        value, grad = fastce.nll_loss_value_and_grad(log_probs, labels, **options, out=out)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(grad, expected_grad, rtol=4 * EPS32, atol=0)


IMAGES = {
    "Fortran": np.asfortranarray,
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "every second": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "last axis first": lambda x: np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1),
}


@covering(
    {
        "layout": IMAGES,
        "shape": [(3, 5, 40, 50), (2, 5, 3, 40, 30), (33, 5, 35), (40, 5, 3, 2)],
        "dtype": [np.float32, np.float64, np.float16],
        "large": [False, True],
    },
    quick=1,
)
def test_nll_losses_of_images_in_any_layout_have_the_bits_of_a_plain_copy(rng, layout, shape, dtype, large):
    plain = -rng.random(shape).astype(dtype)
    labels = rng.integers(0, 5, (shape[0], *shape[2:]))
    labels[rng.random(labels.shape) < 0.2] = -100
    options = {"weight": rng.random(5), "sample_weight": rng.random(labels.shape) * (1e200 if large else 1.0)}
    if large:
        options["weight"][1] = 1e300
    log_probs = IMAGES[layout](plain)
    expected = fastce.nll_loss(plain, labels, reduction="none", **options)
    assert np.array_equal(fastce.nll_loss(log_probs, labels, reduction="none", **options), expected)
    for reduction in REDUCTIONS:
        twin = fastce.nll_loss_value_and_grad(log_probs, labels, reduction=reduction, **options)
        same = fastce.nll_loss_value_and_grad(plain, labels, reduction=reduction, **options)
        value = fastce.nll_loss(log_probs, labels, reduction=reduction, **options)
        assert np.array_equal(value, twin.value)
        assert np.array_equal(value, same.value)
        assert np.array_equal(twin.grad, same.grad)
        of_copy = log_probs.copy(order="K")
        in_place = fastce.nll_loss_value_and_grad(of_copy, labels, out=of_copy, reduction=reduction, **options)
        assert np.array_equal(in_place.value, value)
        assert np.array_equal(of_copy, same.grad)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_nll_losses_beyond_float64_take_the_way_of_pairs(unit):
    log_probs = np.array([[-1.0, -3.0 * unit], [-2.0 * unit, -1.0]])
    options = {"weight": [unit, 1.0], "reduction": "none"}
    value, grad = fastce.nll_loss_value_and_grad(log_probs, [1, 0], **options)
    np.testing.assert_array_equal(value, [3.0 * unit, 0.0 if unit < 1 else INF])
    np.testing.assert_array_equal(grad, [[0, -1], [-unit, 0]])
    work = log_probs.copy()
    ours = fastce.nll_loss_value_and_grad(work, [1, 0], **options, out=work)
    np.testing.assert_array_equal(ours.value, value)
    np.testing.assert_array_equal(work, grad)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
@pytest.mark.parametrize("ignored", [-100, 1, 200, 2**70, -(2**63)])
def test_the_ignored_class_is_any_integer(dtype, ignored):
    """It must not be found in numbers that only look like it in another type."""
    log_probs, labels = -np.arange(1.0, 13.0).reshape(6, 2), np.array([0, 1, 1, 0, 0, 1])
    kept = labels != ignored
    if -128 <= ignored < 0 and np.dtype(dtype).kind == "i":
        labels[2], kept[2] = ignored, False
    expected = -log_probs[np.arange(6), np.where(kept, labels, 0)] * kept
    options = {"ignore_index": ignored, "weight": [1.0, 2.0]}
    losses = fastce.nll_loss(log_probs, labels.astype(dtype), **options, reduction="none")
    weight = np.where(labels == 1, 2.0, 1.0) * kept
    np.testing.assert_array_equal(losses, expected * weight)
    mean = fastce.nll_loss(log_probs, labels.astype(dtype), **options)
    assert mean == pytest.approx((expected * weight).sum() / weight.sum(), rel=1e-15)


def test_large_unsigned_labels_are_no_negative_ones():
    labels = np.array([0, 2**64 - 100], np.uint64)
    with pytest.raises(IndexError, match="row 1 hold class index 18446744073709551516"):
        fastce.nll_loss(np.zeros((2, 3)), labels)


def test_nll_loss_takes_out_in_place_grad_output_and_strides(rng):
    log_probs, labels, upstream = -rng.random((20, 7)), rng.integers(0, 7, 20), rng.normal(size=20)
    expected = naive.nll_loss_and_grad(log_probs, labels, reduction="none", grad_output=upstream)[1]
    for view in (log_probs.copy(), np.asfortranarray(log_probs), np.flip(np.flip(log_probs).copy())):
        plain = fastce.nll_loss_value_and_grad(view, labels, reduction="none", grad_output=upstream)
        np.testing.assert_allclose(plain.grad, expected, rtol=1e-15)
        np.testing.assert_array_equal(view, log_probs)
        ours = fastce.nll_loss_value_and_grad(view, labels, reduction="none", grad_output=upstream, out=view)
        assert ours.grad is view
        np.testing.assert_array_equal(view, plain.grad)
        np.testing.assert_array_equal(ours.value, plain.value)


# ------------------------------------------------------------------------------------------------ binary
def assert_binary(logits, targets, reduction, **options):
    """4 ulp for the value; 4 eps before scaling by w * (a*y + 1-y) and the mean for the gradient."""
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    bound = naive.allowed(4, dtype)
    expected, expected_grad = naive.binary_cross_entropy_with_logits_and_grad(
        logits, targets, reduction=reduction, **options
    )
    alone = fastce.binary_cross_entropy_with_logits(logits, targets, reduction=reduction, **options)
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        logits, targets, reduction=reduction, **options
    )
    assert_value(alone, expected, reduction, dtype, bound)
    assert_value(value, expected, reduction, dtype, bound)
    y, a = np.asarray(targets, float), np.asarray(options.get("pos_weight", 1), float)
    scale = np.asarray(options.get("weight", 1), float) * (a * y + 1 - y)
    scale = scale / (logits.size if reduction == "mean" else 1)
    last_rounding = np.spacing(np.abs(expected_grad).astype(logits.dtype)).astype(float) / 2
    assert grad.dtype == logits.dtype
    assert np.all(
        np.abs(grad.astype(expected_grad.dtype) - expected_grad) <= bound * np.finfo(dtype).eps * scale + last_rounding
    )


BINARY_OPTIONS = {
    "plain": lambda rng, shape: {},
    "weight": lambda rng, shape: {"weight": rng.random(shape)},
    "weight of the last axis": lambda rng, shape: {"weight": rng.random(shape[-1])},
    "weight of all": lambda rng, shape: {"weight": np.float64(2.5)},
    "pos_weight": lambda rng, shape: {"pos_weight": rng.random(shape[-1]) * 5},
    "pos_weight of each": lambda rng, shape: {"pos_weight": rng.random(shape) * 5},
    "both": lambda rng, shape: {"weight": rng.random((shape[0], *[1] * (len(shape) - 1))), "pos_weight": 3.0},
}


@covering(
    {
        "dtype": [np.float32, np.float64],
        "reduction": REDUCTIONS,
        "option": BINARY_OPTIONS,
        "shape": [(1,), (17,), (5, 9), (3, 4, 5), (1000,), (100, 130)],
    },
    quick=1,
)
def test_binary_cross_entropy_and_its_gradient_are_those_of_the_formula(rng, shape, option, reduction, dtype):
    logits = (rng.normal(size=shape) * 10).astype(dtype)
    options = BINARY_OPTIONS[option](rng, shape)
    hard = rng.integers(0, 2, shape)
    for targets in (rng.random(shape).astype(dtype), hard.astype(dtype), hard, hard.astype(bool)):
        assert_binary(logits, targets, reduction, **options)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_binary_cross_entropy_of_half_precision_is_computed_in_float32(rng, name):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    for reduction in REDUCTIONS:
        assert_binary(rng.normal(size=(9, 8)).astype(dtype), rng.random((9, 8)).astype(np.float32), reduction)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [10.0, 25.0, 80.0])
def test_confident_logits_keep_their_digits(rng, margin, dtype):
    y = rng.integers(0, 2, 50)
    logits = np.where(y, margin, -margin).astype(dtype) + rng.normal(size=50).astype(dtype)
    assert_binary(logits, y, "none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_at_infinite_huge_and_undefined_logits(dtype):
    logits = np.array([INF, INF, -INF, -INF, INF, -INF, 3e38, 3e38, -3e38, -3e38, 3e38, NAN, NAN, 1e-45, 0.0], dtype)
    targets = np.array([1.0, 0.0, 1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0])
    huge = float(dtype(3e38))
    expected = [0, INF, INF, 0, INF, INF, 0, huge, huge, 0, huge / 2, NAN, NAN, np.log(2), np.log(2)]
    gradient = [0, 1, -1, 0, 0.5, -0.5, 0, 1, -1, 0, 0.5, NAN, NAN, -0.5, 0.5]
    losses, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, reduction="none")
    np.testing.assert_allclose(losses, np.array(expected, dtype), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, gradient, rtol=0, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(fastce.binary_cross_entropy_with_logits(logits, targets, reduction="none"), losses)
    assert np.isnan(fastce.binary_cross_entropy_with_logits(logits, targets))
    assert fastce.binary_cross_entropy_with_logits(logits[:5], targets[:5]) == INF


def test_zero_weight_times_an_infinite_loss_is_zero():
    losses, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        np.array([INF, -INF, -INF]),
        [0.0, 1.0, 1.0],
        weight=[0.0, 0.0, 1.0],
        pos_weight=[1.0, 1.0, 0.0],
        reduction="none",
    )
    np.testing.assert_array_equal(losses, [0, 0, 0])
    np.testing.assert_array_equal(grad, [0, 0, 0])


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_binary_cross_entropy_of_nothing(shape):
    logits = np.empty(shape, np.float32)
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, logits)
    assert np.isnan(value)
    assert grad.shape == shape
    assert fastce.binary_cross_entropy_with_logits(logits, logits, reduction="sum") == 0.0
    assert fastce.binary_cross_entropy_with_logits(logits, logits, reduction="none").shape == shape


def test_binary_cross_entropy_of_any_layout_gives_the_bits_of_a_plain_copy(rng):
    plain, targets = rng.normal(size=(40, 33)).astype(np.float32), rng.random((40, 33)).astype(np.float32)
    changes = [
        np.asfortranarray,
        lambda a: np.flip(np.flip(a).copy()),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ]
    same = fastce.binary_cross_entropy_with_logits_value_and_grad(plain, targets, reduction="none")
    for change in changes:
        ours = fastce.binary_cross_entropy_with_logits_value_and_grad(change(plain), change(targets), reduction="none")
        np.testing.assert_array_equal(ours.value, same.value)
        np.testing.assert_array_equal(ours.grad, same.grad)


LINES = {
    "plain": np.copy,
    "gaps": lambda a: np.pad(a, [(0, 0), (0, 5)])[:, :-5],
    "every second row": lambda a: np.repeat(a, 2, 0)[::2],
    "every second": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "every second, backwards": lambda a: np.repeat(a[:, ::-1], 2, 1)[:, ::-2],
    "every third": lambda a: np.repeat(a, 3, 1)[:, ::3],
    "across": np.asfortranarray,
}


@covering(
    {
        "of_logits": LINES,
        "of_targets": LINES,
        "shape": [(700, 1), (900, 3), (1300, 10), (40, 1023), (3, 5000)],
        "dtype": [np.float16, np.float32, np.float64],
        "repeated": [None, 0, 1],
    },
    quick=1,
)
def test_binary_cross_entropy_of_lines_of_any_strides_has_the_bits_of_plain_copies(
    rng, of_logits, of_targets, shape, dtype, repeated
):
    shown = [1 if axis == repeated else n for axis, n in enumerate(shape)]
    plain, targets = (4.0 * rng.normal(size=shown)).astype(dtype), rng.random(shown).astype(np.float32)
    given = [np.broadcast_to(a, shape) for a in (plain, targets)]
    logits, labels = (
        LINES[way](a) if repeated is None else a for way, a in zip((of_logits, of_targets), given, strict=True)
    )
    same = fastce.binary_cross_entropy_with_logits_value_and_grad(*map(np.copy, given))
    ours = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, labels)
    assert ours.value == fastce.binary_cross_entropy_with_logits(logits, labels)
    if of_logits in ("across", "every second, backwards") or repeated is not None:  # sums are in the order of memory
        assert ours.value == pytest.approx(same.value, rel=1e-7)
    else:
        assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad)
    out = np.full((*shape, 2), 7.0, dtype)[..., 0]
    fastce.binary_cross_entropy_with_logits_value_and_grad(logits, labels, out=out)
    np.testing.assert_array_equal(out, same.grad)


@pytest.mark.parametrize(
    ("shape", "weight", "pos_weight"),
    [
        ((3001, 3), None, (3,)),  # merged rows, and some left over
        ((7, 3), None, (3,)),  # fewer rows than make one
        ((300_001, 2), (1, 2), (2,)),  # blocks
        ((300, 7), (300, 1), (7,)),  # the first repeats nothing
        ((300, 7), (300, 7), (1, 7)),
        ((9, 5, 40), (5, 1), (40,)),  # periods of two lengths
        ((40, 1500), (40, 1), (1500,)),  # rows that are not merged
        ((3, 40, 1500), (40, 1), (3, 1, 1)),
        ((2, 70_000), None, (70_000,)),
        ((5, 300, 300), None, (300, 300)),  # too long to be kept
        ((5000,), None, (5000,)),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_binary_weights_that_repeat_along_any_axes_are_those_of_the_formula(rng, reduction, shape, weight, pos_weight):
    logits, targets = (rng.normal(size=shape) * 5).astype(np.float32), rng.random(shape).astype(np.float32)
    given = {"weight": weight, "pos_weight": pos_weight}
    options = {name: rng.random(of, np.float32) + 0.5 for name, of in given.items() if of is not None}
    for order in "CF":
        assert_binary(np.asarray(logits, order=order), np.asarray(targets, order=order), reduction, **options)


@pytest.mark.parametrize("shape", [(4096,), (8192,), (70_001,), (3, 700, 50), (2, 3, 5000), (40, 1024)])
def test_binary_cross_entropy_of_many_elements_has_the_same_bits_wherever_its_result_lies(rng, shape):
    """Short rows are merged, long ones taken in blocks; sums must not depend on where a result starts."""
    logits, targets = rng.normal(size=shape).astype(np.float32), rng.random(shape).astype(np.float32)
    assert_binary(logits, targets, "mean")
    assert_binary(logits, targets, "none")
    value = fastce.binary_cross_entropy_with_logits(logits, targets)
    for offset in range(3):
        out = np.empty(logits.size + offset, np.float32)[offset:].reshape(shape)
        assert fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, out=out).value == value


def test_binary_losses_and_gradients_past_the_cache_are_those_of_a_part(rng):
    logits, targets = rng.normal(size=(1024, 3001)).astype(np.float32), rng.random((1024, 3001)).astype(np.float32)
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, reduction="none")
    part = fastce.binary_cross_entropy_with_logits_value_and_grad(logits[-2:], targets[-2:], reduction="none")
    np.testing.assert_array_equal(value[-2:], part.value)
    np.testing.assert_array_equal(grad[-2:], part.grad)


def test_only_an_infinite_loss_makes_the_sum_of_binary_losses_infinite():
    logits = np.full(64, 3e38, np.float32)
    total = fastce.binary_cross_entropy_with_logits(logits, np.zeros(64), reduction="sum")
    assert total == 64 * float(np.float32(3e38))


def test_the_binary_gradient_goes_into_out_and_may_replace_the_logits(rng):
    plain, targets = rng.normal(size=(40, 33)).astype(np.float32), rng.random((40, 33))
    same = fastce.binary_cross_entropy_with_logits_value_and_grad(plain, targets)
    outs = [
        np.empty((40, 33), np.float32),
        np.empty((40, 33), np.float32, order="F"),
        np.empty((80, 66), np.float32)[::2, ::-2],
    ]
    for out in outs:
        ours = fastce.binary_cross_entropy_with_logits_value_and_grad(plain, targets, out=out)
        assert ours.grad is out
        assert ours.value == same.value
        np.testing.assert_array_equal(out, same.grad)
    for work in (plain.copy(), np.asfortranarray(plain)):
        value = fastce.binary_cross_entropy_with_logits(work, targets)  # summed as the logits lie in memory
        ours = fastce.binary_cross_entropy_with_logits_value_and_grad(work, targets, out=work)
        assert ours.value == value == pytest.approx(same.value, rel=1e-7)
        np.testing.assert_array_equal(work, same.grad)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (2, 0, 5)])
def test_no_elements_take_a_grad_output_of_as_many(shape):
    none = np.empty(shape)
    losses, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        none, none, reduction="none", grad_output=none
    )
    assert losses.shape == grad.shape == shape


def test_grad_output_scales_the_binary_gradient(rng):
    logits, targets, upstream = rng.normal(size=(6, 5)), rng.random((6, 5)), rng.normal(size=(6, 5))
    for reduction, grad_output in [("none", upstream), ("none", 2.0), ("sum", -3.0), ("mean", 5.0)]:
        grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
            logits, targets, reduction=reduction, grad_output=grad_output
        ).grad
        expected = naive.binary_cross_entropy_with_logits_and_grad(
            logits, targets, reduction=reduction, grad_output=grad_output
        )[1]
        np.testing.assert_allclose(
            grad, expected, rtol=0, atol=naive.allowed(4, float) * np.finfo(float).eps * np.abs(grad_output).max()
        )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_binary_gradient_is_the_derivative_of_the_value(rng, reduction):
    logits, targets = rng.normal(size=(3, 4)) * 3, rng.random((3, 4))
    options = {"weight": rng.random(4), "pos_weight": rng.random((3, 1)) * 4, "reduction": reduction}
    grad = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, **options).grad
    numeric = naive.fourth_order_difference(
        lambda x: fastce.binary_cross_entropy_with_logits(x, targets, **options), logits
    )
    np.testing.assert_allclose(grad, numeric, rtol=0, atol=1e-10)


def test_binary_cross_entropy_is_the_cross_entropy_of_two_classes(rng):
    logits, y = rng.normal(size=50) * 8, rng.integers(0, 2, 50)
    two = np.stack([np.zeros(50), logits], axis=1)
    binary = fastce.binary_cross_entropy_with_logits(logits, y, reduction="none")
    np.testing.assert_allclose(binary, fastce.cross_entropy(two, y, reduction="none"), rtol=1e-14)


# --------------------------------------------------------------------------------- binary: views of other arrays
VIEWS = {
    "first column": np.s_[:, :1],
    "a column": np.s_[:, 3:4],
    "rows apart": np.s_[::2],
    "rows apart, one column": np.s_[::2, :1],
    "reversed": np.s_[::-1, ::-1],
    "rows reversed, one column": np.s_[::-1, 2:3],
    "every second column": np.s_[:, ::2],
    "one row": np.s_[2:3],
    "one element": np.s_[2:3, 2:3],
    "a vector of a column": np.s_[:, 1],
    "a vector, reversed": np.s_[::-3, 1],
}


def test_binary_of_rows_of_one_element_that_are_not_adjacent():
    big = np.arange(20, dtype=np.float32).reshape(5, 4)
    losses = fastce.binary_cross_entropy_with_logits(big[:, :1], np.zeros((5, 1), np.float32), reduction="none")
    exact = np.logaddexp(0, [[0.0], [4.0], [8.0], [12.0], [16.0]])
    np.testing.assert_allclose(losses, exact, rtol=4 * EPS32)


@covering(
    {"dtype": [np.float32, np.float64, np.float16], "view": VIEWS, "order": ["C", "F"], "weighted": [False, True]}
)
def test_binary_of_a_view_is_that_of_its_copy_and_touches_nothing_else(rng, view, order, weighted, dtype):
    def seen(values):
        whole = np.array(values, order=order)
        return whole, whole[VIEWS[view]]

    (_, x), (_, y) = seen(rng.normal(size=(7, 5)).astype(dtype)), seen(rng.random((7, 5)).astype(dtype))
    (_, weight), (_, upstream) = seen(rng.random((7, 5))), seen(rng.normal(size=(7, 5)))
    options = {"weight": weight, "pos_weight": weight[::-1]} if weighted else {}
    copies = {name: value.copy() for name, value in options.items()}
    room, out = seen(np.full((7, 5), 77, dtype))
    ours = fastce.binary_cross_entropy_with_logits_value_and_grad(
        x, y, reduction="none", grad_output=upstream, out=out, **options
    )
    of_copies = fastce.binary_cross_entropy_with_logits_value_and_grad(
        x.copy(), y.copy(), reduction="none", grad_output=upstream.copy(), **copies
    )
    np.testing.assert_array_equal(ours.value, of_copies.value, strict=True)
    np.testing.assert_array_equal(out, of_copies.grad, strict=True)
    out[...] = 77
    np.testing.assert_array_equal(room, 77)
    for reduction in REDUCTIONS:
        losses = fastce.binary_cross_entropy_with_logits(x, y, reduction=reduction, **options)
        expected = fastce.binary_cross_entropy_with_logits(x.copy(), y.copy(), reduction=reduction, **copies)
        # Sums are taken as memory lies.
        last_bits = 0 if reduction == "none" else 4 * np.finfo(np.float64 if dtype == np.float64 else np.float32).eps
        np.testing.assert_allclose(losses, expected, rtol=last_bits, atol=0)


@pytest.mark.parametrize("name", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(500,), (40, 3), (3, 1500)])
@pytest.mark.parametrize("pos_weight", [None, 1e4])
def test_targets_of_float64_beside_narrower_logits_keep_their_digits(rng, name, shape, pos_weight):
    """1 - target is all of a loss where the logit is large; in float32 1 - 1e-12 is 1, and 0.95 has lost digits."""
    x = (rng.normal(size=shape) * rng.choice([1.0, 10.0, 60.0], shape)).astype(name)
    y = rng.choice([0.0, 1.0, 0.05, 0.95, 0.999, 1 - 1e-12, 1e-12], shape)
    p = np.longdouble(1.0 if pos_weight is None else pos_weight)
    u, t = x.astype(np.longdouble), y.astype(np.longdouble)
    e = np.exp(-np.abs(u))
    losses = p * t * (np.maximum(-u, 0) + np.log1p(e)) + (1 - t) * (np.maximum(u, 0) + np.log1p(e))
    on, off = np.where(u > 0, 1, e) / (1 + e), np.where(u > 0, e, 1) / (1 + e)
    grad, size = (1 - t) * on - p * t * off, (1 - t) * on + p * t * off
    for layout in (np.asarray, np.asfortranarray, lambda a: np.repeat(a, 2, -1)[..., ::2]):
        with np.errstate(all="raise"):
            ours = fastce.binary_cross_entropy_with_logits_value_and_grad(
                layout(x), layout(y), pos_weight=pos_weight, reduction="none"
            )
            total = fastce.binary_cross_entropy_with_logits(
                layout(x), layout(y), pos_weight=pos_weight, reduction="sum"
            )
        assert naive.ulp_error(ours.value, losses).max() <= 4
        assert total == pytest.approx(float(losses.sum()), rel=1e-6)
        eps = np.finfo(name).eps if name == "float16" else EPS32
        assert np.all(np.abs(ours.grad - grad) <= 4 * eps * size + float(np.finfo(name).tiny) * float(p))


@covering({"name": ["float32", "bfloat16"], "in_place": [False, True], "reduction": ["none", "sum"]}, quick=1)
def test_a_small_weight_makes_a_large_binary_loss_finite(rng, reduction, in_place, name):
    """The weight of positives alone takes it beyond float32."""
    logits = (rng.choice([-3e38, 3e38, 1.0], (7, 5)) * rng.random((7, 5))).astype(dtype_of(name))
    targets, weight, pos_weight = rng.choice([0.0, 0.3, 1.0], (7, 5)), 0.01 * rng.normal(size=(7, 5)), np.full(5, 9.0)
    x = logits.astype(np.longdouble)
    losses = (1 - targets) * np.logaddexp(0, x) + pos_weight * targets * np.logaddexp(0, -x)
    given = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    value = fastce.binary_cross_entropy_with_logits(logits, targets, **given)
    out = logits if in_place else None
    twin = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, out=out, **given)
    np.testing.assert_array_equal(value, twin.value)
    exact = weight * losses if reduction == "none" else (weight * losses).sum()
    bound = 1e-6 * np.abs(weight * losses).astype(np.float64)
    assert (np.abs(np.asarray(value, np.float64) - exact) <= (bound if reduction == "none" else bound.sum())).all()
