"""row_stats: every output against NumPy in a wider type, in every dtype and layout, at the special values."""

import ml_dtypes
import mpmath
import naive
import numpy as np
import pytest
from checks import allocated
from covering import covering

import fastce
from fastce.arguments.statistics import OUTPUTS

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
ZEROS = np.zeros((3, 4), np.float32)


def expected_statistics(logits, targets, axis=None, top_k=5):
    """The definitions, row by row, for rows of any content."""
    rows, shape = naive.as_rows(logits, axis)
    x, y = naive.widened(rows), np.asarray(targets).ravel()
    of_target = np.arange(len(x)), y
    minus_log_p = naive.negative_log_softmax(x)
    undefined = naive.is_undefined(x)
    broken = np.isnan(x).any(-1)
    entropy = naive.times(np.exp(-minus_log_p), minus_log_p).sum(-1)
    x_y, index = x[of_target][:, None], np.arange(x.shape[1])
    rank = ((x > x_y) | ((x == x_y) & (index < y[:, None]))).sum(-1)
    rank[broken] = -1
    flat = {
        "logsumexp": np.where(undefined, x.max(-1), naive.row_logsumexp(x)),
        "argmax": x.argmax(-1),
        "max": x.max(-1),
        "entropy": np.where(undefined, NAN, entropy),
        "target_log_prob": -minus_log_p[of_target] + 0.0,
        "target_rank": rank,
        "in_top_k": (rank >= 0) & (rank < top_k),
    }
    return {name: value.reshape(shape) for name, value in flat.items()}


def assert_statistics(actual, logits, targets, axis=None, top_k=5):
    """What the docstring promises: 1, 4 and 8 ulp, the rest exact; dtypes and shapes."""
    dtype = np.dtype(np.float64 if logits.dtype.kind in "iub" else np.result_type(np.float32, logits.dtype))
    expected = expected_statistics(logits, targets, axis, top_k)
    for name, value in actual.items():
        exact = expected[name]
        assert value.shape == exact.shape
        if name in ("argmax", "target_rank", "in_top_k", "max"):
            assert value.dtype == {"in_top_k": bool, "max": dtype}.get(name, np.int64)
            np.testing.assert_array_equal(value, exact.astype(value.dtype), err_msg=name)
            continue
        assert value.dtype == dtype
        error = naive.ulp_error(value, exact)
        if name == "logsumexp":
            with np.errstate(invalid="ignore"):
                near_zero = np.abs(value.astype(exact.dtype) - exact) <= 2 * np.finfo(dtype).eps
            error = np.where(near_zero, 0, error)
        assert np.all(error <= naive.allowed({"logsumexp": 1, "entropy": 8, "target_log_prob": 4}[name], dtype)), name


def check(logits, targets, **options):
    actual = fastce.row_stats(logits, targets, outputs=OUTPUTS, **options)
    assert list(actual) == list(OUTPUTS)
    assert_statistics(actual, logits, targets, **options)


def rows_of(kind, rng, rows, classes, scale):
    x, r = rng.normal(size=(rows, classes)) * scale, np.arange(rows)
    if kind == "confident":
        x[r, rng.integers(0, classes, rows)] += rng.uniform(0, 90, rows)
    elif kind == "two stand out":
        for _ in range(2):
            x[r, rng.integers(0, classes, rows)] += rng.uniform(0, 60, rows)
    elif kind == "common offset":
        x += 1e5
    elif kind == "beyond 2**20":
        x += 3e7
    elif kind == "masked":
        x[rng.random(x.shape) < 0.5] = -INF
        x[:, 0] = 0.0
    return x


# ---------------------------------------------------------------------------------- against the formulas
@covering(
    {
        "dtype": [np.float32, np.float64],
        "kind": ["normal", "confident", "two stand out", "common offset", "beyond 2**20", "masked"],
        "classes": [1, 2, 3, 17, 64, 257, 1000, 5000],
    },
    quick=1,
)
def test_all_outputs_are_those_of_the_formulas(rng, classes, kind, dtype):
    for scale in (0.0, 0.01, 1.0, 5.0, 50.0):
        logits = rows_of(kind, rng, 12, classes, scale).astype(dtype)
        targets = rng.integers(0, classes, 12)
        targets[:6] = logits[:6].argmax(1)
        check(logits, targets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtypes_that_are_computed_in_float32_or_as_they_are(rng, dtype):
    logits = (rng.normal(size=(9, 700)) * 4).astype(dtype)
    check(logits, rng.integers(0, 700, 9))


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool])
def test_integers_and_booleans_are_computed_in_float64(rng, dtype):
    logits = rng.integers(0, 100, (6, 40)).astype(dtype)
    check(logits, rng.integers(0, 40, 6))


@pytest.mark.parametrize("margin", [1.0, 20.0, 40.0, 80.0, 100.0, 700.0])
def test_tiny_entropies_and_log_probabilities_keep_their_digits(margin):
    with mpmath.workdps(400):
        p = 1 / (1 + 3 * mpmath.exp(-mpmath.mpf(margin)))
        others = p * mpmath.exp(-mpmath.mpf(margin))
        entropy, log_prob = -(p * mpmath.log(p) + 3 * others * mpmath.log(others)), mpmath.log(p)
    for dtype in (np.float32, np.float64):
        logits = np.array([[0.0, margin, 0.0, 0.0]], dtype)
        stats = fastce.row_stats(logits, [1], outputs=("entropy", "target_log_prob"))
        assert naive.ulp_error(stats["entropy"][0], entropy) <= 8
        assert naive.ulp_error(stats["target_log_prob"][0], log_prob) <= 4


def test_the_log_probability_is_minus_the_cross_entropy(rng):
    logits = rows_of("two stand out", rng, 50, 3000, 3.0).astype(np.float32)
    targets = rng.integers(0, 3000, 50)
    targets[::2] = logits[::2].argmax(1)
    log_prob = fastce.row_stats(logits, targets, outputs="target_log_prob")["target_log_prob"]
    losses = fastce.cross_entropy(logits, targets, reduction="none")
    np.testing.assert_array_max_ulp(log_prob, -losses, 4)


# ------------------------------------------------------------------------------------- argmax, rank, top k
@pytest.mark.parametrize("classes", [1, 15, 16, 255, 256, 257, 2048, 2049, 4096, 10_000])
def test_the_largest_is_found_wherever_it_is_and_the_first_of_several(rng, classes):
    places = {0, 1, 14, 15, 16, 17, 255, 256, 2047, 2048, 2063, 4095, classes // 2, classes - 2, classes - 1}
    places = sorted(c for c in places if 0 <= c < classes)
    logits = np.tile(rng.normal(size=classes), (len(places), 1)).astype(np.float32)
    for row, place in zip(logits, places, strict=True):
        row[place] = 9.0
        row[place:][rng.random(classes - place) < 0.05] = 9.0
    for outputs in ("argmax", ("argmax", "entropy"), ("logsumexp", "argmax")):
        np.testing.assert_array_equal(fastce.row_stats(logits, outputs=outputs)["argmax"], places)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(300, 1), (1003, 10), (70_000, 16), (77, 256), (3, 21, 2000), (5, 300, 40)])
@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray, lambda x: x[::-1]])
def test_argmax_and_max_are_exact_without_further_outputs(rng, make, shape, dtype):
    """Ties, infinities and NaNs among them, in rows of their own and beside ordinary ones."""
    logits = np.round(rng.normal(size=shape) * 2).astype(dtype)
    logits[rng.random(shape) < 0.01] = -INF
    logits[rng.random(shape) < 0.001] = INF
    logits[rng.random(shape) < 0.001] = NAN
    logits[0] = -INF
    logits = make(logits)
    targets = np.zeros(np.delete(logits.shape, 1), int)
    for outputs in (("argmax",), ("max",), ("argmax", "max"), ("logsumexp", "argmax")):
        stats = fastce.row_stats(logits, outputs=outputs)
        assert tuple(stats) == outputs
        assert_statistics(stats, logits, targets, axis=1)


def test_ranks_count_equal_logits_of_smaller_index(rng):
    logits = rng.integers(0, 4, (60, 5000)).astype(np.float32)
    targets = rng.integers(0, 5000, 60)
    check(logits, targets, top_k=1000)
    ties = fastce.row_stats(np.zeros((5, 5)), np.arange(5), outputs=("target_rank", "in_top_k"), top_k=2)
    np.testing.assert_array_equal(ties["target_rank"], np.arange(5))
    np.testing.assert_array_equal(ties["in_top_k"], [True, True, False, False, False])


@pytest.mark.parametrize("top_k", [1, 3, 4, 100])
def test_the_target_is_in_the_top_one_exactly_if_it_is_the_argmax(rng, top_k):
    logits = rng.integers(0, 3, (200, 4)).astype(np.float32)
    targets = rng.integers(0, 4, 200)
    stats = fastce.row_stats(logits, targets, outputs=("in_top_k", "argmax", "target_rank"), top_k=top_k)
    np.testing.assert_array_equal(stats["in_top_k"], stats["target_rank"] < top_k)
    if top_k == 1:
        np.testing.assert_array_equal(stats["in_top_k"], stats["argmax"] == targets)


# ------------------------------------------------------------------------------------------ special values
@covering({"dtype": DTYPES, "length": [4, 300, 5000]}, quick=1)
def test_special_values_concern_their_row_alone(rng, length, dtype):
    specials = [
        {0: NAN},
        {-1: NAN},
        {length // 2: NAN, 1: INF},
        {2: INF, -1: INF, 1: INF},
        {2: INF, -1: NAN},
        {-1: -INF},
        {1: -INF},
        {c: -INF for c in range(length)},
        {c: -INF for c in range(length - 1)},
        {c: NAN for c in range(length)},
        {c: INF for c in range(length)},
        {0: 3e38, 1: -3e38},
        {-2: 3e38},
        {-1: 200.0},
    ]
    logits = (rng.normal(size=(2 * len(specials), length)) * 3).astype(dtype)
    with np.errstate(over="ignore"):
        for row, special in zip(logits[::2], specials, strict=True):
            for c, value in special.items():
                row[c] = np.float64(value).astype(dtype)
    targets = np.full(len(logits), 1)
    check(logits, targets)
    for name in OUTPUTS:  # every output alone
        assert_statistics(fastce.row_stats(logits, targets, outputs=name), logits, targets)


def test_rows_without_probabilities_have_the_documented_values():
    logits = np.array([[0.0, NAN, 1.0], [INF, 0.0, 1.0], [-INF] * 3])
    stats = fastce.row_stats(logits, [0, 0, 1], outputs=OUTPUTS, top_k=3)
    np.testing.assert_array_equal(stats["logsumexp"], [NAN, INF, -INF])
    np.testing.assert_array_equal(stats["max"], [NAN, INF, -INF])
    np.testing.assert_array_equal(stats["argmax"], [1, 0, 0])
    np.testing.assert_array_equal(stats["entropy"], [NAN] * 3)
    np.testing.assert_array_equal(stats["target_log_prob"], [NAN] * 3)
    np.testing.assert_array_equal(stats["target_rank"], [-1, 0, 1])
    np.testing.assert_array_equal(stats["in_top_k"], [False, True, True])


def test_a_target_that_is_masked_has_probability_zero():
    stats = fastce.row_stats(np.array([[0.0, -INF]]), [1], outputs=("target_log_prob", "entropy"))
    assert stats["target_log_prob"][0] == -INF
    assert stats["entropy"][0] == 0.0


def test_no_rows_and_one_row_of_one_dimension():
    for name, value in fastce.row_stats(np.empty((0, 3), np.float32), np.empty(0, int), outputs=OUTPUTS).items():
        assert value.shape == (0,), name
    stats = fastce.row_stats([0.0, 0.0], 1, outputs=("logsumexp", "argmax", "target_rank"))
    assert {name: value.shape for name, value in stats.items()} == dict.fromkeys(stats, ())
    assert stats["logsumexp"] == np.log(2)
    assert (stats["argmax"], stats["target_rank"]) == (0, 1)


def test_one_class_is_certain():
    stats = fastce.row_stats(np.array([[3.0], [-5.0]], np.float32), [0, 0], outputs=OUTPUTS)
    np.testing.assert_array_equal(stats["logsumexp"], [3, -5])
    for name in ("entropy", "target_log_prob"):
        np.testing.assert_array_equal(stats[name], [0, 0])
        assert not np.signbit(stats[name]).any()


# ------------------------------------------------------------------------------------------- ignored rows
def check_ignored(logits, targets, ignored, **options):
    """Ignored rows have no target; everything else is as if they had one."""
    unknown = {"target_log_prob": NAN, "target_rank": -1, "in_top_k": False}
    for outputs in (OUTPUTS, *((name,) for name in unknown)):
        actual = fastce.row_stats(logits, targets, outputs=outputs, **options)
        expected = fastce.row_stats(logits, np.where(ignored, 0, targets), outputs=outputs, ignore_index=-7)
        for name, value in expected.items():
            value[ignored] = unknown.get(name, value[ignored])
            assert actual[name].dtype == value.dtype
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", [*DTYPES, np.int16])
@pytest.mark.parametrize("shape", [(30, 5), (30, 700), (4, 9, 3, 5), (1, 4)])
@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("kind", ["default", "in range", "all"])
def test_ignored_rows_have_no_target(rng, dtype, shape, make, kind):
    logits = make((rng.normal(size=shape) * 4).astype(dtype))
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    if kind == "in range":
        check_ignored(logits, targets, targets == 3, ignore_index=3)
        return
    ignored = np.ones(targets.shape, bool) if kind == "all" else rng.random(targets.shape) < 0.4
    targets[ignored] = -100
    check_ignored(logits, targets, ignored)


def test_ignored_rows_of_any_integer_dtype_and_of_one_dimension():
    for dtype in (np.int8, np.int32, ">i4"):
        check_ignored(ZEROS, np.array([0, -100, 3], dtype), np.array([False, True, False]))
    check_ignored(ZEROS, np.array([0, 255, 3], np.uint8), np.array([False, True, False]), ignore_index=255)
    with pytest.raises(IndexError, match=f"class index {2**64 - 100},"):
        fastce.row_stats(ZEROS, np.array([0, 0, 2**64 - 100], np.uint64))
    stats = fastce.row_stats([0.0, 0.0], -100, outputs=OUTPUTS)
    assert np.isnan(stats["target_log_prob"])
    assert (stats["target_rank"], stats["in_top_k"]) == (-1, False)


# ------------------------------------------------------------------------------------------------ layouts
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7,), None), ((7,), -1), ((5, 7), None), ((7, 5), 0), ((2, 7, 3), None), ((2, 3, 7), -1), ((7, 2, 3), 0)],
)
def test_any_axis_may_be_the_class_axis(rng, shape, axis):
    logits = rng.normal(size=shape)
    lead = naive.as_rows(logits, axis)[1]
    check(logits, rng.integers(0, 7, lead), axis=axis)


def layouts(matrix):
    misaligned = np.frombuffer(b"\0" + matrix.tobytes(), np.uint8)[1:].view(matrix.dtype)
    return {
        "Fortran": np.asfortranarray(matrix),
        "every second": np.repeat(np.repeat(matrix, 2, 0), 2, 1)[::2, ::2],
        "backwards": matrix[::-1, ::-1].copy()[::-1, ::-1],
        "byte-swapped": matrix.astype(matrix.dtype.newbyteorder()),
        "misaligned": misaligned.reshape(matrix.shape),
    }


@pytest.mark.parametrize("layout", ["Fortran", "every second", "backwards", "byte-swapped", "misaligned"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_layout_gives_the_bits_of_a_plain_copy(rng, layout, dtype):
    plain = rng.normal(size=(20, 300)).astype(dtype)
    targets = rng.integers(0, 300, 20)
    other = layouts(plain)[layout]
    other.flags.writeable = False
    for name, value in fastce.row_stats(other, targets, outputs=OUTPUTS).items():
        np.testing.assert_array_equal(value, fastce.row_stats(plain, targets, outputs=OUTPUTS)[name])


def test_the_number_of_threads_changes_no_bit(rng):
    logits = (rng.normal(size=(1500, 700)) * 3).astype(np.float32)
    targets = rng.integers(0, 700, 1500)
    one = fastce.row_stats(logits, targets, outputs=OUTPUTS, n_threads=1)
    for n_threads in (2, 3, 8):
        for name, value in fastce.row_stats(logits, targets, outputs=OUTPUTS, n_threads=n_threads).items():
            np.testing.assert_array_equal(value, one[name])
    for name in ("argmax", "max", "target_rank", "in_top_k"):  # nor does what else is asked for
        np.testing.assert_array_equal(fastce.row_stats(logits, targets, outputs=[name])[name], one[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(300, 7), (40, 300), (2, 300, 5, 9)])
@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray, lambda x: np.asfortranarray(x[::2])[::-1]])
def test_logsumexp_alone_is_as_exact_as_promised(rng, shape, dtype, make):
    logits = make(rng.normal(size=shape).astype(dtype))
    stats = fastce.row_stats(logits, n_threads=2)
    assert_statistics(stats, logits, np.zeros((logits.shape[0], *shape[2:]), int))
    if dtype == np.float32:
        np.testing.assert_array_equal(stats["logsumexp"], fastce.logsumexp(logits, axis=1))


@pytest.mark.parametrize("classes", [16, 17, 200, 257, 1000, 5003])
@pytest.mark.parametrize("beside", ["argmax", "entropy", "target_rank", "target_log_prob"])
def test_logsumexp_of_equal_logits_is_as_exact_beside_other_outputs(rng, beside, classes):
    """Roundings of equal terms do not average out: nor do those of nearly equal ones, or of a few sizes."""
    equal = np.repeat(rng.uniform(-np.log(classes) - 5, 5, (600, 1)), classes, 1)
    equal[200:400] += np.linspace(0, 1e-6, classes)
    equal[400:, ::2] -= 3.0
    logits, targets = equal.astype(np.float32), rng.integers(0, classes, 600)
    assert_statistics(fastce.row_stats(logits, targets, outputs=("logsumexp", beside)), logits, targets)


def test_the_results_come_in_the_order_asked_for_and_logsumexp_is_the_default():
    assert list(fastce.row_stats(np.zeros((2, 2)))) == ["logsumexp"]
    assert list(fastce.row_stats(np.zeros((2, 2)), outputs=iter(("max", "argmax")))) == ["max", "argmax"]


def test_a_call_allocates_rows_not_rows_times_classes(rng):
    logits = rng.normal(size=(400, 20_000)).astype(np.float32)
    targets = rng.integers(0, 20_000, 400)
    fastce.row_stats(logits[:2], targets[:2], outputs=OUTPUTS)
    peak = allocated(lambda: fastce.row_stats(logits, targets, outputs=OUTPUTS))
    assert peak < 400 * 8 * 12 + 100_000


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (
            ValueError,
            "'target_rank', 'in_top_k' need targets",
            (ZEROS,),
            {"outputs": ("max", "target_rank", "in_top_k")},
        ),
        (ValueError, "each of outputs must be one of 'logsumexp', .*, got 'mean'", (ZEROS,), {"outputs": ["mean"]}),
        (ValueError, "outputs must name at least one", (ZEROS,), {"outputs": ()}),
        (ValueError, "top_k must be at least 1, got 0", (ZEROS,), {"top_k": 0}),
        (TypeError, "top_k must be an integer, got 2.0", (ZEROS,), {"top_k": 2.0}),
        (ValueError, r"targets of class indices have shape \(2,\), expected \(3,\)", (ZEROS, [0, 1]), {}),
        (IndexError, "row 1 hold class index 4, accepted are 0 to 3", (ZEROS, [0, 4, 5]), {}),
        (IndexError, "row 2 hold class index -1,", (ZEROS, [0, 0, -1]), {}),
        (IndexError, "row 2 hold class index -1,", (ZEROS, [-100, 0, -1]), {"outputs": "target_rank"}),
        (IndexError, "row 0 hold class index -100,", (ZEROS, [-100, 0, -1]), {"ignore_index": -1}),
        (TypeError, "ignore_index must be an integer, got 1.5", (ZEROS,), {"ignore_index": 1.5}),
        (IndexError, f"class index {2**64 - 1},", (ZEROS, np.array([0, 0, 2**64 - 1], np.uint64)), {}),
        (TypeError, "must be class indices .integers., got dtype float64", (ZEROS, [0.0, 1.0, 2.0]), {}),
        (TypeError, "must be class indices .integers., got dtype bool", (ZEROS, [True, False, True]), {}),
        (ValueError, "has no classes", (np.zeros((3, 0)),), {}),
        (TypeError, "logits must hold real numbers", (ZEROS.astype(complex),), {}),
        (TypeError, "masked array", (np.ma.masked_array(ZEROS),), {}),
        (np.exceptions.AxisError, "axis 2 is out of bounds", (ZEROS,), {"axis": 2}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(error, message, arguments, options):
    with pytest.raises(error, match=message):
        fastce.row_stats(*arguments, **options)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4"])
def test_class_indices_of_any_integer_dtype(dtype):
    stats = fastce.row_stats(ZEROS, np.array([0, 1, 3]).astype(dtype), outputs="target_rank")
    np.testing.assert_array_equal(stats["target_rank"], [0, 1, 3])
