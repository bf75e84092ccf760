"""Arrays on a GPU that are gone through together, element by element."""

from collections.abc import Sequence
from dataclasses import replace

from fastce.cuda.arrays import DeviceArray


def broadcast_to(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray | None:
    """The array repeated along axes that it lacks or has one element along, without a copy; None if it does not fit."""
    more = len(shape) - array.ndim
    own = (1,) * more + array.shape
    if more < 0 or any(n not in (1, m) for n, m in zip(own, shape, strict=True)):
        return None
    steps = (0,) * more + array.strides
    strides = tuple(0 if n == 1 else step for n, step in zip(own, steps, strict=True))
    return replace(array, shape=shape, strides=strides)


def together(arrays: Sequence[DeviceArray]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """(shape, steps of each array) of as few axes as do for all of them, in the first one's order in memory.

    All have the same shape. There is at least one axis; the last one varies first.
    """
    first = arrays[0]
    order = sorted((axis for axis in range(first.ndim) if first.shape[axis] != 1), key=lambda a: -abs(first.strides[a]))
    shape: list[int] = []
    steps: list[list[int]] = [[] for _ in arrays]
    for axis in order:
        n, own = first.shape[axis], [array.strides[axis] for array in arrays]
        if shape and all(before[-1] == n * step for before, step in zip(steps, own, strict=True)):
            shape[-1] *= n
            for before, step in zip(steps, own, strict=True):
                before[-1] = step
        else:
            shape.append(n)
            for before, step in zip(steps, own, strict=True):
                before.append(step)
    return (tuple(shape), [tuple(own) for own in steps]) if shape else ((1,), [(0,) for _ in arrays])
