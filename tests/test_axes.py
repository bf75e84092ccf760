"""The class axis anywhere, the array any way in memory: the same losses and gradients, to the contract's bounds.

test_few_classes.py has the difficult rows along the last axis; here they stand along every other axis.
"""

import naive
import numpy as np
import pytest
from checks import (
    NAMES,
    REDUCTIONS,
    assert_as_scipy,
    assert_within,
    check,
    dtype_of,
    mixture,
    narrowed,
    one_hot,
    same_bits,
    spacing,
)
from covering import covering
from test_few_classes import far_below_one, random_call

import fastce
from fastce.cpu.columns import cut_columns

INF, NAN = np.inf, np.nan


# ------------------------------------------------------------------------------------------ ways to lie in memory
def in_memory_order(order):
    """The same array, its axes in this order in memory, outermost first."""

    def change(a):
        axes = order(a.ndim)
        return a.transpose(axes).copy().transpose(np.argsort(axes))

    return change


def misaligned(a):
    result = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    result[...] = a
    return result


def every_second(axis):
    """Every second element along this axis, NaN between them."""

    def change(a):
        axis_here = axis % a.ndim
        shape = [2 * n if k == axis_here else n for k, n in enumerate(a.shape)]
        result = np.full(shape, np.nan, a.dtype)[
            tuple(np.s_[1::2] if k == axis_here else np.s_[:] for k in range(a.ndim))
        ]
        result[...] = a
        return result

    return change


def padded(a):
    """Inside a larger array, with NaN on every side."""
    result = np.full([n + 3 for n in a.shape], np.nan, a.dtype)[tuple(slice(1, n + 1) for n in a.shape)]
    result[...] = a
    return result


def backwards(*axes):
    def change(a):
        picked = tuple(k for k in axes if k < a.ndim) or tuple(range(a.ndim))
        return np.flip(np.flip(a, picked).copy(), picked)

    return change


LAYOUTS = {  # each makes a copy
    "C": lambda a: np.array(a, order="C"),
    "Fortran": lambda a: np.array(a, order="F"),
    "axis 1 innermost": in_memory_order(lambda ndim: [0, *range(2, ndim), 1][:ndim] if ndim > 1 else [0]),
    "axis 1 outermost": in_memory_order(lambda ndim: [1, 0, *range(2, ndim)] if ndim > 1 else [0]),
    "first two swapped, last two swapped": in_memory_order(lambda ndim: [1, 0, 3, 2] if ndim == 4 else [*range(ndim)]),
    "backwards": backwards(),
    "first axis backwards": backwards(0),
    "second axis backwards": backwards(1),
    "every second of the first": every_second(0),
    "every second of the second": every_second(1),
    "every second of the last": every_second(-1),
    "padded": padded,
    "padded, Fortran": lambda a: padded(a.T).T,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned, byte-swapped, Fortran": lambda a: misaligned(a.T.astype(a.dtype.newbyteorder())).T,
}
WRITABLE = [name for name in LAYOUTS if "swapped" not in name or "last two" in name]  # out has a native dtype

SHAPES = [  # shape, class axis
    ((10, 131), 0),
    ((131, 10), 1),
    ((3, 17, 5, 7), None),
    ((2, 3, 15, 9), 1),
    ((33, 4, 15), 0),
    ((5, 16, 13), 1),
    ((4, 3, 11, 7), 2),
    ((6, 5, 4, 9), -1),
    ((1, 19, 1, 35), 1),
    ((2, 7, 129, 1), 1),
    ((1, 300, 1, 1), 1),
    ((65, 17), 0),
    ((9,), None),
]


def axis_of(shape, axis):
    return (min(1, len(shape) - 1) if axis is None else axis) % len(shape)


def place(matrix, shape, axis):
    """(rows, classes) as an array of this shape, the rows in order and the classes along the axis."""
    axis = axis_of(shape, axis)
    lead = tuple(np.delete(shape, axis))
    return np.moveaxis(np.reshape(matrix, (*lead, shape[axis])), -1, axis), lead


def case(rng, shape, axis, share=0.1, dtype=np.float32):
    """Logits with difficult rows among them and labels, placed in this shape."""
    classes = shape[axis_of(shape, axis)]
    matrix, labels = mixture(rng, int(np.prod(shape)) // classes, classes, np.dtype(dtype), share)
    logits, lead = place(matrix, shape, axis)
    return logits, labels.reshape(lead)


def probabilities(rng, logits):
    return rng.random(logits.shape) * (rng.random(logits.shape) < 0.7)


@covering({"layout": LAYOUTS, "shape, axis": SHAPES}, quick=1)
def test_losses_and_gradients_in_every_layout(rng, shape, axis, layout):
    for name in ("float32", ["float64", "float16"][len(layout) % 2]):
        logits, labels = case(rng, shape, axis, share=0.3, dtype=name)
        logits = LAYOUTS[layout](logits)
        check(logits, labels, axis=axis)
    t = LAYOUTS[layout](probabilities(rng, logits).astype(np.float32))
    check(logits, t, axis=axis, label_smoothing=0.1)


@covering({"name": NAMES, "classes": [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 33, 100, 256, 257]}, quick=1)
def test_every_number_of_classes_along_the_first_axis_and_between_others(rng, classes, name):
    inners = [(1,), (2,), (15,), (17,), (3, 43), (257,)]
    if name != "float32" or classes > 100:
        inners = inners[classes % 2 :: 2]
    for inner in inners:
        logits, labels = case(rng, (classes, *inner), 0, dtype=dtype_of(name))
        check(logits, labels, axis=0)
        check(np.asfortranarray(logits), labels, axis=0, label_smoothing=0.1)
        logits, labels = case(rng, (2, classes, *inner[::-1]), 1, dtype=dtype_of(name))
        check(logits, np.moveaxis(one_hot(labels, classes), -1, 1))


@covering(
    {
        "name": ["float32", "float64", "float16", "bfloat16"],
        "shape, axis": [((10, 403), 0), ((3, 17, 11, 13), 1), ((100, 130), 0), ((5, 2, 77), 1)],
        "share": [0.02, 1.0],
    }
)
def test_difficult_rows_along_other_axes(rng, share, shape, axis, name):
    logits, labels = case(rng, shape, axis, share, dtype_of(name))
    for targets in (labels, probabilities(rng, logits), np.moveaxis(one_hot(labels, shape[axis]), -1, axis)):
        check(logits, targets, axis=axis)
        check(logits, targets, axis=axis, label_smoothing=0.1, smoothing_over="others")


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 10, 17, 60])
def test_many_classes_that_are_each_too_small_to_change_the_sum_along_the_first_axis(classes, name):
    for top in (0.0, 0.7, 1.0):
        logits = np.ascontiguousarray(far_below_one(classes, top, np.dtype(name)).T)
        check(logits, np.arange(classes), axis=0)
        check(logits, np.roll(np.arange(classes), 1), axis=0)


@covering(
    {
        "margin": [25, 90, 200],
        "offset": [0, 1e6, -1e6],
        "shape, axis": [((10, 200), 0), ((2, 3, 15, 9), 1), ((33, 70), 0)],
    }
)
def test_confident_rows_and_offsets_along_other_axes(rng, shape, axis, offset, margin):
    classes = shape[axis]
    labels = rng.integers(0, classes, int(np.prod(shape)) // classes)
    matrix = rng.normal(size=(len(labels), classes))
    matrix[np.arange(len(labels)), labels] += margin * (rng.random(len(labels)) < 0.6)
    logits, lead = place((matrix + offset).astype(np.float32), shape, axis)
    check(logits, labels.reshape(lead), axis=axis)
    check(logits, np.moveaxis(one_hot(labels.reshape(lead), classes), -1, axis), axis=axis)


@pytest.mark.parametrize("seed", range(60))
def test_any_combination_of_shape_layout_and_options(seed, rng):
    rng = np.random.default_rng([seed, 7])
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 16, 17, 31], rng.integers(1, 5)))
    axis = int(rng.integers(-len(shape), len(shape)))
    classes = shape[axis]
    layout, of_targets, of_out = (LAYOUTS[str(rng.choice(names))] for names in (list(LAYOUTS), list(LAYOUTS), WRITABLE))
    matrix, targets, options = random_call(rng, int(np.prod(shape)) // classes, classes, row_shape=shape)
    dtype = dtype_of(str(rng.choice(["float32", "float32", "float64", "float16"])))
    logits, lead = place(narrowed(matrix, dtype), shape, axis)
    targets = place(targets, shape, axis)[0] if targets.ndim == 2 else targets.reshape(lead)
    if "sample_weight" in options:
        options["sample_weight"] = options["sample_weight"].reshape(lead)
    upstream = rng.normal(size=lead) if rng.random() < 0.5 else 1.0
    if targets.ndim:
        targets = of_targets(targets) if targets.dtype.kind == "f" else targets[..., ::-1].copy()[..., ::-1]
    check(
        layout(logits),
        targets,
        axis=axis,
        reductions=REDUCTIONS,
        grad_output=upstream,
        out=lambda: of_out(np.zeros(shape, dtype)),
        **options,
    )


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 4, 4), (2, 3, 0, 5), (2, 3, 4, 0), (1, 1, 1, 1)])
def test_axes_of_length_zero_and_one(shape):
    axis = 0 if shape == (5, 0) else 1
    logits, rows = np.zeros(shape, np.float32), tuple(np.delete(shape, axis))
    for order in "CF":
        value, grad = fastce.cross_entropy_value_and_grad(
            np.array(logits, order=order), np.zeros(rows, int), axis=axis, reduction="none"
        )
        assert value.shape == rows
        assert grad.shape == shape
        assert np.all(value == (0 if value.size else 1))
        assert np.all(grad == 0)


# ------------------------------------------------------------------------------------------------ what may be shared
@pytest.mark.parametrize("constant", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_broadcast(rng, constant, name):
    shape = (6, 17, 19)
    once = rng.normal(size=[1 if k in constant else n for k, n in enumerate(shape)]) * 4
    logits = np.broadcast_to(once.astype(dtype_of(name)), shape)
    for axis in range(3):
        rows = tuple(np.delete(shape, axis))
        check(logits, rng.integers(0, shape[axis], rows), axis=axis)
        check(logits, np.broadcast_to(rng.random((1, 17, 1)), shape), axis=axis)
        check(logits, np.broadcast_to(2, rows), axis=axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_logits_in_a_memmap_opened_for_reading(rng, axis, tmp_path):
    shape = (5, 16, 21)
    logits, labels = case(rng, shape, axis)
    for order in "CF":
        (tmp_path / "logits").write_bytes(b"xyz" + logits.tobytes(order))
        for offset in (0, 3):  # aligned and not
            (tmp_path / "logits").write_bytes(b"x" * offset + logits.tobytes(order))
            mapped = np.memmap(tmp_path / "logits", np.float32, "r", offset=offset, shape=shape, order=order)
            check(mapped, labels, axis=axis)
            assert type(fastce.cross_entropy_value_and_grad(mapped, labels, axis=axis).grad) is np.ndarray


@covering(
    {
        "shape, axis": [((10, 63), 0), ((3, 17, 5, 7), 1), ((63, 10), 1), ((5, 16, 13), 0)],
        "layout": ["C", "Fortran", "axis 1 innermost"],
        "of_out": WRITABLE,
    },
    quick=1,
)
def test_out_of_another_layout_than_the_logits_and_nothing_beside_it_is_touched(rng, of_out, layout, shape, axis):
    logits, labels = case(rng, shape, axis)
    logits = LAYOUTS[layout](logits)
    out = LAYOUTS[of_out](np.zeros(shape, np.float32))
    check(logits, labels, axis=axis, out=lambda: out)
    out[...] = np.nan
    base = out if out.base is None else out.base
    assert base[0] == 0 if of_out == "misaligned" else np.isnan(base).all()


@covering(
    {
        "shape, axis": [((10, 131), 0), ((3, 17, 5, 7), 1), ((131, 10), 1), ((4, 3, 11, 7), 2)],
        "layout": WRITABLE,
        "name": ["float32", "float16"],
    },
    quick=1,
)
def test_the_gradient_may_replace_the_logits_in_every_layout(rng, name, layout, shape, axis):
    logits, labels = case(rng, shape, axis, dtype=name)
    for targets in (labels, probabilities(rng, logits)):
        exact = naive.CrossEntropy(logits, targets, axis=axis)
        expected = fastce.cross_entropy_value_and_grad(LAYOUTS[layout](logits), targets, axis=axis, reduction="none")
        work = LAYOUTS[layout](logits)
        ours = fastce.cross_entropy_value_and_grad(work, targets, axis=axis, reduction="none", out=work)
        assert ours.grad is work
        assert same_bits(ours.value, expected.value)
        eps = np.finfo(np.result_type(name, np.float32)).eps
        bound = naive.allowed(4, np.dtype(name)) * eps * exact.mass.reshape(-1, 1) + spacing(exact.grad, np.dtype(name))
        assert_within(naive.as_rows(work, axis)[0], exact.grad, bound, "gradient at (row, class)")


# ------------------------------------------------------------------------------------------------- one row alone
@covering(
    {
        "value": [NAN, INF, -INF, 3e4],
        "kind": ["hard", "probability"],
        "shape, axis, layout": [
            ((10, 35), 0, "C"),
            ((17, 19), 0, "C"),
            ((2, 3, 5, 7), 1, "C"),
            ((35, 10), 1, "Fortran"),
            ((7, 3, 5), 1, "Fortran"),
        ],
    },
    quick=1,
)
def test_a_special_value_in_any_lane_changes_no_bit_of_another_row(rng, shape, axis, layout, kind, value):
    plain = rng.normal(size=shape).astype(np.float32)
    logits, rows = LAYOUTS[layout](plain), tuple(np.delete(shape, axis))
    targets = rng.integers(0, shape[axis], rows) if kind == "hard" else rng.random(shape)
    clean = fastce.cross_entropy_value_and_grad(logits, targets, axis=axis, reduction="none")
    clean_grad = np.moveaxis(clean.grad, axis, -1)
    for at in np.ndindex(shape):
        row, before = tuple(np.delete(at, axis)), logits[at]
        logits[at] = value
        ours = fastce.cross_entropy_value_and_grad(logits, targets, axis=axis, reduction="none")
        logits[at] = before
        grad = np.moveaxis(ours.grad, axis, -1)
        if np.isnan(value) or value == INF:
            assert np.isnan(ours.value[row])
            assert np.isnan(grad[row]).all()
        grad, values = grad.copy(), ours.value.copy()
        grad[row], values[row] = clean_grad[row], clean.value[row]  # all others must be the same
        assert same_bits(grad, clean_grad), f"at {at}"
        assert same_bits(values, clean.value), f"at {at}"


@pytest.mark.parametrize("value", [0.0, NAN, INF, -INF, 3e4])
@pytest.mark.parametrize("classes", [2, 31, 300])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_matrix_is_that_of_a_matrix_whatever_it_holds(rng, name, classes, value):
    logits = rng.normal(size=classes).astype(dtype_of(name))
    logits[1] = value
    wide = rng.random(classes)
    for targets in (1, wide, wide.astype(np.float32), 1e-60 * wide, 0.0 * wide, wide * (wide == wide.max())):
        of_matrix = np.asarray(targets)[None]
        ours = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
        theirs = fastce.cross_entropy_value_and_grad(logits[None], of_matrix, reduction="none")
        assert same_bits(np.asarray(ours.value), theirs.value[0])
        assert same_bits(ours.grad, theirs.grad[0])
        ours = fastce.cross_entropy_grad_and_hess(logits, targets)
        theirs = fastce.cross_entropy_grad_and_hess(logits[None], of_matrix)
        assert same_bits(ours.grad, theirs.grad[0])
        assert same_bits(ours.hess, theirs.hess[0])


def test_absent_pixels_are_exactly_zero_whatever_they_hold(rng):
    shape = (3, 19, 15, 17)
    logits, labels = case(rng, shape, 1, share=0.4)
    absent = rng.random(labels.shape) < 0.2
    absent[:, 3:9] = True  # whole lines of pixels, and a whole image
    absent[1] = True
    v = np.where(absent, 0, rng.random(labels.shape))
    for targets, options in [
        (np.where(absent, 255, labels).astype(np.uint8), {"ignore_index": 255}),
        (np.where(absent, -100, labels), {"label_smoothing": 0.1}),
        (labels, {"sample_weight": v}),
        (probabilities(rng, logits), {"sample_weight": v}),
    ]:
        ours = check(logits, targets, reductions=("mean", "sum", "none"), **options)
        assert np.all(ours.value[absent] == 0)
        assert np.all(np.moveaxis(ours.grad, 1, -1)[absent] == 0)


# --------------------------------------------------------------------------------------------- threads and errors
@pytest.mark.parametrize(
    ("shape", "axis", "layout"),
    [
        ((10, 20_003), 0, "C"),
        ((10, 20_003), 0, "every second of the last"),
        ((12, 20_003), 1, "Fortran"),
        ((4, 19, 63, 65), 1, "C"),
        ((4, 19, 63, 65), 1, "axis 1 innermost"),
        ((4, 19, 63, 65), 1, "Fortran"),
        ((33, 5, 1_001), 0, "byte-swapped"),
    ],
)
def test_any_number_of_threads_and_any_repetition_gives_the_same_bits(small_blocks, rng, shape, axis, layout):
    logits = LAYOUTS[layout](rng.normal(size=shape).astype(np.float32) * 4)
    labels = rng.integers(0, shape[axis], tuple(np.delete(shape, axis)))
    call = {"axis": axis, "reduction": "none", "label_smoothing": 0.1}
    value = fastce.cross_entropy(logits, labels, n_threads=1, **call)
    one = fastce.cross_entropy_value_and_grad(logits, labels, n_threads=1, **call)
    softmax, logsumexp = (f(logits, axis=axis, n_threads=1) for f in (fastce.softmax, fastce.logsumexp))
    for n_threads in (2, 3, 1):
        many = fastce.cross_entropy_value_and_grad(logits, labels, n_threads=n_threads, **call)
        assert same_bits(many.value, one.value)
        assert same_bits(many.grad, one.grad)
        assert same_bits(fastce.cross_entropy(logits, labels, n_threads=n_threads, **call), value)
        assert same_bits(fastce.softmax(logits, axis=axis, n_threads=n_threads), softmax)
        assert same_bits(fastce.logsumexp(logits, axis=axis, n_threads=n_threads), logsumexp)
    assert len({fastce.cross_entropy(logits, labels, axis=axis, n_threads=n) for n in (1, 2, 3, 1)}) == 1


@pytest.mark.parametrize("layout", ["C", "Fortran", "axis 1 innermost", "backwards"])
@pytest.mark.parametrize(("shape", "axis"), [((10, 5_003), 0), ((4, 10, 31, 33), 1), ((3, 10, 5), 1)])
def test_the_first_target_out_of_range_is_named_and_nothing_is_written(rng, shape, axis, layout):
    logits = LAYOUTS[layout](rng.normal(size=shape).astype(np.float32))
    rows = tuple(np.delete(shape, axis))
    before, out = logits.copy(), LAYOUTS[layout](np.full(shape, 7, np.float32))
    for bad in (10, -1, 2**40):
        labels = rng.integers(0, 10, rows)
        for row in (labels.size - 1, labels.size // 2, 1):  # the first in the order of the rows, not of the memory
            labels.flat[row] = bad
            for options in ({"out": out}, {"out": logits}, {}):
                with pytest.raises(IndexError, match=rf"row {row}\b.* {bad}\b"):
                    fastce.cross_entropy_value_and_grad(logits, labels, axis=axis, **options)
            bad -= 20 if bad == -1 else -1
    assert np.all(out == 7)
    assert same_bits(logits, before)


# ------------------------------------------------------------------------------- logsumexp, softmax, log_softmax
AXES = [0, 1, 2, -1, (0, 1), (0, 2), (1, 2), (2, 0), None]


@covering({"name": ["logsumexp", "softmax", "log_softmax"], "axis": AXES, "dtype": NAMES}, quick=1)
def test_the_functions_of_scipy_along_every_axis_and_several(rng, dtype, axis, name):
    for shape in [(7, 17, 13), (3, 2, 131), (3, 70, 20), (33, 1, 5), (16, 16, 2)]:
        x = narrowed(rng.normal(size=shape) * 8 + rng.choice([0, 100, -300], shape), dtype_of(dtype))
        if axis not in (None, (0, 1), (1, 2)):
            x.flat[:: 3 * shape[0]] = rng.choice([INF, -INF, NAN, 0], x.flat[:: 3 * shape[0]].size)
        for layout in ("C", "Fortran", "axis 1 innermost", "every second of the last"):
            assert_as_scipy(name, getattr(fastce, name)(LAYOUTS[layout](x), axis=axis), x, axis)


@covering({"name": ["softmax", "log_softmax"], "axis": [0, 1, (0, 2), -1], "of_out": WRITABLE}, quick=1)
def test_the_functions_of_scipy_into_out_and_in_place(rng, of_out, axis, name):
    x = rng.normal(size=(7, 17, 13)).astype(np.float32) * 8
    x[2, 3, 4], x[5, :, 6] = NAN, -INF
    for layout in ("C", of_out):
        source, out = LAYOUTS[layout](x), LAYOUTS[of_out](np.zeros_like(x))
        assert getattr(fastce, name)(source, axis=axis, out=out) is out
        assert_as_scipy(name, out, x, axis)
        np.testing.assert_array_equal(source, x)
    work = LAYOUTS[of_out](x)
    assert getattr(fastce, name)(work, axis=axis, out=work) is work
    assert_as_scipy(name, work, x, axis)


@covering(
    {
        "name": ["logsumexp", "softmax", "log_softmax"],
        "dtype": ["float32", "float64", "float16"],
        "shape": [(10, 403), (2, 131), (17, 100), (100, 33)],
    }
)
def test_the_functions_of_scipy_on_difficult_rows_along_the_first_axis(rng, shape, dtype, name):
    x, _ = case(rng, shape, 0, share=0.4, dtype=dtype)
    for array in (np.ascontiguousarray(x), x, every_second(1)(x)):
        assert_as_scipy(name, getattr(fastce, name)(array, axis=0), array, 0)


@pytest.mark.parametrize(("in_place", "in_lines"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 7, 100),
        (1, 32768, 4096),
        (1, 300, 65_537),
        (3, 5000, 1000),
        (512, 21, 4096),
        (90, 300, 160),
        (5000, 21, 300),
    ],
)
def test_blocks_of_rows_side_by_side_hold_every_row_once(shape, itemsize, in_place, in_lines):
    outer, classes, rows = shape
    seen = np.zeros((outer, rows), int)
    places = cut_columns(shape, itemsize, in_place=in_place, in_lines=in_lines)
    for place in places:
        seen[place.outer, place.rows] += 1
        assert seen[place.outer, place.rows].shape == place.shape
        start = place.outer.start * rows + place.rows.start
        assert (place.start, place.stop) == (start, start + place.shape[0] * place.shape[1])
        assert place.shape[0] * place.shape[1] * classes * itemsize <= 1 << (27 if in_place else 25)
    np.testing.assert_array_equal(seen, 1)
    if outer * rows >= 4096:
        assert len(places) >= (min(8, outer // 16) if in_lines and outer > 1 else 8), "threads would have nothing to do"
