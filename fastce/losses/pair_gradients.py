"""Losses of pairs of features, with those of their gradients that are wanted: a frozen side has no products."""

from typing import Any

from fastce.engine import by_engine
from fastce.losses import clip_from_features, info_nce, siglip
from fastce.products.engine import Engine, engine_for
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.tiles import Products
from fastce.typing import Number, Reduction


@by_engine
def _of_clip(
    image_features: Any,
    text_features: Any,
    logit_scale: Number = 1.0,
    *,
    wanted: str,
    targets: Any = None,
    label_smoothing: Number = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: Any = None,
    n_threads: int | None = None,
) -> tuple[Any, ...]:
    with engine_for(image_features, n_threads) as engine:
        call = clip_from_features.checked_call(
            engine, image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction,
            memory_budget, progress,
        )  # fmt: skip
        _leave_out(call.products, wanted, "image_features", "text_features")
        value, (image,), (text,), along = call.value_and_gradients()
        return value, *_given(engine, image, text), call.range.of_scale(along)


@by_engine
def _of_siglip(
    image_features: Any,
    text_features: Any,
    logit_scale: Number,
    logit_bias: Number,
    *,
    wanted: str,
    targets: Any = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: Any = None,
    n_threads: int | None = None,
) -> tuple[Any, ...]:
    with engine_for(image_features, n_threads) as engine:
        call, loss = siglip.checked_call(
            engine, image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction,
            memory_budget, progress,
        )  # fmt: skip
        _leave_out(call.products, wanted, "image_features", "text_features")
        value, (image,), (text,), along = call.value_and_gradients()
        return value, *_given(engine, image, text), call.range.of_scale(along), loss.of_bias()


@by_engine
def _of_info_nce(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    wanted: str,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: Any = None,
    n_threads: int | None = None,
) -> tuple[Any, ...]:
    with engine_for(query, n_threads) as engine:
        call, shape = info_nce.checked_call(
            engine, query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress
        )
        if ("negative_keys" if shape else "positive_key") not in wanted.split():
            call.products.leave_out("right")
        value, (of_query,), of_keys, along = call.value_and_gradients()
        negative = engine.given(of_keys[1], shape) if shape and of_keys[1] is not None else None
        return value, *_given(engine, of_query, of_keys[0]), negative, call.range.of_temperature(along)


def _leave_out(products: Products, wanted: str, left: str, right: str) -> None:
    """The side that is not wanted; not both, for one of them gives the gradient of the scale."""
    names = wanted.split()
    if right not in names:
        products.leave_out("right")
    elif left not in names:
        products.leave_out("left")


def _given(engine: Engine, *memories: Any) -> list[Any]:
    return [None if memory is None else engine.given(memory) for memory in memories]


def of_clip(wanted: str, **arguments: Any) -> tuple[Any, ...]:
    """As `clip_loss_from_features_value_and_grad`; None for features whose name is not among the wanted ones."""
    return _of_clip(wanted=wanted, **arguments)


def of_siglip(wanted: str, **arguments: Any) -> tuple[Any, ...]:
    """As `siglip_loss_value_and_grad`, in the same way."""
    return _of_siglip(wanted=wanted, **arguments)


def of_info_nce(wanted: str, **arguments: Any) -> tuple[Any, ...]:
    """As `info_nce_value_and_grad`; None for keys that cost products and whose name is not among the wanted ones."""
    return _of_info_nce(wanted=wanted, **arguments)
