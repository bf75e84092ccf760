"""Few classes: many rows are treated at a time, one per SIMD lane, and each must come out as if it was alone.

The logits are (rows, classes) here; test_axes.py has the same for every other place of the class axis.
"""

import naive
import numpy as np
import pytest
import scipy.sparse
from checks import (
    NAMES,
    REDUCTIONS,
    ROWS,
    assert_as_scipy,
    assert_within,
    check,
    dtype_of,
    mixture,
    narrowed,
    one_hot,
    same_bits,
)
from covering import covering
from test_accuracy import logsumexp_error

import fastce

CLASSES = [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 100, 255, 256, 257]
ROW_COUNTS = [1, 2, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000]
SIZES = [(ROW_COUNTS[(5 * i + 3 * j) % 12], classes) for i, classes in enumerate(CLASSES) for j in range(4)]
SOME = [1, 2, 3, 10, 16, 17, 33, 100, 256, 257]


def targets_of(kind, rng, labels, classes):
    """The labels, the same one-hot, or probabilities that need not sum to 1 with zeros and empty rows among them."""
    if kind == "hard":
        return labels
    if kind == "one-hot":
        return one_hot(labels, classes)
    t = rng.random((len(labels), classes)) * (rng.random((len(labels), classes)) < 0.6) * 4 / classes
    t[rng.random(len(t)) < 0.1] = 0
    return t if kind == "probability" else scipy.sparse.csr_array(t)


# ------------------------------------------------------------------------------------------------ sizes
@covering({"name": NAMES, "rows, classes": SIZES}, strength=1)
def test_every_number_of_classes_with_full_and_partial_groups_of_rows(rng, rows, classes, name):
    logits = (rng.normal(size=(rows, classes)) * 4).astype(dtype_of(name))
    labels = rng.integers(0, classes, rows)
    labels[: min(3, rows)] = [0, classes - 1, classes // 2][: min(3, rows)]
    check(logits, labels)
    check(logits, targets_of("probability", rng, labels, classes), label_smoothing=0.1)


@covering({"name": NAMES, "classes": CLASSES}, quick=1)
def test_nothing_beside_the_rows_is_read_into_them_or_written(rng, classes, name):
    dtype = dtype_of(name)
    for rows in (1, 15, 16, 17, 130):
        logits, labels = rng.normal(size=(rows, classes)).astype(dtype), rng.integers(0, classes, rows)
        t = rng.random((rows, classes)).astype(np.float32)
        expected = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
        soft = fastce.cross_entropy_value_and_grad(logits, t, reduction="none")
        memory, out, t_memory = (np.full(rows * classes + 64, np.nan, d) for d in (dtype, dtype, np.float32))
        inside = np.s_[32 : 32 + rows * classes]
        for array, values in ((memory, logits), (t_memory, t)):
            array[inside] = values.ravel()
        views = [array[inside].reshape(rows, classes) for array in (memory, out, t_memory)]
        for targets, same in ((labels, expected), (views[2], soft)):
            ours = fastce.cross_entropy_value_and_grad(views[0], targets, reduction="none", out=views[1])
            assert same_bits(ours.value, same.value)
            assert same_bits(ours.grad, same.grad)
            assert np.isnan(out[:32]).all()
            assert np.isnan(out[-32:]).all()


# --------------------------------------------------------------------------------------- difficult rows
@covering({"name": NAMES, "kind": ["hard", "one-hot", "probability", "sparse"], "classes": SOME}, quick=1)
def test_difficult_rows_among_ordinary_ones(rng, classes, kind, name):
    few, labels = mixture(rng, 163, classes, dtype_of(name), share=0.03)
    many, more_labels = mixture(rng, 110, classes, dtype_of(name), share=0.6)
    logits, labels = np.concatenate([few, many]), np.concatenate([labels, more_labels])
    targets = targets_of(kind, rng, labels, classes)
    check(logits, targets)
    check(logits, targets, label_smoothing=0.1, smoothing_over=["all", "others"][classes % 2])


@covering({"name": ["float32", "float64", "float16"], "row_kind": ROWS}, quick=1)
def test_rows_that_are_all_of_one_kind(rng, row_kind, name):
    dtype = dtype_of(name)
    for rows, classes in [(40, 2), (150, 10), (33, 17), (20, 100)]:
        logits = narrowed(np.stack([ROWS[row_kind](rng, classes) for _ in range(rows)]), dtype)
        labels = rng.integers(0, classes, rows)
        check(logits, labels, reductions=("none", "mean"))
        check(logits, targets_of("probability", rng, labels, classes))


@covering({"name": ["float32", "float64"], "kind": ["hard", "one-hot", "sparse"], "margin": [5, 25, 90, 200]}, quick=1)
def test_confident_rows_next_to_unsure_ones_keep_their_digits(rng, margin, kind, name):
    for rows, classes in [(140, 2), (140, 3), (300, 10), (33, 17), (70, 100), (20, 256)]:
        logits, labels = rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)
        confident = rng.random(rows) < 0.7
        logits[confident, labels[confident]] += margin
        targets = one_hot(labels, classes)
        targets = {"hard": labels, "one-hot": targets, "sparse": scipy.sparse.csr_array(targets)}[kind]
        check(logits.astype(name), targets)
        check(logits.astype(name), targets, label_smoothing=0.1)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["hard", "one-hot", "probability"])
def test_every_row_has_its_own_offset(rng, kind, name):
    for rows, classes in [(300, 3), (300, 10), (130, 33), (70, 256)]:
        logits = rng.normal(size=(rows, classes)) * 3
        labels = rng.integers(0, classes, rows)
        targets = targets_of(kind, rng, labels, classes)
        for offsets in (1e6, rng.choice([0, 90, -90, 1e3, -1e5, 1e6, -1e6, 3e7], rows), rng.normal(0, 200, rows)):
            check((logits + np.reshape(offsets, (-1, 1))).astype(name), targets)


@covering({"jump": [150, 1000, 1e30], "classes": [2, 17, 33, 100, 257]}, quick=1)
def test_the_maximum_may_be_far_above_the_first_classes(rng, classes, jump):
    for position in sorted({0, 1, 15, 16, 17, 63, 64, 65, classes // 2, classes - 1} & set(range(classes))):
        logits = rng.normal(size=(140, classes)).astype(np.float32)
        jumps = rng.random(140) < [0.02, 0.5, 1.0][position % 3]
        jumps[position % 140] = True
        logits[jumps, position] += np.float32(jump)
        check(logits, np.where(rng.random(140) < 0.5, position, rng.integers(0, classes, 140)))
        check(logits, one_hot(np.arange(140) % classes, classes))


@covering({"name": NAMES, "classes": [2, 10, 17, 33, 100]}, quick=1)
def test_masked_classes(rng, classes, name):
    labels, column = np.arange(150) % classes, np.arange(classes)
    masks = {
        "the first of them": column < (np.arange(150) % (classes + 1))[:, None],
        "all but one": column != ((np.arange(150) * 7) % classes)[:, None],
        "the target": column == labels[:, None],
        "all but the target": column != labels[:, None],
        "one column": np.broadcast_to(column == classes // 2, (150, classes)),
        "the first columns": np.broadcast_to(column < classes // 2 + 1, (150, classes)),
        "half": rng.random((150, classes)) < 0.5,
    }
    for mask in masks.values():
        logits = np.where(mask, -np.inf, rng.normal(size=(150, classes)) * 3).astype(dtype_of(name))
        check(logits, labels, weight=column % 2)
        check(logits, labels, label_smoothing=0.2)
        check(logits, np.where(mask, 0, rng.random((150, classes))))


def far_below_one(classes, top, dtype):
    """One class, and all others half an ulp below what a sum that holds it can take up; in every order."""
    below = np.log(0.49 * np.finfo(dtype).eps)
    logits = np.full((classes, classes), top + below)
    logits[np.arange(classes), np.arange(classes)] = top
    return logits.astype(dtype)


@pytest.mark.parametrize("classes", [2, 3, 9, 10, 16, 17, 33, 100, 255])
def test_logsumexp_counts_many_classes_that_are_each_too_small_to_change_the_sum(classes):
    for top in (0.0, 0.7, 1.0, 2.0, -3.0):
        assert_logsumexp(far_below_one(classes, top, np.float32))


@pytest.mark.parametrize(("classes", "top"), [(256, 1.0), (256, 0.7), (257, 1.0), (1000, 1.0)])
def test_logsumexp_counts_more_classes_that_are_each_too_small_to_change_the_sum(classes, top):
    assert_logsumexp(far_below_one(classes, top, np.float32))


def assert_logsumexp(logits):
    """Within 1 ulp along either axis."""
    exact = naive.row_logsumexp(logits.astype(np.float64))
    for axis, array in ((1, logits), (0, np.ascontiguousarray(logits.T))):
        assert logsumexp_error(fastce.logsumexp(array, axis=axis), exact) <= 1, f"axis {axis}"


@pytest.mark.parametrize("kind", ["hard", "one-hot"])
def test_losses_count_more_classes_that_are_each_too_small_to_change_the_sum(kind):
    logits = np.full((1, 1024), -200, np.float32)
    logits[0, 16:256:16], logits[0, [0, 1000]] = -16.7, 0.0
    check(logits, [1000] if kind == "hard" else one_hot([1000], 1024))


@covering({"name": ["float32", "float64"], "classes": [2, 3, 9, 10, 16, 17, 33, 60]}, quick=1)
def test_losses_count_many_classes_that_are_each_too_small_to_change_the_sum(rng, classes, name):
    for top in (0.0, 0.7, 1.0):
        logits = far_below_one(classes, top, np.dtype(name))
        for labels in (np.arange(classes), (np.arange(classes) + 1) % classes, rng.integers(0, classes, classes)):
            check(logits, labels)
            check(logits, one_hot(labels, classes))


# ------------------------------------------------------------------------------- one row must not touch others
@covering(
    {
        "name": ["float32", "float64", "float16"],
        "kind": ["hard", "probability"],
        "value": [np.nan, np.inf, -np.inf, 3e4],
        "rows, classes": [(35, 2), (35, 10), (19, 17)],
    },
    quick=1,
)
def test_a_special_value_in_any_lane_and_class_changes_no_bit_of_another_row(rng, rows, classes, value, kind, name):
    logits = rng.normal(size=(rows, classes)).astype(dtype_of(name))
    labels = rng.integers(0, classes, rows)
    targets = targets_of(kind, rng, labels, classes)
    clean = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
    work = logits.copy()
    for row in range(rows):
        others = np.arange(rows) != row
        for c in range(classes):
            work[row, c] = value
            ours = fastce.cross_entropy_value_and_grad(work, targets, reduction="none")
            assert same_bits(ours.value[others], clean.value[others]), f"row {row}, class {c}"
            assert same_bits(ours.grad[others], clean.grad[others]), f"row {row}, class {c}"
            if np.isnan(value) or value == np.inf:
                assert np.isnan(ours.value[row])
                assert np.isnan(ours.grad[row]).all()
            work[row, c] = logits[row, c]


@pytest.mark.parametrize("classes", [3, 10, 33])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_one_row_of_thousands_changes_no_bit_of_another(rng, value, classes):
    rows = 4099
    logits, labels = rng.normal(size=(rows, classes)).astype(np.float32), rng.integers(0, classes, rows)
    t = rng.random((rows, classes), np.float32)
    for targets in (labels, t):
        clean = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", label_smoothing=0.1)
        for row in [0, 15, 16, 127, 128, 255, 2049, 4096, 4098]:
            work, others = logits.copy(), np.arange(rows) != row
            work[row, row % classes] = value
            ours = fastce.cross_entropy_value_and_grad(work, targets, reduction="none", label_smoothing=0.1)
            assert np.isnan(ours.value[row])
            assert np.isnan(ours.grad[row]).all()
            assert same_bits(ours.value[others], clean.value[others])
            assert same_bits(ours.grad[others], clean.grad[others])
            assert np.isnan(fastce.cross_entropy(work, targets))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [2, 10, 33, 100])
def test_a_row_far_from_the_others_changes_no_bit_of_them(rng, classes, order):
    """One reference serves all rows of a tile as long as it is near all of them."""
    logits, labels = rng.normal(size=(140, classes)).astype(np.float32), rng.integers(0, classes, 140)
    above = rng.normal(size=140)
    near = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", grad_output=above)
    for offset in (-1000, -18, -17, 23, 24, 1000):
        row, work = int(rng.integers(0, 140)), np.array(logits, order=order)
        work[row] = np.float32(offset)
        ours = fastce.cross_entropy_value_and_grad(work, labels, reduction="none", grad_output=above)
        np.testing.assert_allclose(ours.value[row], np.log(classes), rtol=3e-7)
        p = 1 / classes - (np.arange(classes) == labels[row])
        np.testing.assert_allclose(ours.grad[row], above[row] * p, rtol=3e-7)
        others = np.arange(140) != row
        assert same_bits(ours.value[others], near.value[others])
        assert same_bits(ours.grad[others], near.grad[others])


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 33, 100, 200])
def test_rows_of_other_sizes_before_a_row_change_no_bit_of_it(rng, classes):
    logits = rng.normal(size=(3000, classes)) * np.exp(rng.uniform(-3, 7, (3000, 1)))
    logits[1500:] += rng.normal(0, 500, (1500, 1))
    labels = rng.integers(0, classes, 3000)
    for dtype in (np.float32, np.float64):
        x = logits.astype(dtype)
        losses, gradient = fastce.cross_entropy_value_and_grad(x, labels, reduction="none")
        for rows in (slice(7, 8), slice(100, 117), slice(1490, 1700), slice(1600, 1601), slice(0, 1000)):
            alone = fastce.cross_entropy_value_and_grad(x[rows], labels[rows], reduction="none")
            np.testing.assert_array_equal(alone.value, losses[rows])
            np.testing.assert_array_equal(alone.grad, gradient[rows])


@pytest.mark.parametrize("classes", [2, 4, 10, 33, 100, 256])
def test_gradients_near_the_smallest_numbers_have_the_same_bits_in_every_layout(rng, classes):
    size = np.exp(rng.uniform(0, 5, (1000, 1)))
    logits, labels = (rng.normal(size=(1000, classes)) * size).astype(np.float32), rng.integers(0, classes, 1000)
    above = rng.choice([1.0, -1.0, 1e-3, 0.0], 1000)
    plain = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", grad_output=above)
    assert ((plain.grad != 0) & (abs(plain.grad) < 1e-36)).any()
    for order, out in (("C", np.empty_like(logits, order="F")), ("F", None), ("F", np.empty_like(logits))):
        work = np.array(logits, order=order)
        ours = fastce.cross_entropy_value_and_grad(work, labels, reduction="none", grad_output=above, out=out)
        assert same_bits(ours.value, plain.value)
        assert same_bits(ours.grad, plain.grad)


@pytest.mark.parametrize("classes", [2, 10, 33])
def test_gradients_beside_those_of_extreme_upstreams_keep_their_bits_and_all_are_right(rng, classes):
    """A gradient is a multiple of an exp that the sums have kept, unless the factor is no ordinary float32."""
    logits, labels = (rng.normal(size=(140, classes)) * 5).astype(np.float32), rng.integers(0, classes, 140)
    x = logits.astype(np.float64)
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(140), labels] -= 1
    plain = np.linspace(0.5, 2, 140)
    ordinary = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", grad_output=plain).grad
    for extreme in (1e-28, 1e-20, 1e-9, 0.0, 1e10, 1e28):
        above = plain.copy()
        above[::37] = extreme
        grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", grad_output=above).grad
        scaled = grad / np.where(above == 0, 1, above)[:, None]
        assert_within(scaled, np.where(above[:, None] == 0, 0, p), 4 * np.finfo(np.float32).eps, "gradient")
        assert same_bits(grad[above == plain], ordinary[above == plain])


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_the_probabilities_of_any_lane_changes_no_bit_of_another_row(rng, name):
    logits = rng.normal(size=(37, 10)).astype(dtype_of(name))
    t = rng.random((37, 10))
    clean = fastce.cross_entropy_value_and_grad(logits, t, reduction="none")
    for row in range(37):
        work, others = t.copy(), np.arange(37) != row
        work[row, row % 10] = np.nan
        ours = fastce.cross_entropy_value_and_grad(logits, work, reduction="none")
        assert np.isnan(ours.value[row])
        assert same_bits(ours.value[others], clean.value[others])
        assert same_bits(ours.grad[others], clean.grad[others])


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_no_weight_are_exactly_zero_whatever_they_hold(rng, name):
    for rows, classes in [(257, 3), (400, 10), (140, 17), (140, 100)]:
        logits, labels = mixture(rng, rows, classes, dtype_of(name), share=0.5)
        absent = rng.random(rows) < 0.3
        absent[32:64], absent[128:256] = True, True  # whole groups
        v = np.where(absent, 0, rng.random(rows))
        ignored = np.where(absent, -100, labels)
        everywhere = np.full(rows, -100)
        for targets, options, nothing in [
            (ignored, {}, absent),
            (ignored, {"label_smoothing": 0.1, "z_loss": 0.0}, absent),
            (labels, {"sample_weight": v}, absent),
            (one_hot(labels, classes), {"sample_weight": v}, absent),
            (scipy.sparse.csr_array(one_hot(labels, classes)), {"sample_weight": v}, absent),
            (everywhere, {}, np.ones(rows, bool)),
            (labels, {"sample_weight": np.zeros(rows)}, np.ones(rows, bool)),
        ]:
            ours = check(logits, targets, reductions=("sum", "mean", "none"), **options)
            assert np.all(ours.value[nothing] == 0)
            assert np.all(ours.grad[nothing] == 0)


@covering({"name": NAMES, "classes": [2, 10, 33, 100], "ignored": [-100, 0, 2**62], "order": "CF"}, quick=1)
def test_many_rows_are_what_they_are_without_those_that_are_ignored(rng, classes, ignored, order, name):
    rows, dtype = 600_000 // classes, dtype_of(name)
    logits = (rng.normal(size=(rows, classes)) * 4).astype(dtype)
    labels, v = rng.integers(0, classes, rows), rng.normal(size=rows)
    labels[rng.random(rows) < 0.3] = ignored
    kept = labels != ignored
    given = np.asarray(logits, order=order)
    for options, of_kept in [
        ({}, {}),
        ({"weight": np.arange(1.0, classes + 1)}, {"weight": np.arange(1.0, classes + 1)}),
        ({"sample_weight": v}, {"sample_weight": v[kept]}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
    ]:
        ours = fastce.cross_entropy_value_and_grad(given, labels, ignore_index=ignored, reduction="none", **options)
        alone = fastce.cross_entropy_value_and_grad(logits[kept], labels[kept], reduction="none", **of_kept)
        assert np.all(ours.value[~kept] == 0)
        assert np.all(ours.grad[~kept] == 0)
        assert same_bits(ours.value[kept], alone.value)
        assert same_bits(ours.grad[kept], alone.grad)
        mean = fastce.cross_entropy(given, labels, ignore_index=ignored, **options)
        assert mean == pytest.approx(fastce.cross_entropy(logits[kept], labels[kept], **of_kept), rel=1e-12)
        if "label_smoothing" not in options:
            ours = fastce.cross_entropy_grad_and_hess(given, labels, ignore_index=ignored, **options)
            alone = fastce.cross_entropy_grad_and_hess(logits[kept], labels[kept], **of_kept)
            for of_all, of_kept_rows in zip(ours, alone, strict=True):
                assert np.all(of_all[~kept] == 0)
                assert same_bits(np.ascontiguousarray(of_all[kept]), of_kept_rows)


# -------------------------------------------------------------------------------------------- targets, options
@covering({"name": NAMES, "of_targets": NAMES}, quick=1)
def test_probability_targets_of_every_float_dtype(rng, of_targets, name):
    for rows, classes in [(17, 2), (130, 10), (40, 33), (20, 257)]:
        logits = (rng.normal(size=(rows, classes)) * 3).astype(dtype_of(name))
        for t in (rng.random((rows, classes)), one_hot(rng.integers(0, classes, rows), classes)):
            check(logits, t.astype(np.float16).astype(dtype_of(of_targets)))


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("classes", [2, 3, 10, 16, 17, 33])
def test_the_class_with_most_of_the_mass_is_another_one_in_every_lane(rng, classes, name):
    # Confident rows, hence losses near 0; what is not on the favourite comes to nothing, to little, or to a lot.
    rows = 150
    favourite = rng.permutation(np.arange(rows) % classes)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), favourite] += rng.choice([5, 25, 60], rows)
    for rest in (0.0, 1e-30, 1e-6, 0.3, 1.0):  # 1.0: each of the others as heavy as the favourite
        targets = np.where(one_hot(favourite, classes, bool), 1.0, rest)
        check(logits.astype(name), targets * rng.choice([1, 0.01, 7], (rows, 1)))
    tied = (logits.argsort(1) >= classes - 2).astype(float)
    check(logits.astype(name), tied)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_class_with_most_of_the_weighted_mass_need_not_be_the_likeliest(name):
    check(np.array([[20, 0]], name), np.array([[0.4, 0.6]]), weight=[1.0, 0.0])


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16"])
def test_sparse_targets_with_empty_rows_duplicates_and_dense_rows(rng, name):
    for rows, classes in [(40, 2), (200, 10), (70, 33)]:
        logits = (rng.normal(size=(rows, classes)) * 3).astype(dtype_of(name))
        counts = rng.integers(0, 5, rows)
        counts[::9] = 3 * classes
        indices = rng.integers(0, classes, counts.sum())
        first = np.r_[0, np.cumsum(counts)]
        t = scipy.sparse.csr_array((rng.random(counts.sum()) / 4, indices, first), shape=(rows, classes))
        for options in ({}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "smoothing_over": "others"}):
            check(logits, t, reductions=REDUCTIONS, **options)


def every_form(rng, masses):
    """The same sparse targets in all forms that users give: formats, integers, floats, any order, masses in parts."""
    csr = scipy.sparse.csr_array(masses)
    for kind in (scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_matrix):
        yield kind(masses)
    starts, rows = csr.indptr, np.repeat(np.arange(len(masses)), np.diff(csr.indptr))
    order = np.lexsort((rng.random(csr.nnz), rows))
    for integers in (np.int32, np.int64, np.uint32):
        for floats in (np.float32, np.float64):
            if not np.array_equal(csr.data, csr.data.astype(floats)):
                continue
            form = csr.copy()
            form.data, form.indices = csr.data[order].astype(floats), csr.indices[order].astype(integers)
            form.indptr = starts.astype(integers)
            yield form
    mixed, twice = csr.copy(), csr.copy()
    mixed.indptr = starts.astype(np.int64)
    yield mixed
    twice.data, twice.indices = np.repeat(csr.data / 2, 2), np.repeat(csr.indices, 2)
    twice.indptr = 2 * starts
    yield twice
    order = rng.permutation(csr.nnz)
    yield scipy.sparse.coo_array((csr.data[order], (rows[order], csr.indices[order])), shape=masses.shape)
    spare = csr.copy()  # points after the last row are nobody's
    spare.data, spare.indices = np.r_[csr.data, -1.0], np.r_[csr.indices, 10**6]
    yield spare


@pytest.mark.parametrize("classes", [1, 2, 10, 64, 65])
@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("of_masses", ["float16", "float64"])
def test_sparse_targets_are_the_same_in_every_form(rng, name, classes, of_masses):
    logits = (rng.normal(size=(700, classes)) * 3).astype(name)
    logits[5] = 3e38  # a row that is left to other kernels
    masses = rng.random((700, classes)).astype(of_masses).astype(np.float64)
    masses[rng.random(masses.shape) < 0.6] = 0.0
    masses[::7] = 0.0
    expected = fastce.cross_entropy_value_and_grad(logits, scipy.sparse.csr_array(masses), reduction="none")
    check(logits[6:], scipy.sparse.csr_array(masses[6:]))
    for form in every_form(rng, masses):
        found = fastce.cross_entropy_value_and_grad(logits, form, reduction="none")
        assert same_bits(found.value, expected.value)
        assert same_bits(found.grad, expected.grad)
        work = logits.copy()
        found = fastce.cross_entropy_value_and_grad(work, form, reduction="none", out=work)
        assert same_bits(work, expected.grad)
        assert same_bits(fastce.cross_entropy(logits, form, reduction="none"), found.value)


def random_options(rng, rows, classes, kind):
    """Any combination of options, each there in about every third call."""
    options = {}
    if rng.random() < 0.35:
        options["weight"] = rng.random(classes) + 0.1
    if rng.random() < 0.35:
        options["sample_weight"] = rng.random(rows) * (rng.random(rows) < 0.8) * 3
    if kind == "hard" and rng.random() < 0.5:
        options["ignore_index"] = int(rng.choice([-100, -1, 0, classes - 1, classes, 2**40]))
    if rng.random() < 0.5:
        options["label_smoothing"] = float(rng.choice([1e-6, 0.1, 0.5, 1.0]))
        options["smoothing_over"] = str(rng.choice(["all", "others"]))
    if rng.random() < 0.35:
        options["logit_scale"] = float(rng.choice([0.01, 0.5, 3.0, 100.0]))
    if rng.random() < 0.25:
        options["softcap"] = float(rng.choice([0.5, 5.0, 30.0]))
    if rng.random() < 0.35:
        options["z_loss"] = float(rng.choice([1e-4, 0.1]))
    return options


def random_call(rng, rows, classes, row_shape=None, axis=-1):
    """Logits (rows, classes), labels or other targets, and options: what a caller may combine."""
    kind = str(rng.choice(["hard", "hard", "one-hot", "probability"] + ["sparse"] * (row_shape is None)))
    options = random_options(rng, rows, classes, kind)
    logits = rng.normal(size=(rows, classes)) * rng.choice([0.3, 4.0])
    if "logit_scale" not in options and "softcap" not in options:
        logits += rng.choice([0, 0, 100, -1e5], (rows, 1)) if "z_loss" not in options else 0
        if "label_smoothing" not in options:
            logits = np.where(rng.random(logits.shape) < 0.1, -np.inf, logits)
            logits[:, rng.integers(classes)] = 0.0  # so that no row is masked as a whole
    if options.get("logit_scale", 1) > 10:
        logits /= options["logit_scale"]
    labels = rng.integers(0, classes, rows)
    targets = targets_of(kind, rng, labels, classes)
    if "ignore_index" in options:
        targets = np.where(rng.random(rows) < 0.3, options["ignore_index"], targets)
    return logits, targets, options


@covering({"name": ["float32", "float64", "float16", "bfloat16"], "seed": range(40)}, strength=1)
def test_any_combination_of_options(seed, name):
    rng = np.random.default_rng([seed, NAMES.index(name)])
    rows, classes = int(rng.choice(ROW_COUNTS[:-1])), int(rng.choice(CLASSES))
    logits, targets, options = random_call(rng, rows, classes)
    upstream = rng.normal(size=rows) if rng.random() < 0.5 else float(rng.normal())
    check(narrowed(logits, dtype_of(name)), targets, reductions=REDUCTIONS, grad_output=upstream, **options)


@covering(
    {
        "kind": ["hard", "one-hot", "probability", "sparse"],
        "option": ["plain", "smoothing", "weight", "scale and softcap", "z_loss"],
        "classes": [2, 10, 17, 100],
    }
)
def test_each_option_with_every_kind_of_targets(rng, classes, option, kind):
    options = {
        "plain": {},
        "smoothing": {"label_smoothing": 0.2, "smoothing_over": "others"},
        "weight": {"weight": rng.random(classes) * (np.arange(classes) != 1), "sample_weight": np.arange(150) % 3},
        "scale and softcap": {"logit_scale": 2.5, "softcap": 7.0},
        "z_loss": {"z_loss": 0.01},
    }[option]
    logits, labels = rng.normal(size=(150, classes)).astype(np.float32) * 3, rng.integers(0, classes, 150)
    targets = targets_of(kind if (kind, option) != ("probability", "weight") else "one-hot", rng, labels, classes)
    upstream = rng.normal(size=150) * (np.arange(150) % 5 > 0)
    check(logits, targets, reductions=REDUCTIONS, grad_output=upstream, **options)


# ------------------------------------------------------------------------------------------- out and errors
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["hard", "probability"])
def test_the_gradient_may_replace_the_logits(rng, kind, name):
    for rows, classes in [(1, 3), (16, 2), (257, 10), (400, 17), (60, 100), (3_000, 30)]:
        logits, labels = mixture(rng, rows, classes, dtype_of(name), share=0.2)
        targets = targets_of(kind, rng, labels, classes)
        plain = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
        ours = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", out=logits)
        assert ours.grad is logits
        assert same_bits(ours.value, plain.value)
        np.testing.assert_array_equal(ours.grad.astype(np.float64), plain.grad.astype(np.float64))


@pytest.mark.parametrize("bad", [10, -1, -100, 2**40, -(2**40)])
@pytest.mark.parametrize("rows", [1, 40, 5003, 60_000])
def test_the_first_target_out_of_range_is_named_and_nothing_is_written(rng, rows, bad):
    logits = rng.normal(size=(rows, 10)).astype(np.float32)
    before, out = logits.copy(), np.full_like(logits, 7)
    for first in sorted({0, rows // 2, rows - 1}):
        labels = rng.integers(0, 10, rows)
        labels[[first, -1]], labels[first + 1 :: 5] = [bad, bad + 1000], 10**6
        labels[first] = bad
        for options in ({}, {"out": out}, {"out": logits}):
            with pytest.raises(IndexError, match=rf"row {first}\b.* {bad}\b"):
                fastce.cross_entropy_value_and_grad(logits, labels, ignore_index=-7, **options)
        with pytest.raises(IndexError, match=rf"row {first}\b.* {bad}\b"):
            fastce.cross_entropy(logits, labels, ignore_index=-7, n_threads=2)
    assert np.all(out == 7)
    assert same_bits(logits, before)


# -------------------------------------------------------------------------------------------------- threads
@pytest.mark.parametrize(
    ("rows", "classes", "name"),
    [
        (200_003, 2, "float32"),
        (40_007, 10, "float32"),
        (9_011, 33, "float64"),
        (3_003, 257, "float32"),
        (80_007, 10, "float16"),
        (30_011, 20, "bfloat16"),
    ],
)
def test_any_number_of_threads_and_any_repetition_gives_the_same_bits(small_blocks, rng, rows, classes, name):
    logits = (rng.normal(size=(rows, classes)) * 3).astype(dtype_of(name))
    logits[::1009, 0], logits[5::2003] = np.nan, -np.inf
    labels, t = rng.integers(0, classes, rows), rng.random((rows, classes), np.float32)
    v = rng.random(rows)
    for targets, options in ((labels, {}), (labels, {"sample_weight": v, "label_smoothing": 0.1}), (t, {})):
        call = {"reduction": "none", **options}
        one = fastce.cross_entropy_value_and_grad(logits, targets, n_threads=1, **call)
        values = fastce.cross_entropy(logits, targets, n_threads=1, **call)
        for n_threads in (2, 3, 1):
            many = fastce.cross_entropy_value_and_grad(logits, targets, n_threads=n_threads, **call)
            assert same_bits(many.value, one.value)
            assert same_bits(many.grad, one.grad)
            assert same_bits(fastce.cross_entropy(logits, targets, n_threads=n_threads, **call), values)
    finite = np.where(np.isfinite(logits), logits, 0)
    totals = {fastce.cross_entropy(finite, labels, sample_weight=v, n_threads=n) for n in (1, 2, 3, 1)}
    assert len(totals) == 1


@pytest.mark.parametrize(("rows", "classes"), [(2001, 10), (601, 33)])
def test_a_row_alone_in_a_batch_and_at_any_place_of_it_is_right(rng, rows, classes):
    # The same rows in another order meet other neighbours, other lanes and other tails: within 4 ulp all the same.
    logits, labels = mixture(rng, rows, classes, np.float32, share=0.2)
    order = rng.permutation(rows)
    for picked in (order, np.flip(order), order[:1], order[: rows // 2], order[rows // 3 :]):
        check(logits[picked], labels[picked])


# ------------------------------------------------------------------------------ logsumexp, softmax, log_softmax
@covering({"name": ["logsumexp", "softmax", "log_softmax"], "dtype": NAMES, "rows, classes": SIZES[::3]}, quick=1)
def test_the_functions_of_scipy_on_difficult_rows(rng, rows, classes, dtype, name):
    logits, _ = mixture(rng, rows, classes, dtype_of(dtype), share=0.4)
    expected = getattr(fastce, name)(logits, axis=1)
    assert_as_scipy(name, expected, logits, axis=1)
    if name != "logsumexp":
        getattr(fastce, name)(logits, axis=1, out=logits)
        np.testing.assert_array_equal(logits.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("classes", CLASSES)
def test_logsumexp_of_few_classes_is_within_1_ulp(rng, classes):
    for rows in (1, 15, 17, 300):
        # from 256 classes on, a difficult row may fail: see above
        logits, _ = mixture(rng, rows, classes, np.float32, share=0.5 if classes < 256 else 0.0)
        exact = naive.row_logsumexp(logits.astype(np.float64))
        defined = np.isfinite(exact)
        assert logsumexp_error(fastce.logsumexp(logits, axis=1)[defined], exact[defined]) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [2, 10, 17, 100])
def test_log_softmax_near_zero_keeps_its_digits(rng, classes, dtype):
    logits, top = rng.normal(size=(140, classes)), np.arange(140) % classes
    logits[np.arange(140), top] += rng.choice([7, 25, 60], 140)
    logits = logits.astype(dtype)
    exact = -naive.negative_log_softmax(naive.widened(logits))[np.arange(140), top]
    ordered = np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]  # half an ulp of it is a relative error of the result
    bound = naive.allowed(1, dtype) * (4 + margin / 2) * np.finfo(dtype).eps * np.abs(exact)
    assert_within(fastce.log_softmax(logits, axis=1)[np.arange(140), top], exact, bound, "log_softmax of row")


def test_masses_of_sparse_targets_keep_the_digits_that_float32_has_not(rng):
    logits, masses = rng.normal(0, 4, (4000, 10)).astype(np.float32), rng.random((4000, 10))
    masses[rng.random((4000, 10)) < 0.7] = 0.0
    x, q = logits.astype(np.longdouble), masses.astype(np.longdouble)
    exact = (q * (np.log(np.exp(x).sum(1, keepdims=True)) - x)).sum(1)
    losses = fastce.cross_entropy(logits, scipy.sparse.csr_array(masses), reduction="none")
    assert (np.abs(losses - exact) <= 0.51 * np.spacing(exact.astype(np.float32))).all()
