"""Temperature scaling: the one number that calibrates a classifier."""

import math
from functools import cache
from typing import Any, NamedTuple

from scipy.optimize import brentq

from fastce.engine import by_engine
from fastce.losses.logit_scale import cross_entropy_value_and_grad_logit_scale
from fastce.typing import AnyArray, Index, ValueAndGradLogitScale

_STEP = 8.0  # from one scale that is tried to the next, until the least loss lies between two
_RANGE = 2.0**60  # of scales, relative to 1


class Calibration(NamedTuple):
    """The temperature of least loss, and that loss beside the one before."""

    temperature: float
    value: float
    value_before: float


@by_engine
def calibrate_temperature(
    logits: AnyArray,
    targets: AnyArray,
    *,
    axis: Index | None = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    n_threads: int | None = None,
) -> Calibration:
    """Find the temperature that logits must be divided by for their cross entropy to be least.

    Parameters
    ----------
    logits, targets, axis, sample_weight, ignore_index, n_threads
        As in `cross_entropy`: logits of examples that the classifier has not been trained on, and what is right for
        them. Sample weights must not be negative.

    Returns
    -------
    Calibration
        ``temperature``: above 1 for a classifier that is too sure of itself. ``value``: the mean loss of
        ``logits / temperature``; ``value_before``: that of the logits. Where no temperature is best, it is the end that
        the loss falls towards: 0.0 if the target is everywhere the largest logit, infinity if logits say less than
        none; ``value`` is the loss near there.

    Raises
    ------
    ValueError
        If no row counts, or the loss is not finite.
    IndexError, TypeError
        As in `cross_entropy`.

    Notes
    -----
    The loss is convex in the scale 1 / temperature. A root of its derivative is bracketed in steps of 8 and found by
    Brent's method [2]_; each step reads the logits once. Accuracy does not change: the largest logit stays the largest.

    References
    ----------
    .. [1] C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    .. [2] R. P. Brent, "Algorithms for Minimization Without Derivatives", 1973.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])  # sure of class 0, which is right in three
    >>> fastce.calibrate_temperature(logits, [0, 0, 0, 1]).temperature  # 4 / log(3)
    3.6409569
    """

    @cache  # both ends are asked for again
    def at(scale: float) -> ValueAndGradLogitScale[float]:
        return cross_entropy_value_and_grad_logit_scale(
            logits, targets, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index, logit_scale=scale,
            n_threads=n_threads,
        )  # fmt: skip

    def slope(scale: float) -> float:
        return at(scale).grad_logit_scale

    before = at(1.0).value
    if not math.isfinite(before):
        raise ValueError(
            f"the loss of logits and targets must be finite for some temperature to be best, got {before}: no row "
            "counts (ignore_index, sample_weight), or a logit is not finite where it matters"
        )
    low = high = 1.0
    while slope(low) > 0.0 and low > 1.0 / _RANGE:
        low, high = low / _STEP, low
    while slope(high) < 0.0 and high < _RANGE:
        low, high = high, high * _STEP
    if slope(low) > 0.0:
        return Calibration(math.inf, at(low).value, before)
    if slope(high) < 0.0 or at(high).value == 0.0:  # where it is 0 the slope has come to 0, too
        return Calibration(0.0, at(high).value, before)
    scale = brentq(slope, low, high, xtol=1e-15 * low, rtol=1e-14)
    return Calibration(1.0 / scale, at(scale).value, before)
