"""x86-64 CPUs before 2013: float16 is converted by integers without instructions for it; that FMA lacks is told."""

import logging
import platform

import numpy as np
import pytest
from guard_calls import DTYPES, GROUPS, Memory, assert_same, flat
from scripts import run_script

import fastce
from fastce.cpu._vectors import target

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86-64 CPU")
OLD = {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""}

PROGRAM = """
import numpy as np
from numba import types
from fastce.cpu._vectors import target
from fastce.cpu._vectors.compiler import kernel, matrix
from fastce.cpu._vectors.memory import element, row_pointer, set_element


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
def test_every_half_is_read_and_floats_are_rounded_as_numpy_does(tmp_path):
    out, err = run_script(PROGRAM, tmp_path, FASTCE_CACHE="0", **OLD)
    assert (out, err) == ("", "")


# --- whole functions -------------------------------------------------------------------------------------------------


# One of each kind of kernel: all convert by the same functions, which the test above goes through.
CONVERTING = [("special", "softmax"), ("hard targets", "cross_entropy, weighted"), ("binary and clip", "binary")]


def some_results(path=None):
    """Of every call of these functions with float16, few classes and many; in a file, as their bytes."""
    results = {}
    for group, name in CONVERTING:
        for classes in (5, 259):
            memory = Memory(np.random.default_rng(classes), DTYPES["float16"], 5, classes)
            results[f"{name}, {classes}"] = flat(tuple(GROUPS[group][name](memory)))
    if path is not None:
        np.savez(path, **{f"{name} #{k}": array for name, arrays in results.items() for k, array in enumerate(arrays)})
    return results


@pytest.mark.slow
def test_functions_of_halves(tmp_path):
    if not (target.has_half() and target.has_fma()):
        pytest.skip("the CPU that the tests run on is itself one of them")
    _, err = run_script('import test_old_cpus as t\nt.some_results("results.npz")', tmp_path, timeout=300, **OLD)
    assert err.count("no FMA") <= 1  # none if all was in the cache
    old = np.load(tmp_path / "results.npz")
    for name, arrays in some_results().items():
        assert_same(tuple(old[f"{name} #{k}"] for k in range(len(arrays))), tuple(arrays), DTYPES["float16"], False)


# --- without FMA -----------------------------------------------------------------------------------------------------

LOGGED = """
import numpy as np, fastce
for axis in (1, 0):
    fastce.logsumexp(np.zeros((2, 3), "f4"), axis=axis)
    fastce.softmax(np.zeros((2, 3), "f4"), axis=axis)
fastce.show_config()
"""


@pytest.mark.slow
def test_a_cpu_without_fma_is_told_once(tmp_path):
    out, err = run_script(LOGGED, tmp_path, FASTCE_CACHE="0", **OLD)
    assert len(err.splitlines()) == 1
    assert err.startswith("fastce compiles for a CPU without FMA")
    assert "vectors of 128 bits, no FMA" in out


def test_nothing_is_said_of_a_cpu_that_has_fma(caplog, capsys):
    if not target.has_fma():
        pytest.skip("this CPU has none")
    target.tell_without_fma.cache_clear()
    with caplog.at_level(logging.WARNING, "fastce"):
        target.tell_without_fma()
    fastce.show_config()
    assert not caplog.records
    assert "FMA" not in capsys.readouterr().out
