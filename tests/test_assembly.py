"""The loops that take all the time are whole vectors in the machine code, without a call, a gather or a lone scalar.

How many instructions they have does not depend on how busy a machine is, nor on which it is: nothing is run here.
"""

import json
import platform

import pytest
from scripts import run_script

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86-64 CPUs")

AVX512, AVX2 = "x86-64-v4", "x86-64-v3"
# kernel, dtype, CPU, and the most vector instructions for each exp in a loop that sums up or writes, and for the end of
# as many rows of few classes as a register has lanes. Those that only load, store, move or make zeros are not counted.
# One in softmax_rows keeps results from rounding above 1; one in cross_entropy_rows holds back the largest element
# beside its exp, which may be kept for the gradient.
LIMITS = [
    ("cross_entropy_rows", "float32", AVX512, {"sums": 16.0, "writes": 13.0}),
    ("cross_entropy_rows", "float32", AVX2, {"sums": 18.0, "writes": 15.0}),
    ("cross_entropy_rows", "float64", AVX512, {"sums": 20.0, "writes": 17.0}),
    ("cross_entropy_columns", "float32", AVX512, {"sums": 16.5, "writes": 15.0}),
    ("cross_entropy_columns", "float32", AVX2, {"sums": 18.5, "writes": 18.0}),
    ("plain_losses", "float32", AVX512, {"sums": 16.5, "ends": 82.0}),
    ("hard_losses", "float32", AVX512, {"sums": 16.5}),
    ("hard_gradients", "float32", AVX512, {"sums": 16.5, "writes": 15.0, "ends": 90.0}),
    ("hard_gradients", "float32", AVX2, {"sums": 20.0, "ends": 95.0}),
    ("logsumexp_columns", "float32", AVX512, {"sums": 16.0}),
    ("logsumexp_rows", "float64", AVX2, {"sums": 21.0}),
    ("softmax_rows", "float32", AVX512, {"sums": 15.0, "writes": 14.0}),
]
PROGRAM = """
import json
from bench.machine_code import described
print(json.dumps(described({!r}, {!r}, {!r})))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "cpu", "limits"), LIMITS)
def test_the_loops_over_whole_vectors(name, dtype, cpu, limits, tmp_path):
    program = PROGRAM.format(name, dtype, list(limits))
    out, _ = run_script(program, tmp_path, timeout=300, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    found = json.loads(out)
    assert not found["counts references"], "every count waits for all stores before it"
    for kind, limit in limits.items():
        assert found[kind]["narrow"] == found[kind]["slow"] == []
        assert found[kind]["arithmetic"] <= limit
    if name.endswith("rows") and "writes" in limits and dtype == "float32":
        assert found["past the cache"], "large results go through the cache"


NEON_PROGRAM = """
from bench.machine_code import neon_assembly_of, lane_loads
print(lane_loads(neon_assembly_of({!r}, {!r})))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("logsumexp_columns", "float32"), ("logsumexp_rows", "float16")])
def test_the_last_vector_of_a_row_is_not_read_lane_by_lane_without_masks(name, dtype, tmp_path):
    out, _ = run_script(
        NEON_PROGRAM.format(name, dtype), tmp_path, timeout=300, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=""
    )
    assert int(out) == 0
