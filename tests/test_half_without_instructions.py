"""float16 on x86-64 CPUs that have no instructions for it (before Ivy Bridge): converted by integers."""

import platform

import pytest
from scripts import run_script

PROGRAM = """
import numpy as np
from numba import types
from fastce.kernels import target
from fastce.kernels.jit import kernel, matrix
from fastce.kernels.memory import element, row_pointer, set_element


def signature(storage):
    return matrix(storage), matrix(types.float64), matrix(types.float64), matrix(storage)


@kernel(signature)
def both_ways(halves, wide, values, out):
    for i in range(halves.shape[1]):
        wide[0, i] = element(row_pointer(halves, 0), i)
    for i in range(values.shape[1]):
        set_element(row_pointer(out, 0), i, values[0, i])


assert not target.has_half()
halves = np.arange(65536, dtype=np.uint16).view(np.float16)[None]
finite = np.abs(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64))
ties = (finite[1:] + finite[:-1]) / 2
near = np.concatenate([finite, ties, ties * (1 + 2.0**-22), ties * (1 - 2.0**-22), [65520, 65519.99, 7e4, np.inf]])
rng = np.random.default_rng(1)
any_bits = rng.integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
values = np.concatenate([near, -near, any_bits[~np.isnan(any_bits)], [np.nan]]).astype(np.float32).astype(float)[None]
wide, out = np.empty(halves.shape), np.empty(values.shape, np.float16)
both_ways.compiled(np.dtype("float16"))(halves.view("u2"), wide, values, out.view("u2"))
exact = halves.astype(np.float64)
assert ((wide == exact) | (np.isnan(wide) & np.isnan(exact))).all()
assert (np.signbit(wide) == np.signbit(exact)).all()
with np.errstate(over="ignore"):
    rounded = values.astype(np.float32).astype(np.float16)
assert ((out.view("u2") == rounded.view("u2")) | (np.isnan(out) & np.isnan(rounded))).all()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86-64 CPU")
def test_every_half_is_read_and_floats_are_rounded_as_numpy_does(tmp_path):
    out, err = run_script(PROGRAM, tmp_path, NUMBA_CPU_NAME="x86-64-v2", NUMBA_CPU_FEATURES="", FASTCE_CACHE="0")
    assert (out, err) == ("", "")
