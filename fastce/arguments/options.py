"""The options of cross_entropy that are numbers or choices: one list and one check, for both engines."""

from typing import Any, NamedTuple, get_args

from fastce.arguments.numbers import choice, fraction, not_negative, positive
from fastce.arguments.reductions import smoothing
from fastce.typing import SmoothingOver

WAYS_TO_SMOOTH: tuple[SmoothingOver, ...] = get_args(SmoothingOver)
PLAIN_OPTIONS: dict[str, Any] = {
    "weight": None,
    "sample_weight": None,
    "ignore_index": -100,
    "label_smoothing": 0.0,
    "smoothing_over": "all",
    "logit_scale": 1.0,
    "softcap": None,
    "z_loss": 0.0,
}


class CheckedOptions(NamedTuple):
    """What formulas are made of; smoothed targets are keep * t + spread."""

    logit_scale: float
    softcap: float  # 0 if there is none
    z_loss: float
    keep: float
    spread: float


def checked_options(
    classes: int, label_smoothing: Any, smoothing_over: Any, logit_scale: Any, softcap: Any, z_loss: Any
) -> CheckedOptions:
    """The options of a call of so many classes."""
    over = choice(smoothing_over, "smoothing_over", WAYS_TO_SMOOTH)
    keep, spread = smoothing(fraction(label_smoothing, "label_smoothing"), over, classes)
    return CheckedOptions(
        positive(logit_scale, "logit_scale"),
        0.0 if softcap is None else positive(softcap, "softcap"),
        not_negative(z_loss, "z_loss"),
        keep,
        spread,
    )
