"""The value of linear cross entropy, with those of its gradients that are wanted."""

import math
from collections.abc import Collection
from typing import Any

from fastce.arguments.numbers import checked_memory_budget
from fastce.engine import by_engine
from fastce.products.engine import Engine, engine_for
from fastce.products.features import feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.layer import Outputs
from fastce.products.loss import swept
from fastce.products.progress import checked_progress
from fastce.typing import Index, Number, Reduction, SmoothingOver

OF_LAYER = ("features", "linear_weight", "linear_bias")
OF_SCALE = "logit_scale"


def computed(
    engine: Engine,
    features: Any,
    linear_weight: Any,
    linear_bias: Any,
    options: dict[str, Any],
    memory_budget: Any,
    progress: Any,
    wanted: Collection[str] = (),
    grad_output: Any = None,
) -> tuple[Any, ...]:
    """(value, gradients by `OF_LAYER` and `OF_SCALE`), None for those that are not wanted."""
    given = engine.array(features, "features")
    check_dimensions(given)
    lead, width = given.shape[:-1], given.shape[-1]
    matrix = given if given.ndim == 2 else engine.reshaped(given, (math.prod(lead), width))
    matrix, weight = feature_arrays(engine, [matrix, linear_weight], ["features", "linear_weight"])
    bias = None if linear_bias is None else engine.array(linear_bias, "linear_bias")
    check_layer(weight, bias)
    memory_budget, progress = checked_memory_budget(memory_budget), checked_progress(progress)
    of_layer = tuple(name for name in OF_LAYER if name in wanted)
    of_scale = (True,) if OF_SCALE in wanted else ()

    def compute(is_wide: bool) -> tuple[Any, tuple[Any, ...], float | None]:
        layer = engine.layer(matrix, weight, bias, lead, options, is_wide)
        values: list[Any] = []
        gradients: tuple[Any, ...] = (None, None, None)
        slope = None
        for losses in layer.losses(grad_output, bool(of_layer), *of_scale):
            outputs = Outputs(engine, matrix, weight, bias, losses, memory_budget, of_layer)
            shown = None if values else progress  # of a second run nothing is
            values.append(swept("linear_cross_entropy", outputs, losses, shown, losses.writes))
            if losses.writes:
                gradients = outputs.gradients()
            if of_scale:
                slope = losses.scale_derivative()
        return values[0], gradients, slope

    value, gradients, slope = engine.with_range(compute)
    shapes = given.shape, weight.shape, None if bias is None else bias.shape
    of_arrays = [
        None if memory is None else engine.given(memory, shape) for memory, shape in zip(gradients, shapes, strict=True)
    ]
    return value, *of_arrays, slope


def check_dimensions(features: Any) -> None:
    """There is a width."""
    if features.ndim == 0:
        raise ValueError("features must have at least one dimension, got a scalar")


def check_layer(weight: Any, bias: Any) -> None:
    """There are classes, and a bias for each of them, if for any."""
    classes = weight.shape[0]
    if classes == 0:
        raise ValueError(f"linear_weight of shape {weight.shape} has no classes: it needs a row for each")
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"linear_bias has shape {bias.shape}, expected {(classes,)}, one number for each class")


def _some_gradients(
    features: Any,
    linear_weight: Any,
    targets: Any,
    *,
    wanted: str,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: Any = None,
    n_threads: int | None = None,
) -> tuple[Any, ...]:
    options = {
        "targets": targets, "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    with engine_for(features, n_threads) as engine:
        return computed(
            engine, features, linear_weight, linear_bias, options, memory_budget, progress, wanted.split(), grad_output
        )


_on_either = by_engine(_some_gradients)


def some_gradients(wanted: str, **arguments: Any) -> tuple[Any, ...]:
    """(value, gradients by features, linear_weight, linear_bias and logit_scale): of the wanted names, None for others.

    Arguments are those of `linear_cross_entropy_value_and_grad`.
    """
    return _on_either(wanted=wanted, **arguments)
