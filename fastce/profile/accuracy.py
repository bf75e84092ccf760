"""The largest error of a result in sampled rows, and that of the mean, in units of its precision."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastce.profile.problem import Array
from fastce.profile.reference import Reference
from fastce.profile.work import Work

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
_LARGEST = {  # of a result that is right: absolute, of gradients before the division by the number of rows
    "float64": 1e-9,
    "float32": 2e-3,
    "float16": 5e-2,
    "bfloat16": 4e-1,
}


class WrongResultError(Exception):
    """A result is not what it should be."""


@dataclass(frozen=True)
class Error:
    """The largest deviation of a result.

    Attributes
    ----------
    absolute : float
        The largest absolute difference; of gradients, before the division by the number of losses.
    units : float
        The largest difference in `unit`.
    unit : str
        "eps", that of the dtype of the matrix, for gradients, Hessians and softmax; else "ulp", units in the last place
        of what is expected: in the dtype of the matrix for logsumexp and log_softmax, and at least float32 for losses.
    """

    absolute: float
    units: float
    unit: str


def errors(reference: Reference, work: Work, found: dict[str, Any]) -> dict[str, Error]:
    """The errors of a result: "rows", the largest in the sampled rows, and "mean", that of the mean loss."""
    job, of_rows, known = work.job, [], {}
    is_up_to_one = job.function == "softmax" or job.function.endswith(("_grad", "_hess"))
    is_as_wide = is_up_to_one or job.function in ("logsumexp", "log_softmax")
    of_losses = "float64" if job.dtype == "float64" else "float32"
    for name, values in found.items():
        actual, right = reference.pair(job, name, values, of_sum=work.gradient_of_sum)
        if name == "value":
            known["mean"] = _error(actual, right, of_losses, "ulp")
        else:
            dtype, unit = job.dtype if is_as_wide else of_losses, "eps" if is_up_to_one else "ulp"
            of_rows.append(_error(actual, right, dtype, unit))
    worst = max(of_rows, key=lambda error: np.nan_to_num(error.units, nan=np.inf))  # in its own units; NaN is the worst
    return {"rows": worst} | known


def check(reference: Reference, work: Work, found: dict[str, Any]) -> dict[str, float]:
    """The largest absolute error of each part of a result; raises `WrongResultError` where one is too large.

    Numbers of rows are checked in all rows, results of the shape of the logits in the sample.
    """
    job, known = work.job, {}
    for name, values in found.items():
        pair = reference.pair(job, name, values, of_sum=work.gradient_of_sum, everywhere=True)
        known[name] = float(_differences(*pair).max(initial=0.0))
        if not known[name] <= _LARGEST[job.dtype]:
            raise WrongResultError(f"{name} of {job.name} is off by {known[name]:.3g}")
    return known


def last_place(numbers: Array, dtype: str) -> Array:
    """The unit in the last place of each number."""
    return np.asarray(np.maximum(np.ldexp(EPS[dtype], np.frexp(numbers)[1] - 1), _SMALLEST[dtype]))


def _error(actual: Array, expected: Array, dtype: str, unit: str) -> Error:
    differences, size = _differences(actual, expected), np.array(EPS[dtype])
    with np.errstate(all="ignore"):
        if expected.dtype.kind == "i":  # an index is right, or infinitely wrong
            size = np.array(0.0)
        elif unit == "ulp":
            size = last_place(expected, dtype)
        units = np.where(differences == 0, 0, differences / size)
    return Error(float(differences.max(initial=0.0)), float(units.max(initial=0.0)), unit)


def _differences(actual: Array, expected: Array) -> Array:
    """Absolute differences; equal infinities differ by nothing, nor does NaN from NaN."""
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.where(same, 0, np.abs(actual.astype(np.longdouble) - expected))
