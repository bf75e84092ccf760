"""Plain calls of cross_entropy; see plain.py. How calls that look alike are computed is found out once."""

import functools
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import reduction_of
from fastce.arguments.options import PLAIN_OPTIONS, checked_options
from fastce.arguments.out import handed_over
from fastce.arguments.words import asked
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.targets import Options
from fastce.cpu.plain import (
    IN_ORDER,
    NATIVE,
    OF_PYTHON,
    Decided,
    is_number_of_threads,
    put_back,
    remember,
    remembered,
    value_of,
)
from fastce.cpu.plain_columns import PlainColumns, columns_like
from fastce.cpu.plain_rows import PlainRows, rows_like
from fastce.typing import ValueAndGrad

_DEFAULTS = {**PLAIN_OPTIONS, "axis": None, "reduction": "mean", "n_threads": None}
_ARRAYS = frozenset({"weight", "sample_weight", "out"})
_Look = tuple[tuple[str, ...], tuple[Any, ...], tuple[type, ...]]  # of options: names, values, types
_NO_OPTIONS: _Look = (), (), ()

_Plan = PlainColumns | PlainRows | None


def plain_cross_entropy(args: tuple[Any, ...], named: dict[str, Any], *, with_gradient: bool) -> Any:
    """What cross_entropy returns for plain arguments, or its twin; or None."""
    if len(args) != 2:
        args, named = _logits_and_targets(args, named)
        if len(args) != 2:
            return None
    logits, targets = args
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    out, weights, of_weights = None, (None, None), None
    options: _Look = _NO_OPTIONS
    if named:
        if not named.keys().isdisjoint(_ARRAYS):
            named = named.copy()
            weights = named.pop("weight", None), named.pop("sample_weight", None)
            out = named.pop("out", None) if with_gradient else None
            of_weights = _look_of(*weights)
        options = tuple(named), tuple(named.values()), tuple(map(type, named.values()))
        if not OF_PYTHON.issuperset(options[2]):
            return None
    of_logits, of_targets = logits.flags.num, targets.flags.num
    key = (
        logits.dtype, logits.shape, of_logits, None if of_logits & IN_ORDER else logits.strides,
        targets.dtype, targets.shape, of_targets, None if of_targets & IN_ORDER else targets.strides,
        with_gradient, options, of_weights,
    )  # fmt: skip
    try:
        plan: _Plan = remembered[key]
    except KeyError:
        plan = remember(key, _plan_for(logits, targets, weights, options, with_gradient=with_gradient))
    found = None if plan is None else plan.found(logits, targets, weights[1], out)
    if plan is None or found is None:
        return None
    scratch, total_weight, gradient = found
    value = value_of(scratch.losses, plan.reduction, total_weight, logits.dtype)
    if plan.reduction == "none":
        value = value.reshape(plan.lead)
    else:
        put_back(scratch)
    if gradient is None:
        return value
    return ValueAndGrad(value, gradient if out is None else handed_over(gradient, out, logits, [targets, *weights]))


def _look_of(weight: Any, sample_weight: Any) -> tuple[Any, ...]:
    """What calls have in common: dtypes and shapes; of few class weights the values, too, which are seldom others."""
    look: tuple[Any, ...] = type(weight), type(sample_weight)
    if type(weight) is np.ndarray:
        look = *look, weight.dtype, weight.shape, weight.tobytes() if weight.size <= NARROW else None
    if type(sample_weight) is np.ndarray:
        look = *look, sample_weight.dtype, sample_weight.shape
    return look


def plain_value(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The value of cross_entropy, or None."""
    return plain_cross_entropy(args, named, with_gradient=False)


def plain_value_and_grad(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The same of its twin."""
    return plain_cross_entropy(args, named, with_gradient=True)


def _logits_and_targets(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The two in their places, and the options by name; whatever is not understood stays as it is."""
    rest = named.copy()
    return (*args, *(rest.pop(name) for name in ("logits", "targets")[len(args) :] if name in rest)), rest


def _plan_for(logits: Array, targets: Array, weights: tuple[Any, Any], options: _Look, *, with_gradient: bool) -> _Plan:
    """How calls that look as this one are computed; None if options are wrong, or leave something to decide."""
    if logits.ndim < 2 or not logits.size or logits.dtype not in NATIVE:
        return None
    names, values, _ = options
    axis = dict(zip(names, values, strict=True)).get("axis")
    axis = 1 if axis is None else axis
    if type(axis) is not int or not -logits.ndim <= axis < logits.ndim:
        return None
    axis %= logits.ndim
    classes = logits.shape[axis]
    decided = _decided(classes, with_gradient, *options) if classes > 1 else None
    if decided is None:
        return None
    if classes <= NARROW:
        return columns_like(decided, logits, targets, axis, weights, with_gradient=with_gradient)
    is_matrix = logits.ndim == 2 and axis == 1 and all(weight is None for weight in weights)
    return rows_like(decided, logits, targets, with_gradient=with_gradient) if is_matrix else None


@functools.lru_cache(256)
def _decided(
    classes: int, with_gradient: bool, names: tuple[str, ...], values: tuple[Any, ...], _: tuple[type, ...]
) -> Decided | None:
    """What options come to; None if they are wrong. The types tell 1 from 1.0, which are equal."""
    given = _DEFAULTS | dict(zip(names, values, strict=True))
    checked = asked(_checked, (classes, given)) if _are_plain(given, with_gradient) else None
    if checked is None:
        return None
    return Decided(checked, given["ignore_index"], given["reduction"], given["n_threads"])


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
