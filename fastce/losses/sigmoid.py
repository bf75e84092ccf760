"""What the losses of pairs that are yes-or-no questions come to: SigLIP's."""

import math
from typing import Any

from fastce.arguments.reductions import factor_of_rows


def reduced_losses(losses: Any, reduction: str) -> float:
    """The sum or the mean of the losses of rows."""
    if reduction == "mean" and not losses.size:
        return math.nan
    share = factor_of_rows(reduction, losses.size)
    value = share * float(losses.sum())
    return value if math.isfinite(value) else float((share * losses).sum())


def of_positives(xp: Any, z: Any) -> tuple[Any, Any]:
    """softplus(-z) and its derivative, of the pairs that belong together."""
    e = xp.exp(-xp.abs(z))
    return xp.maximum(-z, 0.0) + xp.log1p(e), -xp.where(z < 0.0, 1.0, e) / (1.0 + e)
