"""The vector mathematics that every kernel leans on: exp against every float32, log1p and tanh against longdouble."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import dtype_of
from numba import types
from scripts import run_script

import fastce
from fastce.cpu import floors
from fastce.cpu._vectors.compiler import inline, kernel, matrix
from fastce.cpu._vectors.elementary import log1p, tanh
from fastce.cpu._vectors.exponential import exp, scaling
from fastce.cpu._vectors.memory import lanes_of, load, row_pointer, store, to_real

F32 = np.dtype(np.float32)
LOWEST, HIGHEST = -87.33654, 88.37  # exp of these is the smallest normal float32, and nearly the largest


@inline
def apply(row, out, classes, which):
    scaled_by = scaling(row, 1.0, 1.0)
    zero = to_real(row, 0.0)
    for i in range(0, classes, lanes_of(row)):
        x = load(row, i)
        y = exp(x, zero, scaled_by)
        if which == 1:
            y = log1p(x)
        if which == 2:
            y = tanh(x)
        store(out, i, y)


@kernel(lambda storage: (matrix(storage), matrix(storage), types.int64))
def apply_to_rows(x, out, which):
    for i in range(x.shape[0]):
        apply(row_pointer(x, i), row_pointer(out, i), x.shape[1], which)


def applied(x, which):
    """The function of every element; whole vectors only."""
    padded = np.zeros(-(-x.size // 16) * 16, x.dtype)
    padded[: x.size] = x
    out = np.empty_like(padded)
    apply_to_rows.compiled(x.dtype)(padded[None], out[None], which)
    return out[: x.size]


def ulp_error(actual, exact):
    spacing = np.spacing(np.abs(exact).astype(actual.dtype)).astype(exact.dtype)
    return float(np.max(np.abs(actual - exact) / spacing))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_exp_is_within_1_ulp_for_every_float32_in_its_range(sign):
    # below 2**-30 the result is 1 to a billionth, and so is every float32 near it
    first = np.float32(2.0**-30).view(np.uint32)
    last = np.float32(HIGHEST if sign > 0 else -LOWEST).view(np.uint32)
    size = 1 << 16  # which stays in the cache
    out = np.empty((1, size), np.float32)
    worst = 0.0
    for start in range(int(first), int(last) + 1, size):
        x = np.arange(start, min(start + size, int(last) + 1), dtype=np.uint32).view(np.float32)
        x = np.pad(x, (0, -x.size % 16)) * np.float32(sign)
        apply_to_rows.compiled(F32)(x[None], out[:, : x.size], 0)
        exact = np.exp(x.astype(np.float64))
        ulp = np.ldexp(1.0, np.frexp(exact)[1] - 24)
        worst = max(worst, float(np.max(np.abs(out[0, : x.size] - exact) / ulp)))
    assert 0.4 < worst <= 1  # below a half would mean that nothing was compared


def test_exp_of_tiny_float32_is_1():
    x = np.concatenate([2.0 ** -np.arange(30, 149, dtype=float), [0.0]]).astype(np.float32)
    assert np.all(applied(x, 0) == 1)
    assert np.all(applied(-x, 0) == 1)


def test_exp_below_the_smallest_normal_number_is_exactly_0_and_nan_stays_nan():
    x = np.array([-87.7, -100, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(applied(x, 0), np.array([0, 0, 0, 0, np.nan], np.float32))


def test_exp_of_float64_is_within_1_ulp(rng):
    x = np.concatenate(
        [rng.uniform(-708, 709, 1 << 18), rng.uniform(-1, 1, 1 << 18), -(10.0 ** rng.uniform(-30, 0, 1 << 16))]
    )
    assert ulp_error(applied(x, 0), np.exp(x.astype(np.longdouble))) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_is_within_2_ulp_between_0_and_1(rng, dtype):
    x = np.concatenate([rng.random(1 << 18), 10.0 ** rng.uniform(-30, 0, 1 << 18)]).astype(dtype)
    assert ulp_error(applied(x, 1), np.log1p(x.astype(np.longdouble))) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_odd_and_within_3_ulp_small_arguments_included(rng, dtype):
    x = np.concatenate([rng.normal(0, 3, 1 << 18), 10.0 ** rng.uniform(-30, 0, 1 << 18), [0.0, 50.0, np.inf]]).astype(
        dtype
    )
    for sign in (1, -1):
        assert ulp_error(applied(sign * x, 2), np.tanh(sign * x.astype(np.longdouble))) <= 3
    np.testing.assert_array_equal(applied(-x, 2), -applied(x, 2))
    assert np.isnan(applied(np.array([np.nan], dtype), 2)[0])


@pytest.mark.parametrize("factor", [1.0, 1 / 3, 1.00390625, -0.7, 2.0**-120, 3.0**-70, 2.0**100])
@pytest.mark.parametrize("mixed", [False, True])
def test_products_are_rounded_to_the_nearest_bfloat16_ties_to_even_subnormal_ones_too(rng, mixed, factor):
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = (rng.permutation(bits) if mixed else bits).view(dtype_of("bfloat16"))
    with np.errstate(all="ignore"):
        expected = (x.astype(np.float32) * np.float32(factor)).astype(x.dtype)
    found = x.copy()
    floors.run(floors.scaling(found, factor))
    is_nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), is_nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names an x86 CPU")
@pytest.mark.parametrize(("cpu", "features", "bits"), [("haswell", "+avx2,+fma,+f16c", 256), ("nehalem", "", 128)])
def test_exp_is_within_1_ulp_too_by_the_short_table_and_by_polynomial(cpu, features, bits):
    program = (
        "import numpy as np, test_vector as t\n"
        "from fastce.cpu._vectors.target import vector_bits\n"
        f"assert vector_bits() == {bits}\n"
        "x = np.arange(0x30800000, 0x42B0BD70, 257, dtype=np.uint32).view(np.float32)\n"
        "x = np.concatenate([x, -x[x < -t.LOWEST]])\n"
        "exact = np.exp(x.astype(float))\n"
        "error = np.abs(t.applied(x, 0) - exact) / np.ldexp(1.0, np.frexp(exact)[1] - 24)\n"
        "assert 0.4 < error.max() <= 1, error.max()\n"
        "t.test_exp_below_the_smallest_normal_number_is_exactly_0_and_nan_stays_nan()\n"
        "t.test_exp_of_float64_is_within_1_ulp(np.random.default_rng(0))\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(fastce.__file__).parents[1])])
    target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **target}, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "bits"),
    [("x86-64-v2", "", 128), ("haswell", "", 256), ("skylake-avx512", "", 512), ("skylake-avx512", "-avx512f", 256)],
)
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are x86-64 CPUs")
def test_kernels_and_show_config_agree_on_the_cpu_that_llvm_compiles_for(tmp_path, name, features, bits):
    source = (
        "from fastce.configuration import vector_bits\n"
        "from fastce.cpu._vectors.target import has_avx512\n"
        "print(vector_bits(), has_avx512())"
    )
    out, _ = run_script(source, tmp_path, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
    assert out == f"{bits} {bits == 512}\n"
