"""The same bits wherever arrays lie in memory, within a vector and past the cache or not.

Kernels that add up what they write must do it in an order that only the classes give, not where whole vectors begin.
"""

from importlib import import_module

import dense
import numpy as np
import pytest
from checks import dtype_of
from covering import covering

import fastce

LINE = 64  # bytes, of a vector and of a line of the cache
SHAPES = {
    "a row at a time": ((3, 1003), 1),
    "few classes": ((130, 10), 1),
    "another axis": ((70, 65), 0),
    "few classes on another axis": ((10, 300), 0),
}


@pytest.fixture(params=[True, False], ids=["past the cache", "through the cache"])
def past_cache(request, monkeypatch):
    """Whether results go past the cache, as large ones do."""
    layout = import_module("fastce.cpu.layout")
    monkeypatch.setattr(layout, "PAST_CACHE_BYTES", 0 if request.param else layout.PAST_CACHE_BYTES)


def placed(array, offset):
    """A copy that begins so many elements after a line of the cache does."""
    memory = np.empty(array.nbytes + 2 * LINE, np.uint8)
    first = -memory.ctypes.data % LINE + offset * array.itemsize
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def clip(x, y, axis, out):
    return fastce.clip_loss_value_and_grad(x, np.argsort(np.argsort(y)) % x.shape[1], logit_scale=3.0, out=out)


def smoothed_clip(x, y, axis, out):
    return fastce.clip_loss_value_and_grad(x, np.zeros(len(x), int), label_smoothing=0.1, out=out)


def binary(x, y, axis, out):
    return fastce.binary_cross_entropy_with_logits_value_and_grad(x, np.sign(x).clip(0), out=out)


def hessian(x, y, axis, out):
    return fastce.cross_entropy_grad_and_hess(x, y, axis=axis, out=(out, np.empty_like(x)))


def statistics(x, y, axis, out):
    return tuple(fastce.row_stats(x, y, outputs=("logsumexp", "entropy"), axis=axis).values())


WRITERS = {
    "cross_entropy": lambda x, y, axis, out: fastce.cross_entropy_value_and_grad(x, y, axis=axis, out=out),
    "with smoothing and z_loss": lambda x, y, axis, out: fastce.cross_entropy_value_and_grad(
        x, y, axis=axis, label_smoothing=0.1, z_loss=0.1, out=out
    ),
    "softmax": lambda x, y, axis, out: fastce.softmax(x, axis=axis, out=out),
    "log_softmax": lambda x, y, axis, out: fastce.log_softmax(x, axis=axis, out=out),
    "clip_loss": clip,
    "clip_loss with smoothing": smoothed_clip,
    "binary": binary,
    "hessian": hessian,
    "row_stats": statistics,
}


@covering({"writer": WRITERS, "kind": SHAPES, "name": ["float32", "float64", "bfloat16"]}, strength=3, quick=1)
def test_the_same_bits_at_every_offset(past_cache, rng, writer, kind, name):
    (shape, axis), dtype = SHAPES[kind], dtype_of(name)
    logits = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, shape[axis], shape[1 - axis]) if "clip" not in writer else np.arange(shape[0])

    def bits(of_logits, of_out):
        return dense.bits(WRITERS[writer](placed(logits, of_logits), labels, axis, placed(logits, of_out)))

    first = bits(0, 0)
    for k in range(1, LINE // logits.itemsize):
        assert bits(k, 0) == first, f"logits {k} elements further"
        assert bits(0, k) == first, f"out {k} elements further"


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_tile_of_siglip_has_the_same_bits_at_every_offset(rng, name):
    from fastce.cpu._kernels.tiles import sigmoid_tile

    products = rng.normal(size=(3, 103)).astype(name)
    kernel, results = sigmoid_tile.compiled(products.dtype), set()
    for k in range(LINE // products.itemsize):
        tile, losses, slopes = placed(products, k), np.empty(3), np.empty(3)
        kernel(tile, 2.0, -1.0, 0.5, True, losses, slopes)
        results.add((tile.tobytes(), losses.tobytes(), slopes.tobytes()))
    assert len(results) == 1
