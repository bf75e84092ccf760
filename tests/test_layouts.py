"""Every function on arrays that do not lie in C order: the results of a plain copy, laid out as the logits are."""

from itertools import permutations

import numpy as np
import pytest
from checks import allocated, check, same_bits
from covering import covering
from scipy.sparse import csr_array

import fastce
from fastce.arguments.arrays import new_like

SHAPES = [(40, 9), (150, 300), (3, 20, 5, 7), (4, 21, 9, 7), (2, 300, 17, 3)]


def _axes(order):
    return lambda x: x.transpose(order(x.ndim)).copy().transpose(np.argsort(order(x.ndim)))


def _misaligned(x):
    result = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "classes first": _axes(lambda n: [1, 0, *range(2, n)]),
    "classes last": _axes(lambda n: [0, *range(2, n), 1]),
    "last axis first": _axes(lambda n: [n - 1, *range(n - 1)]),
    "every second row": lambda x: np.repeat(x, 2, 0)[::2],
    "every second class": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "every second of the last": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "Fortran, every second row": lambda x: np.asfortranarray(np.repeat(x, 2, 0))[::2],
    "Fortran, reversed": lambda x: np.asfortranarray(np.flip(x))[(slice(None, None, -1),) * x.ndim],
    "Fortran, swapped": lambda x: np.asfortranarray(x.astype(x.dtype.newbyteorder())),
    "Fortran, misaligned": lambda x: _misaligned(np.ascontiguousarray(x.T)).T,
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "classes reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
}

GRADIENTS = {
    "softmax": lambda x, y, **k: fastce.softmax(x, axis=1, **k),
    "log_softmax": lambda x, y, **k: fastce.log_softmax(x, axis=1, **k),
    "cross_entropy": lambda x, y, **k: fastce.cross_entropy_value_and_grad(x, y, **k).grad,
    "probabilities": lambda x, y, **k: fastce.cross_entropy_value_and_grad(x, _probabilities(x), **k).grad,
    "nll_loss": lambda x, y, **k: fastce.nll_loss_value_and_grad(x, y, **k).grad,
    "binary": lambda x, y, **k: fastce.binary_cross_entropy_with_logits_value_and_grad(x, _half(x), **k).grad,
}
RESULTS = {
    **GRADIENTS,
    "grad": lambda x, y: fastce.cross_entropy_grad_and_hess(x, y).grad,
    "hess": lambda x, y: fastce.cross_entropy_grad_and_hess(x, y).hess,
    "binary, none": lambda x, y: fastce.binary_cross_entropy_with_logits(x, _half(x), reduction="none"),
}


def _half(x):
    return np.full(x.shape, 0.5, np.float32)


def _probabilities(x):
    return np.full(x.shape, 1.0 / x.shape[1], np.float32)


def _problem(rng, shape, dtype):
    x = rng.normal(size=shape).astype(dtype)
    return x, rng.integers(0, shape[1], (shape[0], *shape[2:]))


def _axes_in_memory(a):
    return [k for k in np.argsort([-abs(s) for s in a.strides], kind="stable") if a.shape[k] > 1]


@covering({"layout": LAYOUTS, "shape": SHAPES, "name": RESULTS}, quick=1)
def test_results_are_those_of_a_plain_copy_and_lie_as_the_logits_do(rng, name, shape, layout):
    plain, labels = _problem(rng, shape, np.float32)
    logits = LAYOUTS[layout](plain)
    ours, same = RESULTS[name](logits, labels), RESULTS[name](plain, labels)
    np.testing.assert_allclose(ours, same, rtol=2e-6, atol=4 * np.finfo(np.float32).eps)
    if name in ("nll_loss", "binary", "binary, none") or shape[1] <= 256:
        assert same_bits(ours, same)
    assert _axes_in_memory(ours) == _axes_in_memory(logits)
    assert sum((n - 1) * abs(s) for n, s in zip(ours.shape, ours.strides, strict=True)) + 4 == ours.nbytes


@covering({"layout": LAYOUTS, "dtype": [np.float16, np.float32, np.float64], "shape": SHAPES}, quick=1)
def test_row_stats_have_the_bits_of_a_plain_copy(rng, shape, dtype, layout):
    plain, labels = _problem(rng, shape, dtype)
    outputs = ("logsumexp", "argmax", "entropy", "target_rank")
    ours = fastce.row_stats(LAYOUTS[layout](plain), labels, outputs=outputs)
    same = fastce.row_stats(plain, labels, outputs=outputs)
    for name in outputs:
        assert same_bits(ours[name], same[name])


@covering(
    {
        "out_layout": ["C", "Fortran", "every second row", "classes reversed"],
        "layout": ["C", "Fortran", "classes last", "Fortran, every second row"],
        "shape": SHAPES,
        "name": GRADIENTS,
    }
)
def test_out_may_lie_in_memory_any_way(rng, name, shape, layout, out_layout):
    plain, labels = _problem(rng, shape, np.float32)
    logits = LAYOUTS.get(layout, np.copy)(plain)
    out = LAYOUTS.get(out_layout, np.copy)(np.full(shape, 7, np.float32))
    GRADIENTS[name](logits, labels, out=out)
    assert same_bits(out, GRADIENTS[name](logits, labels))


@covering(
    {
        "order": list(permutations(range(4))),
        "shape": [(3, 5, 9, 11), (2, 300, 9, 8)],
        "kind": ["indices", "probabilities", "sparse"],
    },
    quick=1,
)
def test_axes_in_any_order_in_memory(rng, shape, order, kind):
    plain, labels = _problem(rng, shape, np.float32)
    lead = labels.shape
    labels[rng.random(lead) < 0.2] = -100
    targets = {
        "indices": labels,
        "probabilities": rng.random(shape, np.float32),
        "sparse": csr_array((rng.random((labels.size, shape[1])) < 0.01).astype(float)),
    }[kind]
    options = {"sample_weight": rng.random(lead), "weight": rng.random(shape[1]), "grad_output": rng.random(lead)}
    logits = plain.transpose(order).copy().transpose(np.argsort(order))
    result = check(logits, targets, reductions=["sum", "mean", "none"], **options)
    assert result.value.shape == lead
    assert result.grad.strides == logits.strides


@covering(
    {
        "order": list(permutations(range(4))),
        "hessian": ["exact", "xgboost", "lightgbm", "absolute"],
        "kind": ["indices", "probabilities"],
    },
    quick=1,
)
def test_gradient_and_hessian_of_axes_in_any_order_in_memory(rng, order, hessian, kind):
    plain, labels = _problem(rng, (3, 5, 9, 11), np.float32)
    labels[rng.random(labels.shape) < 0.2] = -100
    targets = labels if kind == "indices" else rng.random(plain.shape, np.float32)
    options = {"sample_weight": rng.random(labels.shape), "weight": rng.random(5), "hessian": hessian}
    logits = plain.transpose(order).copy().transpose(np.argsort(order))
    out = np.empty_like(plain), np.empty_like(plain)
    expected = fastce.cross_entropy_grad_and_hess(plain, targets, **options)
    for result in (
        fastce.cross_entropy_grad_and_hess(logits, targets, **options),
        fastce.cross_entropy_grad_and_hess(logits, targets, out=out, **options),
    ):
        for ours, same in zip(result, expected, strict=True):
            assert same_bits(ours, same)


@covering(
    {"layout": ["C", *LAYOUTS], "dtype": [np.float16, np.float32], "shape": [(40, 9), (37, 300), (6, 300, 20)]}, quick=1
)
def test_twins_give_the_same_value(rng, shape, dtype, layout):
    plain, labels = _problem(rng, shape, dtype)
    logits = LAYOUTS.get(layout, np.copy)(plain)
    weights = {"weight": rng.random(shape[1]), "sample_weight": rng.random(labels.shape)}
    binary = fastce.binary_cross_entropy_with_logits, fastce.binary_cross_entropy_with_logits_value_and_grad
    cross = fastce.cross_entropy, fastce.cross_entropy_value_and_grad
    for options in (
        {}, {"label_smoothing": 0.1}, {"softcap": 3.0, "z_loss": 0.1}, weights, {"reduction": "none"},
        {"n_threads": 1}, {"logit_scale": 3.0, "label_smoothing": 0.2, "smoothing_over": "others"},
    ):  # fmt: skip
        for targets in (labels, _probabilities(plain)):
            for out in (None, np.empty(shape, dtype)):
                value = cross[0](logits, targets, **options)
                assert same_bits(np.asarray(value), np.asarray(cross[1](logits, targets, out=out, **options).value))
    for reduction in ("mean", "sum", "none"):
        value, twin = (f(logits, _half(plain), reduction=reduction) for f in binary)
        assert same_bits(np.asarray(value), np.asarray(twin.value))
        value = fastce.nll_loss(logits, labels, reduction=reduction)
        assert same_bits(
            np.asarray(value), np.asarray(fastce.nll_loss_value_and_grad(logits, labels, reduction=reduction).value)
        )


@pytest.mark.parametrize("layout", ["C", *LAYOUTS])
def test_twins_of_clip_loss_give_the_same_value(rng, layout):
    logits = LAYOUTS.get(layout, np.copy)(rng.normal(size=(300, 300)).astype(np.float32))
    for options in ({}, {"label_smoothing": 0.1, "reduction": "none"}, {"logit_scale": 20.0, "n_threads": 1}):
        value, twin = fastce.clip_loss(logits, **options), fastce.clip_loss_value_and_grad(logits, **options)
        assert same_bits(np.asarray(value), np.asarray(twin.value))


@pytest.mark.parametrize("step", [2, -2, -1])
@pytest.mark.parametrize("shape", [(300, 1100), (2, 300, 23, 31)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_rows_with_gaps_have_the_bits_of_rows_without(rng, shape, dtype, step):
    """Kernels copy them while they sum; rows that do not fit, in several blocks and parts of vectors, too."""
    plain, axis = rng.normal(size=shape).astype(dtype), len(shape) // 3
    of_class = np.moveaxis(plain, axis, 0)
    of_class[7, ..., 0], of_class[70, ..., -1] = np.nan, np.inf
    gaps = np.repeat(plain, abs(step), -1)
    gaps = gaps[..., ::2] if step == 2 else gaps[..., ::-1].copy()[..., ::step]
    assert gaps.strides[-1] == step * plain.itemsize
    targets = rng.integers(0, 300, shape[:axis] + shape[axis + 1 :])
    for call in (
        lambda x: [fastce.logsumexp(x, axis=axis)],
        lambda x: [] if axis == 0 else [fastce.softmax(x, axis=axis)],  # a matrix is copied into rows
        lambda x: fastce.cross_entropy_value_and_grad(x, targets, axis=axis, label_smoothing=0.1, reduction="none"),
    ):
        for actual, expected in zip(call(gaps), call(plain), strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("make", [np.asfortranarray, lambda x: np.asfortranarray(np.repeat(x, 2, 0))[::2]])
def test_nothing_of_the_size_of_the_logits_is_allocated(make):
    logits = make(np.zeros((8192, 4096), np.float32))
    out, labels = np.empty((8192, 4096), np.float32), np.zeros(8192, int)
    calls = [
        lambda: fastce.row_stats(logits, labels),
        lambda: fastce.cross_entropy_value_and_grad(logits, labels, out=out, n_threads=2),
        lambda: fastce.softmax(logits, axis=1, out=out, n_threads=2),
    ]
    for call in calls:
        call()
        assert allocated(call) < logits.nbytes // 2


@pytest.mark.parametrize(
    ("array", "strides"),
    [
        (np.zeros((4, 3), np.float32, order="F"), (4, 16)),
        (np.zeros((8, 3), np.float32)[::-2], (12, 4)),
        (np.broadcast_to(np.zeros(3, np.float32), (4, 3)), (12, 4)),
        (np.broadcast_to(np.zeros((4, 1), np.float32), (4, 3)), (12, 4)),
        (np.zeros((2, 3, 4), np.float32).transpose(1, 2, 0), (16, 4, 48)),
    ],
)
def test_new_arrays_are_dense_and_in_the_order_of_memory(array, strides):
    assert new_like(array, array.dtype).strides == strides


@pytest.mark.parametrize("classes", [1, 5])
def test_short_rows_in_many_blocks_are_written_into_any_out(rng, classes):
    logits = rng.normal(size=(7, 100_000 // classes, classes)).astype(np.float32)
    plain = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, _half(logits))
    for out in (np.empty((14, *logits.shape[1:]), np.float32)[::2], np.empty_like(logits, order="F")[:, ::-1]):
        ours = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, _half(logits), out=out)
        assert ours.grad is out
        assert same_bits(out, plain.grad)


def _in_order(x, order):
    return x.transpose(order).copy().transpose(np.argsort(order))


@covering(
    {
        "order": list(permutations(range(3))),
        "out_order": list(permutations(range(3))),
        "case": [((30, 188, 128), 2), ((40, 250, 1200), 1), ((9, 64, 3000), 1), ((10, 400, 300), 0), ((7, 5, 301), 2)],
        "dtype": [np.float32, np.float64, np.float16],
        "option": ["plain", "smoothing", "probabilities", "weights", "cap", "extreme"],
    },
    quick=1,
)
def test_values_have_the_same_bits_however_logits_and_out_lie(rng, option, dtype, case, out_order, order):
    """Losses of up to 256 classes; of more, those of twins. They are summed in parts, which shape alone decides."""
    shape, axis = case
    lead = shape[:axis] + shape[axis + 1 :]
    plain, labels = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[axis], lead)
    weights = {"weight": rng.random(shape[axis]), "sample_weight": rng.random(lead)}
    options = {
        "smoothing": {"label_smoothing": 0.1}, "weights": weights, "cap": {"softcap": 30.0}, "extreme": {"z_loss": 1e10}
    }.get(option, {})  # fmt: skip
    targets = rng.random(shape, np.float32) if option == "probabilities" else labels
    logits, options = _in_order(plain, order), {"axis": axis, "reduction": "sum", **options}
    expected = fastce.cross_entropy(logits, targets, **options)
    if shape[axis] <= 256:
        assert fastce.cross_entropy(plain, targets, **options) == expected
    for grad_output in (1.0, 1e-300):
        out = _in_order(np.empty(shape, dtype), out_order)
        twin = fastce.cross_entropy_value_and_grad(logits, targets, out=out, grad_output=grad_output, **options)
        assert twin.value == expected
    for room in (None, out):
        twin = fastce.cross_entropy_value_and_grad_logit_scale(logits, targets, out=room, **options)
        assert twin.value == expected
    replaced = logits.copy(order="K")
    assert fastce.cross_entropy_value_and_grad(replaced, targets, out=replaced, **options).value == expected


@covering(
    {
        "order": list(permutations(range(3))),
        "case": [((30, 188, 128), 2), ((9, 64, 3000), 1), ((188, 1, 17), 1), ((400, 3, 300), 0)],
        "dtype": [np.float32, np.float64, np.float16],
        "weighted": [(), ("weight",), ("weight", "sample_weight")],
    },
    quick=1,
)
def test_nll_loss_has_the_same_bits_however_it_is_computed(rng, weighted, dtype, case, order):
    shape, axis = case
    lead = shape[:axis] + shape[axis + 1 :]
    plain, labels = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[axis], lead)
    weights = {"weight": rng.random(shape[axis]), "sample_weight": rng.random(lead)}
    options = {"axis": axis, "reduction": "sum"} | {name: weights[name] for name in weighted}
    expected, ours = fastce.nll_loss(plain, labels, **options), _in_order(plain, order)
    assert fastce.nll_loss(ours, labels, **options) == expected
    assert fastce.nll_loss_value_and_grad(ours, labels, grad_output=1e-300, **options).value == expected
    assert fastce.nll_loss_value_and_grad(ours, labels, out=ours, **options).value == expected


@covering(
    {
        "place": [lambda x: x.astype(x.dtype.newbyteorder()), _misaligned],
        "dtype": [np.float32, np.float64, np.float16],
        "shape": [(40_000, 10), (9, 700), (7, 5, 300)],
        "ignored": [-100, 3],
    }
)
def test_nll_loss_of_what_no_kernel_reads_has_the_same_bits(rng, ignored, shape, dtype, place):
    x, labels = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[1], (shape[0], *shape[2:]))
    options = {"weight": rng.random(shape[1]), "ignore_index": ignored}
    for reduction in ("sum", "none"):
        plain, other = (
            fastce.nll_loss_value_and_grad(a, labels, reduction=reduction, **options) for a in (x, place(x))
        )
        np.testing.assert_array_equal(other.value, plain.value)
        np.testing.assert_array_equal(other.grad, plain.grad)
        np.testing.assert_array_equal(fastce.nll_loss(place(x), labels, reduction=reduction, **options), plain.value)
