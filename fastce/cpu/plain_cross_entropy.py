"""Plain calls of cross_entropy; see plain.py. What is decided about their options is remembered."""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import reduction_of
from fastce.arguments.options import PLAIN_OPTIONS, checked_options
from fastce.arguments.out import handed_over
from fastce.arguments.reductions import factor_of_rows
from fastce.arguments.words import asked
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.cross_entropy import cross_entropy_rows
from fastce.cpu._kernels.hard_columns import kernel_of_columns, plain_losses
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Options
from fastce.cpu.along_rows import exps_kept
from fastce.cpu.class_indices import are_classes
from fastce.cpu.extremes import are_in_range
from fastce.cpu.layout import goes_past_cache
from fastce.cpu.plain import (
    INT64,
    NATIVE,
    OF_PYTHON,
    READY,
    SMALL,
    Scratch,
    any_misfit,
    cube_of,
    in_runs,
    is_number_of_threads,
    is_one_run,
    lies_plainly,
    put_back,
    room_for,
    scratch_for,
    value_of,
)
from fastce.cpu.plain_columns import Given, losses_in_columns
from fastce.cpu.rooms import Room
from fastce.cpu.targets import no_column_masses, no_row_masses
from fastce.cpu.threads import for_each
from fastce.typing import ValueAndGrad

MANY_ROWS = 2048  # to look for those that are out of range takes less time than to compute them all for nothing

_DEFAULTS = {**PLAIN_OPTIONS, "axis": None, "reduction": "mean", "n_threads": None}
_ARRAYS = frozenset({"weight", "sample_weight", "out"})
_NO_OPTIONS: tuple[tuple[str, ...], tuple[Any, ...], tuple[type, ...]] = (), (), ()

# of rows, targets, weights of rows, what is above, the gradient, and where losses and misfits go; False for misfits
_Compute = Callable[[Array, Array, Array | None, Array, Array | None, Scratch], bool]


class _Plan(NamedTuple):
    """How calls of the same dtype, classes and options are computed."""

    in_columns: bool
    compute: _Compute | None  # of a matrix of rows and class indices without weights; None if they have no such way
    options: Options
    ignored_class: int
    is_a_class: bool  # what is ignored
    reduction: str


def plain_cross_entropy(args: tuple[Any, ...], named: dict[str, Any], *, with_gradient: bool) -> Any:
    """What cross_entropy returns for a matrix of logits and class indices, or its twin; or None."""
    if len(args) != 2:
        args, named = _logits_and_targets(args, named)
        if len(args) != 2:
            return None
    (logits, targets), out, weight, sample_weight, axis = args, None, None, None, 1
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray or logits.ndim < 2 or not logits.size:
        return None
    names, options, types = _NO_OPTIONS
    if named:
        if not named.keys().isdisjoint(_ARRAYS):
            named = named.copy()
            weight, sample_weight = named.pop("weight", None), named.pop("sample_weight", None)
            out = named.pop("out", None) if with_gradient else None
        names, options = tuple(named), tuple(named.values())
        types = tuple(map(type, options))
        if not OF_PYTHON.issuperset(types):
            return None
        given_axis = named.get("axis")
        if given_axis is not None:
            if type(given_axis) is not int or not -logits.ndim <= given_axis < logits.ndim:
                return None
            axis = given_axis % logits.ndim
    classes = logits.shape[axis]
    is_usual = weight is None and sample_weight is None and axis == 1 and logits.ndim == 2 and targets.ndim == 1
    if classes > NARROW and not is_usual:
        return None
    plan = _plan_of(logits.dtype, classes, with_gradient, names, options, types)
    if plan is None:
        return None
    if not is_usual or plan.compute is None or not lies_plainly(logits, classes):
        given = Given(targets, weight, sample_weight)
        return _in_columns(plan, logits, axis, given, out, with_gradient=with_gradient) if plan.in_columns else None
    if targets.shape != logits.shape[:1]:
        return None
    if targets.dtype is not INT64 or targets.flags.num & READY != READY:
        if targets.dtype.kind not in "iu" or targets.dtype.str[1:] == "u8":  # of which int64 does not hold all
            return None
        targets = targets.astype(np.int64)
    gradient = None
    if with_gradient:
        # the kernel of few classes writes before it has seen all indices
        gradient = np.empty(logits.shape, logits.dtype) if plan.in_columns else room_for(logits, out, targets)
        if gradient is None:
            return None
    found = _losses(plan, logits, targets, gradient)
    if found is None:
        return None
    scratch, counted = found
    value = _value(scratch, plan.reduction, float(counted), logits, logits.shape[:1])
    if gradient is None:
        return value
    return ValueAndGrad(value, gradient if out is None else handed_over(gradient, out, logits, [targets]))


def _in_columns(
    plan: _Plan, logits: Array, axis: int, given: Given, out: Any, *, with_gradient: bool
) -> ValueAndGrad | Any:
    """The same of what else is read as it lies."""
    _, _, options, ignored_class, _, reduction = plan
    found = losses_in_columns(logits, axis, given, options, ignored_class, reduction, with_gradient=with_gradient)
    if found is None:
        return None
    scratch, total_weight, gradient = found
    value = _value(scratch, reduction, total_weight, logits, logits.shape[:axis] + logits.shape[axis + 1 :])
    return value if gradient is None else ValueAndGrad(value, handed_over(gradient, out, logits, [*given]))


def _value(scratch: Scratch, reduction: str, total_weight: float, logits: Array, lead: tuple[int, ...]) -> Any:
    """What the reduction asks for of these losses."""
    value = value_of(scratch.losses, reduction, total_weight, logits.dtype)
    if reduction == "none":
        return value.reshape(lead)
    put_back(scratch)
    return value


plain_value: Callable[..., Any] = partial(plain_cross_entropy, with_gradient=False)
plain_value_and_grad: Callable[..., Any] = partial(plain_cross_entropy, with_gradient=True)


def _logits_and_targets(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The two in their places, and the options by name; whatever is not understood stays as it is."""
    rest = named.copy()
    return (*args, *(rest.pop(name) for name in ("logits", "targets")[len(args) :] if name in rest)), rest


def _losses(plan: _Plan, logits: Array, targets: Array, gradient: Array | None) -> tuple[Scratch, int] | None:
    """The losses of rows, in the scratch, and how many of them count; None if that is left to the usual way."""
    _, compute, _, ignored_class, is_a_class, reduction = plan
    assert compute is not None
    count = len(targets)
    scratch = scratch_for(count)
    if not is_a_class and compute(logits, targets, None, _upstream(count, reduction), gradient, scratch):
        return scratch, count
    targets, row_weight, counted = _without_ignored(targets, ignored_class)
    if counted == count and not is_a_class:
        return None
    scratch = scratch_for(count)  # a misfit may be in the other
    is_done = compute(logits, targets, row_weight, _upstream(counted, reduction), gradient, scratch)
    return (scratch, counted) if is_done else None


def _without_ignored(targets: Array, ignored_class: int) -> tuple[Array, Array | None, int]:
    """Class indices with 0 where a row is ignored, the weights of rows, 0 there, and how many rows are left."""
    ignored = targets == ignored_class
    number = int(np.count_nonzero(ignored))
    if number == 0:
        return targets, None, len(targets)
    return np.where(ignored, 0, targets), np.where(ignored, 0.0, 1.0), len(targets) - number


@functools.lru_cache(256)
def _plan_of(
    dtype: np.dtype[Any], classes: int, with_gradient: bool, names: tuple[str, ...], options: tuple[Any, ...],
    types: tuple[type, ...],
) -> _Plan | None:  # fmt: skip
    """How such rows are computed; None if options are wrong, or leave something to decide.

    The types tell 1 from 1.0, which are equal.
    """
    given = _DEFAULTS | dict(zip(names, options, strict=True))
    if not _are_plain(given, with_gradient) or classes < 2 or dtype not in NATIVE:
        return None
    checked, least = asked(_checked, (classes, given)), -math.log2(SMALL)  # the power of two of 1 / count
    if checked is None or not are_in_range(checked, dtype.itemsize, least, 0.0):
        return None
    in_columns = classes <= NARROW
    compute: _Compute | None = None
    if checked.softcap > 0.0 and dtype.itemsize < 8:  # computed in float64
        if not in_columns:
            return None
    elif not in_columns:
        compute = _along_rows(dtype, classes, checked, given["n_threads"])
    else:
        compute = _of_columns(dtype, classes, checked, with_gradient)
    ignored_class = given["ignore_index"]
    return _Plan(in_columns, compute, checked, ignored_class, 0 <= ignored_class < classes, given["reduction"])


def _are_plain(given: dict[str, Any], with_gradient: bool) -> bool:
    """Whether these are names that the function has, without weights, and integers where it wants them."""
    of_function = _DEFAULTS.keys() | ({"grad_output"} if with_gradient else set())
    return (
        given.keys() <= of_function
        and all(given.get(name) is None for name in ("weight", "sample_weight", "grad_output"))
        and type(given["ignore_index"]) is int
        and is_number_of_threads(given["n_threads"])
    )


def _checked(about: tuple[int, dict[str, Any]]) -> Options:
    classes, given = about
    reduction_of(given["reduction"])
    names = "label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss"
    return Options(*checked_options(classes, *(given[name] for name in names)))


@functools.lru_cache(256)
def _upstream(count: int, reduction: str) -> Array:
    """What the gradients of so many rows are multiplied by."""
    return np.array([[factor_of_rows(reduction, float(count))]])


def _of_columns(dtype: np.dtype[Any], classes: int, options: Options, with_gradient: bool) -> _Compute:
    """For few classes. An index that is out of range makes a misfit."""
    plain, weighted = (kernel_of_columns(classes, options, True, with_gradient, is_plain) for is_plain in (True, False))
    none, no_products, narrow = np.empty((0, 0, 0), dtype), np.empty((0, 0)), Narrow(True, False, with_gradient)
    no_masses, no_class_weight, no_row_weight = no_column_masses(dtype)
    is_lean = plain is plain_losses

    def compute(
        rows: Array, targets: Array, row_weight: Array | None, upstream: Array, gradient: Array | None, scratch: Scratch
    ) -> bool:
        _, misfits, of_columns = scratch
        kernel, weight = plain.if_compiled(dtype), no_row_weight
        if row_weight is not None:
            kernel, weight = weighted.compiled(dtype), row_weight[None]
        elif kernel is None or len(rows) >= MANY_ROWS:
            if not are_classes(targets, classes):
                return False  # not to wait for a kernel that will not do
            kernel = plain.compiled(dtype)
        cube, indices = cube_of(rows), targets[None]
        if is_lean and row_weight is None:
            kernel(cube, indices, options, *of_columns)
        else:
            # A plain tuple of targets: one with names takes time to make, and kernels do not ask for these.
            points = indices, no_masses, no_class_weight, weight, math.nan
            out = none if gradient is None else cube_of(gradient)
            kernel(cube, cube, narrow, points, options, *of_columns, upstream, no_products, out, False)
        return not any_misfit(misfits)

    return compute


def _along_rows(dtype: np.dtype[Any], classes: int, options: Options, n_threads: int | None) -> _Compute:
    """For many classes. The kernel reads what an index says: it gets a copy, which no other thread changes."""
    kernel, kept = cross_entropy_rows.compiled(dtype), exps_kept(classes, dtype)
    none, no_exps, no_products = np.empty((0, 0), dtype), np.empty(0, dtype), np.empty(0)
    no_points, no_masses, no_probabilities, no_weight = no_row_masses(dtype)

    def call(
        room_of: Callable[..., Array], above: Array, past_cache: bool, block: Array, classes: Array, weight: Array,
        losses: Array, misfits: Array, out: Array,
    ) -> None:  # fmt: skip
        points = no_points, classes, no_masses, no_probabilities, no_weight, weight
        exps = room_of((kept,), dtype) if len(out) else no_exps
        kernel(block, points, options, losses, misfits, above, no_products, out, exps, past_cache)

    def compute(
        rows: Array, targets: Array, row_weight: Array | None, upstream: Array, gradient: Array | None, scratch: Scratch
    ) -> bool:
        targets, (losses, misfits, _) = targets.copy(), scratch
        if not are_classes(targets, classes):
            return False
        out, weight = none if gradient is None else gradient, no_masses if row_weight is None else row_weight
        given, above = (rows, targets, weight, losses, misfits, out), upstream[0]
        if is_one_run(rows):
            call(np.empty, above, False, *given)
        else:
            room_of = np.empty if gradient is None else Room().of
            past_cache = goes_past_cache(out)
            for_each([(room_of, above, past_cache, *run) for run in in_runs(given, n_threads)], call, n_threads)
        return not any_misfit(misfits)

    return compute
