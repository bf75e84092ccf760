"""Calls on a device checked against the formulas in a wider dtype, and against fastce on the CPU."""

import itertools
import random

import checks
import naive
import numpy as np
import scipy.sparse
from checks import dtype_of

import fastce

ULPS_OF_LOGSUMEXP = 2  # on a device

UNTOUCHED = 77.0


def computed(logits):
    """The logits as they count: integers and booleans are float64."""
    is_float = logits.dtype.kind == "f" or logits.dtype.name == "bfloat16"
    return logits if is_float else logits.astype(np.float64)


def same_kind(actual, expected):
    """Both finite, or the same infinity, or NaN."""
    actual, expected = (np.asarray(array).astype(np.float64) for array in (actual, expected))
    both = np.isfinite(actual) & np.isfinite(expected)
    return np.array_equal(np.where(both, 0.0, actual), np.where(both, 0.0, expected), equal_nan=True)


# -------------------------------------------------------------------------------------------------- calls
def call(device, logits, targets, *, out=None, function="cross_entropy_value_and_grad", **options):
    """The result on the host; `out` is a NumPy array, whose counterpart on the device is given and checked."""
    logits_there = device.to_device(logits)
    there = {
        name: device.to_device(value) if isinstance(value, np.ndarray) else value for name, value in options.items()
    }
    if out is not None:
        there["out"] = logits_there if out is logits else device.to_device(out)
    try:
        result = getattr(fastce, function)(logits_there, device.targets(targets), **there)
    finally:
        if out is not None and device.has_own_memory:
            out[...] = device.to_host(there["out"])
    value = result[0] if isinstance(result, tuple) else result
    if options.get("reduction", "mean") == "none":
        assert device.is_theirs(value)
        value = device.to_host(value)
    if not isinstance(result, tuple):
        return value
    assert device.is_theirs(result.grad)
    assert out is None or result.grad is there["out"]
    return fastce.cross_entropy_value_and_grad(np.zeros((1, 1)), np.zeros(1, int))._replace(
        value=value, grad=device.to_host(result.grad)
    )


def check(device, logits, targets, *, reduction="mean", grad_output=1.0, out=None, with_cpu=True, **options):
    """cross_entropy and cross_entropy_value_and_grad on a device are right to the contract; gives the latter's result.

    out: None, "new", "strided" or "in place".
    """
    plain = computed(logits)
    before, dtype = np.array(plain), plain.dtype
    exact = naive.CrossEntropy(before, targets, **options)
    options["reduction"] = reduction
    value = call(device, logits, targets, function="cross_entropy", **options)
    room, all_of_room = room_for(out, plain)
    ours = call(device, logits, targets, grad_output=grad_output, out=room, **options)
    for one in (value, ours.value):
        checks.assert_losses(one, exact, dtype, reduction, options)
    checks.assert_gradient(ours.grad, exact, dtype, reduction, grad_output, options)
    assert ours.grad.shape == logits.shape
    if with_cpu:
        cpu = fastce.cross_entropy_value_and_grad(before, targets, grad_output=grad_output, **options)
        assert same_kind(ours.value, cpu.value)
        assert same_kind(ours.grad, cpu.grad)
    if out != "in place":
        assert np.array(computed(logits)).tobytes() == before.tobytes(), "the input was written to"
    if all_of_room is not None:
        assert (all_of_room[..., 1::2] == UNTOUCHED).all(), "what lies between the elements of out was written to"
    return ours


def room_for(out, logits):
    """(out, an array whose every other element along the last axis is not out's, or None)."""
    if out == "in place":
        return logits, None
    if out == "strided":
        memory = np.full((*logits.shape[:-1], 2 * logits.shape[-1]), UNTOUCHED, logits.dtype)
        return memory[..., ::2], memory
    return (np.full(logits.shape, UNTOUCHED, logits.dtype) if out == "new" else None), None


def check_special(device, name, x, axis, out=None):
    """logsumexp, softmax or log_softmax is SciPy's formula in a wider dtype, on a device."""
    plain = computed(x)
    before = np.array(plain)
    x_there = device.to_device(x)
    options = {}
    room = room_for(out, plain)[0] if name != "logsumexp" else None
    if room is not None:
        options["out"] = x_there if out == "in place" else device.to_device(room)
    result = getattr(fastce, name)(x_there, axis=axis, **options)
    assert device.is_theirs(result)
    assert room is None or result is options["out"]
    host = device.to_host(result)
    checks.assert_as_scipy(name, host, before, axis, ulps=ULPS_OF_LOGSUMEXP if name == "logsumexp" else None)
    cpu = getattr(fastce, name)(before, axis=axis)
    assert same_kind(host, cpu)
    return host


# ------------------------------------------------------------------------------------------------- layouts
def three_axes(shape):
    """Shapes whose first axis counts twice in rows."""
    return lambda n, c, dtype: np.empty(tuple({"n": n, "c": c, "2": 2}[axis] for axis in shape), dtype)


def misaligned(n, c, dtype):
    return np.empty(n * c + 1, dtype)[1:].reshape(n, c)


def without_single_step(n, c, dtype):
    return np.empty((2, n + 1, c), dtype)[:, :n]


# An array of undefined elements, and its class axis.
LAYOUTS = {
    "plain": (lambda n, c, dtype: np.empty((n, c), dtype), None),
    "classes first": (lambda n, c, dtype: np.empty((c, n), dtype), 0),
    "classes in the middle": (three_axes("2cn"), 1),
    "three axes": (three_axes("2nc"), -1),
    "transposed": (lambda n, c, dtype: np.empty((c, n), dtype).T, 1),
    "rows backwards": (lambda n, c, dtype: np.empty((n, c), dtype)[::-1], 1),
    "classes backwards": (lambda n, c, dtype: np.empty((n, c), dtype)[:, ::-1], 1),
    "every other row": (lambda n, c, dtype: np.empty((2 * n, c), dtype)[::2], -1),
    "every other class": (lambda n, c, dtype: np.empty((n, 2 * c), dtype)[:, ::2], -1),
    "columns of wider rows": (lambda n, c, dtype: np.empty((n, c + 5), dtype)[:, 2 : 2 + c], 1),
    "misaligned": (misaligned, 1),
    "one row repeated": (lambda n, c, dtype: np.broadcast_to(np.empty(c, dtype), (n, c)), 1),
    "no single step": (without_single_step, -1),
}


def filled(layout, values, n, c, dtype):
    """(logits, axis): an array of this layout, filled by values(shape)."""
    make, axis = LAYOUTS[layout]
    logits = make(n, c, dtype)
    if layout == "one row repeated":
        logits = np.broadcast_to(values((c,)).astype(dtype), (n, c))
    else:
        logits[...] = values(logits.shape).astype(dtype)
    return logits, axis


# ------------------------------------------------------------------------------------------------- targets
INTEGERS = ["int64", "int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"]


def targets_of(kind, rng, shape, axis, dtype):
    """Targets for logits of this shape: an integer dtype, "probabilities", "other probabilities" or "sparse"."""
    moved = list(shape)
    classes = moved.pop(axis)
    if kind in INTEGERS:
        return rng.integers(0, min(classes, np.iinfo(kind).max + 1), moved).astype(kind)
    if kind == "sparse":
        rows = int(np.prod(moved))
        dense = rng.random((rows, classes)) * (rng.random((rows, classes)) < min(1.0, 3 / classes))
        return scipy.sparse.csr_array(dense.astype(np.float32))
    probabilities = rng.random(shape) * (rng.random(shape) < 0.7)
    own = dtype if dtype.kind == "f" or dtype.name == "bfloat16" else np.dtype(np.float64)
    other = np.dtype(np.float64) if own.itemsize < 8 else np.dtype(np.float32)
    return probabilities.astype(other if kind == "other probabilities" else own)


# ---------------------------------------------------------------------------------------------- all pairs
def pairwise(**factors):
    """Cases in which every value of a factor meets every value of each other one; the same ones in every run.

    A tuple is of values that take the same way: it counts as one value, for which they stand in turn.
    """
    names, shuffled = list(factors), random.Random(20240229)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in factors[a] for y in factors[b]}
    cases = []
    while missing:
        first = min(missing, key=repr)
        best = max((_case(factors, first, shuffled) for _ in range(30)), key=lambda case: len(missing & _pairs(case)))
        missing -= _pairs(best)
        cases.append(best)
    members = {group: itertools.cycle(group) for values in factors.values() for group in values if type(group) is tuple}
    return [{name: next(members.get(value, iter([value]))) for name, value in case.items()} for case in cases]


def _case(factors, first, shuffled):
    return {name: shuffled.choice(values) for name, values in factors.items()} | dict(first)


def _pairs(case):
    return set(itertools.combinations(case.items(), 2))


def of_dtype(name):
    return np.dtype(name) if name in ("int32", "bool") else dtype_of(name)
