"""Rows of millions of classes: the same promises, whether a row is cut for several threads or not."""

import checks
import naive
import numpy as np
import pytest
import scipy.sparse
import scipy.special
from checks import REDUCTIONS, assert_gradient, assert_losses, assert_within, same_bits
from covering import covering
from scripts import run_script
from test_accuracy import logsumexp_error
from test_process import INTERRUPT, posix

import fastce
from fastce.cpu import pieces

THREE, ONE = (3, 1_200_000), (1, 3_200_001)
PEAK = 1_100_003


def rows_with_a_late_peak(shape):
    x = np.random.default_rng(7).standard_normal(shape, np.float32) * 3
    x[0, PEAK] = 200
    return x


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((THREE, "hard"), marks=pytest.mark.slow),
        pytest.param((THREE, "probability"), marks=pytest.mark.slow),
        (ONE, "smoothing"),
        pytest.param((ONE, "probability"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def case(request):
    """Logits, targets, options, and what must come out."""
    shape, kind = request.param
    logits, targets = rows_with_a_late_peak(shape), np.array([PEAK, 0, 1_199_999][: shape[0]])
    if kind == "probability":
        rng = np.random.default_rng(8)
        targets = rng.random(shape, np.float32) / shape[1]
        targets[0] *= rng.random(shape[1]) < 0.01
    options = {"label_smoothing": 0.1} if kind == "smoothing" else {}
    return logits, targets, options, naive.CrossEntropy(logits, targets, **options)


@pytest.mark.slow
def test_losses_and_gradients(case):
    logits, targets, options, exact = case
    first = None
    for n_threads in (1, 2):
        call = {"reduction": "none", "n_threads": n_threads, **options}
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, **call)
        alone = fastce.cross_entropy(logits, targets, **call)
        if first is None:
            first = value, grad, alone
            for losses in (value, alone):
                assert_losses(losses, exact, logits.dtype, "none", options)
            assert_gradient(grad, exact, logits.dtype, "none", 1.0, options)
        for ours, theirs in zip((value, grad, alone), first, strict=True):
            assert same_bits(ours, theirs)


def test_the_gradient_may_replace_the_logits(case):
    logits, targets, options, exact = case
    work = logits.copy()
    fastce.cross_entropy_value_and_grad(work, targets, reduction="none", out=work, n_threads=2, **options)
    assert_gradient(work, exact, logits.dtype, "none", 1.0, options)


@pytest.mark.parametrize("shape", [THREE, ONE])
def test_a_special_value_affects_its_row_alone(shape):
    logits = rows_with_a_late_peak(shape)
    labels = np.zeros(len(logits), int)
    clean = fastce.cross_entropy(logits, labels, reduction="none")
    for value in (np.nan, np.inf):
        for at in (0, 700_001, logits.shape[1] - 1):
            work = logits.copy()
            work[0, at] = value
            for n_threads in (1, 2):
                losses = fastce.cross_entropy(work, labels, reduction="none", n_threads=n_threads)
                assert np.isnan(losses[0])
                assert same_bits(losses[1:], clean[1:])


def test_masked_classes_and_a_masked_target():
    work = rows_with_a_late_peak(THREE)
    work[:, :1_050_000] = -np.inf
    labels = np.array([PEAK, 1_150_000, 5])
    exact = naive.CrossEntropy(work, labels)
    for n_threads in (1, 2):
        value, grad = fastce.cross_entropy_value_and_grad(work, labels, reduction="none", n_threads=n_threads)
        assert_losses(value, exact, work.dtype, "none", {})
        assert_gradient(grad, exact, work.dtype, "none", 1.0, {})


@pytest.mark.parametrize(
    ("shape", "n_threads"), [(ONE, 2), *(pytest.param(THREE, n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_the_functions_of_scipy(shape, n_threads):
    logits = rows_with_a_late_peak(shape)
    wide = logits.astype(np.float64)
    sums = naive.row_logsumexp(wide)[:, None]
    eps = np.finfo(np.float32).eps
    assert logsumexp_error(fastce.logsumexp(logits, axis=1, n_threads=n_threads), sums[:, 0]) <= 1
    assert logsumexp_error(fastce.logsumexp(logits, n_threads=n_threads), scipy.special.logsumexp(wide)) <= 1
    expected = wide - sums
    bound = 1.5 * np.spacing(np.abs(expected).astype(np.float32)) + 2 * eps
    assert_within(fastce.log_softmax(logits, axis=1, n_threads=n_threads), expected, bound, "log_softmax at")
    distance = wide.max(axis=1, keepdims=True) - wide
    expected = np.exp(expected)
    bound = (4 + distance / 2) * eps * expected + np.finfo(np.float32).smallest_normal
    assert_within(fastce.softmax(logits, axis=1, n_threads=n_threads), expected, bound, "softmax at")


def test_long_rows_along_the_first_axis():
    logits, labels = rows_with_a_late_peak(THREE), np.array([PEAK, 0, 5])
    across = np.ascontiguousarray(logits.T)
    exact = naive.CrossEntropy(across, labels, axis=0)
    value, grad = fastce.cross_entropy_value_and_grad(across, labels, axis=0, reduction="none")
    assert_losses(value, exact, across.dtype, "none", {})
    assert_gradient(grad, exact, across.dtype, "none", 1.0, {})
    assert logsumexp_error(fastce.logsumexp(across, axis=0), naive.row_logsumexp(logits.astype(np.float64))) <= 1


# ----------------------------------------------------------------------------------------- small pieces
# Pieces of 2048 elements, so that rows of five are short work for the oracle. The last is ragged.
CLASSES = 9001
TARGETS = np.array([2047, 2048, 9000])  # either side of a cut, and the end
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing over others": {"label_smoothing": 0.1, "smoothing_over": "others"},
    "z_loss": {"z_loss": 1e-2},
    "scale": {"logit_scale": 0.7},
    "cap": {"softcap": 20.0, "logit_scale": 1.3},
    "weights": {"weight": np.random.default_rng(1).random(CLASSES), "sample_weight": np.array([2.0, 0.0, 0.5])},
    "all": {
        "weight": np.random.default_rng(1).random(CLASSES),
        "sample_weight": np.array([2.0, 0.3, 0.5]),
        "label_smoothing": 0.2,
        "z_loss": 1e-3,
        "softcap": 30.0,
        "logit_scale": 2.0,
    },
}


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 2048)


def targets_of_kind(kind, rng):
    if kind == "hard":
        return TARGETS
    if kind == "ignored":
        return np.where(np.arange(3) == 1, -100, TARGETS)
    probabilities = rng.random((3, CLASSES), np.float32)
    probabilities[0] = naive_softmax(40 * probabilities[0])  # most of the mass on one class
    probabilities[1:] /= probabilities[1:].sum(axis=1, keepdims=True)
    if kind == "probability":
        return probabilities
    probabilities *= rng.random(probabilities.shape) < 0.003
    probabilities[2] = 0
    probabilities[2, 5000] = 1
    return scipy.sparse.csr_array(probabilities.astype(np.float64))


def naive_softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def assert_right_and_the_same_bits(logits, targets, **options):
    first = checks.check(logits, targets, reductions=REDUCTIONS, n_threads=1, **options)
    for n_threads in (2, 5):
        call = {"reduction": REDUCTIONS[-1], "n_threads": n_threads, **options}
        for ours, theirs in zip(fastce.cross_entropy_value_and_grad(logits, targets, **call), first, strict=True):
            assert same_bits(np.asarray(ours), np.asarray(theirs))
    work = logits.copy()
    fastce.cross_entropy_value_and_grad(work, targets, reduction=REDUCTIONS[-1], out=work, n_threads=2, **options)
    assert same_bits(work, first.grad)


@covering({"kind": ["hard", "ignored", "probability", "sparse"], "name": OPTIONS}, quick=1)
def test_every_option_in_pieces(small_pieces, kind, name, rng):
    if name == "smoothing over others" and kind in ("probability", "sparse"):
        pytest.skip("class indices only")
    logits = 4 * rng.standard_normal((3, CLASSES), np.float32)
    logits[1, 4096] = 150  # outgrows the guess of its own piece and those of all others
    assert_right_and_the_same_bits(logits, targets_of_kind(kind, rng), **OPTIONS[name])


@covering({"dtype": checks.NAMES, "kind": ["hard", "probability"]}, quick=1)
def test_every_dtype_in_pieces(small_pieces, dtype, kind, rng):
    logits = (4 * rng.standard_normal((3, CLASSES))).astype(checks.dtype_of(dtype))
    assert_right_and_the_same_bits(logits, targets_of_kind(kind, rng))
    assert_right_and_the_same_bits(logits, targets_of_kind(kind, rng), **OPTIONS["all"])


@covering({"dtype": ["float32", "float64"], "kind": checks.ROWS}, quick=1)
def test_difficult_rows_in_pieces(small_pieces, dtype, kind, rng):
    logits = checks.narrowed(np.stack([checks.ROWS[kind](rng, CLASSES) for _ in range(3)]), np.dtype(dtype))
    wide = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=0.0, neginf=-1e300)
    for targets in (wide.argmax(axis=1), wide.argmin(axis=1), TARGETS):
        checks.check(logits, targets, n_threads=2)
    checks.check(logits, TARGETS, label_smoothing=0.1, n_threads=2)


@covering({"dtype": ["float32", "float64"], "base": [0.0, 3e5, -3e5, 1e7]}, quick=1)
def test_pieces_that_have_little_in_common(small_pieces, dtype, base, rng):
    # References are powers of two below 2**16 (2**40) in size, and maxima beyond, the pieces' own in either case.
    logits = (3 * rng.standard_normal((3, CLASSES))).astype(dtype)
    logits[0, :2048] += np.dtype(dtype).type(base)
    logits[0, 4096:6144] = -np.inf
    logits[1, 2048:] += np.dtype(dtype).type(base)
    logits[1, 7000] = base + 90
    logits[2] += np.dtype(dtype).type(base)
    for targets in (logits.argmax(axis=1), TARGETS, np.array([5000, 1, 2])):
        checks.check(logits, targets, n_threads=2)
    checks.check(logits[1:], TARGETS[1:], label_smoothing=0.1, n_threads=2)
    assert_softmax(logits)


@covering({"value": [np.nan, np.inf, -np.inf], "at": [0, 3000, CLASSES - 1]}, quick=1)
def test_special_values_in_one_piece(small_pieces, value, at, rng):
    logits = rng.standard_normal((3, CLASSES), np.float32)
    logits[1, at] = value
    logits[2, 2048:6144] = value
    for targets in (TARGETS, np.array([0, at, 2048])):
        checks.check(logits, targets, n_threads=2)
        checks.check(logits, targets, label_smoothing=0.1, z_loss=0.1, n_threads=2)
    assert_softmax(logits)


def test_rows_of_nothing_but_minus_infinity_in_pieces(small_pieces):
    logits = np.full((3, CLASSES), -np.inf, np.float32)
    logits[1, 5000] = 1
    logits[2, 100] = 1
    checks.check(logits, np.array([0, 5000, 9000]))
    assert_softmax(logits)


def test_a_confident_row_keeps_its_digits_in_pieces(small_pieces, rng):
    for dtype, peak in (("float32", 60.0), ("float64", 600.0)):
        logits = rng.standard_normal((3, CLASSES)).astype(dtype)
        logits[np.arange(3), TARGETS] = peak
        value = checks.check(logits, TARGETS).value
        assert (value > 0).all()


@pytest.mark.parametrize("layout", ["strided", "reversed", "byte-swapped", "Fortran"])
def test_layouts_that_are_copied_piece_by_piece(small_pieces, layout, rng):
    wide = rng.standard_normal((3, 2 * CLASSES), np.float32) * 3
    logits = {
        "strided": lambda: wide[:, ::2],
        "reversed": lambda: wide[:, :CLASSES][:, ::-1],
        "byte-swapped": lambda: wide[:, :CLASSES].astype(">f4"),
        "Fortran": lambda: np.asfortranarray(wide[:, :CLASSES]),
    }[layout]()
    checks.check(logits, TARGETS, label_smoothing=0.1, n_threads=2)
    checks.check(logits, targets_of_kind("sparse", rng), n_threads=2)
    checks.check(logits[:1], TARGETS[:1], n_threads=2)
    checks.check(np.ascontiguousarray(logits).ravel()[:CLASSES], np.int64(5), n_threads=2)
    out = np.empty((3, 2 * CLASSES), np.float32)[:, ::2]
    checks.check(logits, targets_of_kind("probability", rng), out=lambda: out, n_threads=2)
    assert_softmax(logits)


def test_integers_in_pieces(small_pieces, rng):
    logits = rng.integers(-20, 20, (3, CLASSES), np.int16)
    ours = fastce.cross_entropy_value_and_grad(logits, TARGETS, reduction="none")
    theirs = fastce.cross_entropy_value_and_grad(logits.astype(np.float64), TARGETS, reduction="none")
    assert same_bits(ours.value, theirs.value)
    assert same_bits(ours.grad, theirs.grad)


def assert_softmax(logits):
    """Softmax and log_softmax within their bounds, the same bits from any number of threads, in place too."""
    wide = logits.astype(np.longdouble)
    real = np.dtype(logits.dtype).newbyteorder("=")
    eps, tiny = np.finfo(real).eps, np.finfo(real).smallest_normal
    with np.errstate(invalid="ignore", over="ignore"):
        exact = -naive.negative_log_softmax(wide)
        has_infinity = (wide == np.inf).any(axis=1) & ~np.isnan(wide).any(axis=1)
        exact[has_infinity] = np.where(np.isposinf(wide[has_infinity]), np.nan, -np.inf)
        exact[exact < np.finfo(real).min] = -np.inf
        distance = np.nan_to_num(wide.max(axis=1, keepdims=True) - wide, nan=0.0, posinf=0.0, neginf=0.0)
        bound = 1.5 * checks.spacing(exact, real) + 2 * eps
        of_softmax = np.where(has_infinity[:, None], np.nan, np.exp(exact))
        bound_of_softmax = (4 + distance / 2) * eps * np.nan_to_num(of_softmax) + tiny
    for function, expected, allowed in (
        (fastce.log_softmax, exact, bound),
        (fastce.softmax, of_softmax, bound_of_softmax),
    ):
        first = function(logits, axis=1, n_threads=1)
        assert_within(first, expected, allowed, function.__name__)
        assert same_bits(function(logits, axis=1, n_threads=3), first)
        work = logits.astype(real)
        function(work, axis=1, out=work, n_threads=2)
        assert same_bits(work, first)


@covering({"dtype": ["float32", "float64"], "kind": checks.ROWS}, quick=1)
def test_softmax_of_difficult_rows_in_pieces(small_pieces, dtype, kind, rng):
    assert_softmax(checks.narrowed(np.stack([checks.ROWS[kind](rng, CLASSES) for _ in range(3)]), np.dtype(dtype)))


def test_softmax_over_several_axes_in_pieces(small_pieces, rng):
    logits = 3 * rng.standard_normal((2, 60, 5, 70), np.float32)
    for axis in ((1, 2, 3), (3, 1), (1,), None):
        for function, theirs in (
            (fastce.softmax, scipy.special.softmax),
            (fastce.log_softmax, scipy.special.log_softmax),
        ):
            ours = function(logits, axis=axis, n_threads=2)
            np.testing.assert_allclose(ours, theirs(logits.astype(np.float64), axis=axis), rtol=3e-6)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("call", ["cross_entropy(x, y", "cross_entropy_value_and_grad(x, y", "softmax(x, 1"])
def test_ctrl_c_is_heard_within_one_row(call, tmp_path):
    # The logits are one element at 2**28 places, or at 2**33 where nothing is written; the promise is 100 ms.
    run_script(
        INTERRUPT
        + f"""
whole, y = np.broadcast_to(np.float16(1), (1, 1 << {33 if call == "cross_entropy(x, y" else 28})), np.zeros(1, int)
x = whole[:, :1 << 22]
fastce.{call})
x = whole
for n_threads in (1, 2):
    for attempt in range(3):
        sent = interrupt_after(0.05)
        try:
            fastce.{call}, n_threads=n_threads)
        except KeyboardInterrupt:
            delay = (time.process_time() - sent[0]) / n_threads
        else:
            raise SystemExit("was not interrupted")
        if delay <= 0.1:
            break
    else:
        raise SystemExit(f"stopped after {{delay}} s of work with {{n_threads}} threads")
""",
        tmp_path,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_class_weights_may_leave_the_target_to_another_class_which_dominates(small_pieces, dtype):
    logits, weight = np.zeros((3, 9000), dtype), np.zeros(9000)
    logits[:, 5000], weight[5000] = 32.0, 1.0
    losses = fastce.cross_entropy(logits, [1, 3000, 8999], weight=weight, label_smoothing=0.5, reduction="none")
    np.testing.assert_allclose(losses, 0.5 / 9000 * np.log1p(8999 * np.exp(-32.0)), rtol=4 * np.finfo(dtype).eps)
