"""What a kernel is compiled for, and what it is told at each launch."""

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

NO_MASS, SPREAD, CLASS_WEIGHTS, PROBABILITIES = range(4)  # what every class has of the target, beside its points
NO_TARGETS, CLASS_INDICES, SPARSE = range(3)  # where the points come from
LOGSUMEXP, SOFTMAX, LOG_SOFTMAX, CROSS_ENTROPY = range(4)

WHOLE, STATES_ONLY, KNOWN_STATES = range(3)  # stages of a launch on parts of rows

# what kernels report to the host, in float64: it reads this once, at the end of a call
BAD_TARGET, BAD_STRUCTURE, BAD_MASS, BAD_ROW_WEIGHT, BAD_CLASS_WEIGHT = range(
    5
)  # items from the first bad one; 0: none
BAD_TOTAL_WEIGHT = 5  # whether a mean would be divided by more than the largest number
IS_BAD = 6  # whether any is
TOTAL_WEIGHT, TOTAL_LOSS = 7, 8
TOTAL_OF_SHARES = TOTAL_LOSS + 1  # of losses times SHARE, if the total loss is not finite
SHARE = 10  # of a loss: 1 / total weight for means, else PART
FACTOR = 11  # of gradients: 1, or for means 1 / total weight
BEYOND = 12  # whether numbers are beyond the range that elements are computed in
TOTAL_OF_SCALE = 13  # of the derivatives of losses by the scale of the logits
REPORT = 14
PART = 2.0**-64  # of numbers, whose sums do not overflow then

LOG2E = Fraction("1.44269504088896340735992468100189213743")
LN2 = 0.6931471805599453
SPARES = {4: 64, 8: 960}  # powers of two by which sums of confident rows are held larger, by the size of a float: see
# `fastce.cuda._kernels.states`; with them, float64 has the losses that a weight makes normal numbers


class Job(NamedTuple):
    """What a kernel is compiled for."""

    of: int
    writes: bool
    points: int = NO_TARGETS
    dense: int = NO_MASS
    is_capped: bool = False
    is_float64: bool = False
    is_hessian: bool = False  # what is written of a cross entropy is the Hessian's diagonal, not the gradient
    by_scale: bool = False  # the derivatives of losses by the scale of the logits are added up, too
    is_plain: bool = False  # of few classes: one class has all of each target, and there are no weights and no z_loss


class Options(NamedTuple):
    """Numbers of a call, in the dtype of the reals. ``unit`` is what distances of elements are multiplied by."""

    scale: Any  # unit / ln(2), with what its dtype cannot hold of it in scale_low
    scale_low: Any
    ln2: Any
    furthest: Any  # exp is 0 beyond, also times 2**spare
    unit: Any
    logit_scale: Any
    softcap: Any
    z_loss: Any
    keep: Any
    spread: Any
    zero: Any
    one: Any
    lowest: Any  # -inf
    spare: Any
    lowered: Any  # 2**-spare


@functools.cache
def options_of(
    real: np.dtype[Any],
    logit_scale: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    keep: float = 1.0,
    spread: float = 0.0,
) -> Options:
    """The options of a call whose elements are computed in this dtype."""
    unit = 1.0 if softcap > 0.0 else logit_scale
    kind, exact_scale = real.type, Fraction(unit) * LOG2E
    scale = kind(float(exact_scale))
    spare = SPARES[real.itemsize]
    furthest = (-224.0 if real.itemsize == 4 else -2040.0) / float(scale)
    numbers = (
        scale, exact_scale - Fraction(float(scale)), LN2, furthest, unit, logit_scale, softcap, z_loss, keep, spread,
        0.0, 1.0, -math.inf, spare, 2.0**-spare,
    )  # fmt: skip
    return Options(*(kind(float(number)) for number in numbers))


class Shape(NamedTuple):
    """The rows of a launch, each cut in ``parts`` of at most ``part_chunks`` chunks.

    Element c of row i is number i * step + c of a flat array, whose first is ``phase`` elements past 16 bytes.
    """

    rows: int
    classes: int
    logits_step: int
    out_step: int
    probabilities_step: int
    phase: int
    is_aligned: bool
    parts: int
    part_chunks: int
    stage: int


class Cube(NamedTuple):
    """Rows as they lie in an array of any strides: class c of row (outer, inner) is element

    origin + outer * outer_step + c * class_step + inner * inner_step.
    """

    origin: int
    outer_step: int
    class_step: int
    inner_step: int


class LoneShape(NamedTuple):
    """The rows of a launch that any strides lead to, ``inner`` of them between two outer ones."""

    rows: int
    classes: int
    inner: int
    logits: Cube
    out: Cube
    masses: Cube


class Targets(NamedTuple):
    """What rows are compared with; arrays that do not apply are empty."""

    classes: Any  # of each row, or of each point of a sparse matrix
    first_points: Any
    masses: Any
    probabilities: Any
    class_weight: Any
    row_weight: Any
    ignore_index: int
