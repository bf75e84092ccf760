"""Blocks copied between matrices of any strides: every bit arrives, and nothing else is written."""

import itertools

import numpy as np
import pytest
from covering import covering

from fastce.cpu.copying import copy_rows

SHAPES = [(8, 8), (9, 33), (17, 300), (257, 41), (265, 9), (2, 700), (150, 2), (100, 3), (70, 5), (40, 13)]
STEPS = (1, -1, 2, -2, 3, -5)
DTYPES = [np.float64, np.float32, np.float16]


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def room(shape, dtype, order, steps):
    """(view, all of its memory): a matrix whose neighbours are so many elements apart."""
    memory = np.zeros([n * abs(step) + 3 for n, step in zip(shape, steps, strict=True)], dtype, order=order)
    return memory[:: steps[0], :: steps[1]][: shape[0], : shape[1]], memory


def placed(values, dtype, order, steps):
    view, _ = room(values.shape, dtype, order, steps)
    view[...] = values
    return view


def any_bits(rng, shape, dtype):
    return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)[..., 0]


@covering({"dtype": DTYPES, "shape": SHAPES}, quick=1)
def test_matrices_of_all_strides(rng, shape, dtype):
    values = any_bits(rng, shape, dtype)
    written = itertools.cycle(itertools.product("CF", (1, -1, 2), (1, -1, 3), (None, False, True)))
    for order, *steps in itertools.product("CF", STEPS, STEPS):
        source = placed(values, dtype, order, steps)
        for to, first, second, past_cache in itertools.islice(written, 7):  # 7 and 54 have no factor in common
            target, memory = room(shape, dtype, to, (first, second))
            copy_rows(source, target, past_cache=past_cache)
            assert (bits(target) == bits(values)).all()
            target[...] = 0
            assert not bits(memory).any()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("given", [">f4", "i2", "?", "f4"])
def test_what_must_be_converted(rng, given, order):
    values = rng.integers(0, 2, (200, 300)).astype(given)
    for to, target_order in itertools.product((np.float64, ">f4"), "CF"):
        target = np.empty(values.shape, to, order=target_order)
        copy_rows(np.asarray(values, order=order), target)
        assert (target == values).all()


def test_stacks_of_matrices(rng):
    values = rng.normal(size=(3, 20, 9, 40)).astype(np.float32)
    for order in itertools.permutations(range(4)):
        source = values.transpose(order).copy().transpose(np.argsort(order))
        for back in itertools.permutations(range(4)):
            for past_cache in (None, False, True):
                target = np.zeros([values.shape[k] for k in back], np.float32).transpose(np.argsort(back))
                copy_rows(source, target, past_cache=past_cache)
                assert (target == values).all()


def test_stacks_of_stacks_with_steps(rng):
    values = rng.normal(size=(3, 2, 5, 4, 40)).astype(np.float32)
    for order in ((4, 3, 2, 1, 0), (1, 0, 2, 4, 3), (2, 4, 1, 3, 0), (3, 0, 4, 2, 1)):
        wide = np.repeat(values, 2, 3).transpose(order).copy().transpose(np.argsort(order))
        for source in (wide[:, :, :, ::2], wide[:, ::-1, :, ::2, ::-1][:, ::-1, ..., ::-1]):
            for back in ((4, 3, 2, 1, 0), (0, 1, 2, 3, 4), (0, 2, 4, 3, 1)):
                target = np.zeros([values.shape[k] for k in back], np.float32).transpose(np.argsort(back))
                copy_rows(source, target)
                assert (target == values).all()


def test_repeated_rows_and_classes(rng):
    for shape in ((1, 300), (200, 1)):
        source = np.broadcast_to(rng.normal(size=shape), (200, 300))
        target = np.empty(source.shape, order="F")
        copy_rows(source, target)
        assert (target == source).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("few", [2, 4, 8])
def test_elements_in_groups(rng, dtype, few):
    values = any_bits(rng, (30, few, 21), dtype)
    for order, back in itertools.product(itertools.permutations(range(3)), repeat=2):
        for first in (0, 1):  # element of the memory: a group need not be aligned as one number is
            memory = np.zeros(values.size + 1, dtype)
            source, target = (
                a[first : first + values.size].reshape([values.shape[k] for k in axes]).transpose(np.argsort(axes))
                for a, axes in ((np.zeros_like(memory), order), (memory, back))
            )
            source[...] = values
            copy_rows(source, target, past_cache=None if first else False)
            assert (bits(target) == bits(values)).all()
            assert not bits(memory[:first]).any()
            assert not bits(memory[first + values.size :]).any()
