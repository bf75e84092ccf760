"""How many instructions of machine code an element costs, for compute capability 9.0, along the shortest way through.

That decides the speed where memory does not. Bounds are what is reached, rounded up: who makes a kernel quicker lowers
its bound.
"""

import collections
import functools
import re
import sys

import checks
import numpy as np
import pytest
from machine_code import (
    BARRIER,
    CCTL,
    I2FP,
    LDG,
    LDGSTS,
    LDS,
    MEMBAR,
    MUFU,
    SHFL,
    STG,
    STS,
    assembled,
    fewest,
    fewest_of_a_turn,
)  # fmt: skip
from on_device import OnDevice
from ptx.device import Device, aligned
from test_ptx_code import needs_ptxas, ptxas

pytest.importorskip("numba_cuda")
pytestmark = [pytest.mark.ptx, needs_ptxas]


@functools.cache
def text_of(kernel, function, name, shape, has_targets):
    with Device() as device, pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", np)
        y = (np.arange(shape[0]) % shape[1],) if has_targets else ()
        options = {} if has_targets or function.startswith("clip") else {"axis": 1}
        getattr(OnDevice(Device.array), function)(aligned(shape, checks.dtype_of(name)), *y, **options)
    return next(one.text for one in device.launches if one.kernel.__name__ == kernel)


ROWS = {  # (function, dtype): of sums, and of what is written
    ("cross_entropy_value_and_grad", "float32"): (21.0, 7.5),
    ("cross_entropy", "float32"): (21.0, None),
    ("logsumexp", "float32"): (13.5, None),
    ("cross_entropy_value_and_grad", "bfloat16"): (12.5, 7.5),
    ("cross_entropy", "bfloat16"): (12.5, None),
    ("logsumexp", "bfloat16"): (8.5, None),
    ("softmax", "bfloat16"): (8.5, 7.5),
    ("softmax", "float16"): (8.5, 7.5),
}


@pytest.mark.parametrize(("function", "name"), ROWS)
def test_rows(tmp_path, function, name):
    of_sums, of_writing = ROWS[function, name]
    lanes = 16 // checks.dtype_of(name).itemsize
    text = text_of("rows", function, name, (8, 40 * lanes), function.startswith("cross"))
    code = assembled(ptxas(), text, tmp_path)
    assert fewest_of_a_turn(code, {LDGSTS: 1}) <= 16
    assert fewest_of_a_turn(code, {LDS: 1, MUFU: lanes}) / lanes <= of_sums
    if of_writing is not None:
        assert fewest_of_a_turn(code, {LDS: 1, MUFU: lanes, (STG, True): 1}) / lanes <= of_writing


@pytest.mark.parametrize("function", ["cross_entropy_value_and_grad", "cross_entropy"])
def test_parts_of_a_row_meet_by_one_release_and_one_acquire(tmp_path, function):
    """Each part is counted by a release, and who waits for the count reads all states by plain loads."""
    text = text_of("rows", function, "float32", (2, 9000), True)
    orders = collections.Counter(re.findall(r"\w+\.(?:release|acquire|acq_rel)\.gpu[^\s;]*|membar\S*|fence\S*", text))
    assert orders == {
        "ld.acquire.gpu.global.b32": 2,  # before the loop, and in it
        "atom.release.gpu.global.add.u32": 2,  # in a stage of its own, and where others wait
        "atom.acq_rel.gpu.global.add.u32": 2,  # of losses: those of a group, and the sums of groups
    }
    kinds = [one.kind for one in assembled(ptxas(), text, tmp_path)]
    assert kinds.count(MEMBAR) <= 4
    assert kinds.count(CCTL) <= 4


FEW = {  # (function, dtype): of a row of ten classes, by the first warp of a block, which adds up, and by the others
    ("cross_entropy_value_and_grad", "float32"): (385, 345),
    ("cross_entropy", "float32"): (310, 270),
    ("logsumexp", "float32"): (215, 215),
    ("cross_entropy_value_and_grad", "bfloat16"): (405, 365),
}


@pytest.mark.parametrize(("function", "name"), FEW)
def test_few_classes(tmp_path, function, name):
    dtype, writes, is_loss = checks.dtype_of(name), function.endswith("grad"), function.startswith("cross")
    text = text_of("few_classes", function, name, (128, 10), is_loss)
    code = assembled(ptxas(), text, tmp_path)
    turns = -(-10 * dtype.itemsize // 16)  # chunks of a thread
    needs = {LDGSTS: turns, MUFU: 10, LDG: 1 + is_loss + writes}
    needs |= {(STG, True): turns} if writes else {}
    if is_loss:  # log1p takes an exponent as a number; losses are put together in shared memory, and added up
        needs |= {I2FP: 1, BARRIER: 3, STS: 2 + 5 * writes}
    of_first, of_others = FEW[function, name]
    assert fewest(code, needs) <= of_others
    assert fewest(code, needs | ({SHFL: 10} if is_loss else {})) <= of_first


CLIP = {"float32": (29.9, 36), "bfloat16": (26, 33), "float16": (26, 33)}  # of states and of the gradient


@pytest.mark.parametrize("name", CLIP)
def test_both_directions_of_a_similarity(tmp_path, name):
    lanes, (of_states, of_gradient) = 16 // checks.dtype_of(name).itemsize, CLIP[name]
    needs = {(LDG, True): 4, MUFU: 8 * lanes}
    states, gradient = (
        assembled(ptxas(), text_of(kernel, "clip_loss_value_and_grad", name, (16, 16), False), tmp_path)
        for kernel in ("states", "gradient")
    )
    assert fewest_of_a_turn(states, needs | {STG: 2}) / (4 * lanes) <= of_states
    assert fewest_of_a_turn(gradient, needs | {(STG, True): 4}) / (4 * lanes) <= of_gradient
