"""Single instructions of PTX, in modules written by hand: those that NVVM emits for more than Numba's plain Python."""

import math
import operator
from fractions import Fraction

import numpy as np
import pytest

from ptx import Memory, PtxError, launch

ALL = 0xFFFFFFFF
RNG = np.random.default_rng(6)


def single(instruction, result, *inputs, extra=""):
    """A kernel that does one instruction: ``d`` from ``a``, ``b`` and ``c``, each with its own type."""
    names = "abc"[: len(inputs)]
    kinds = dict(zip(names, inputs, strict=True), d=result)
    lines = [f".reg .b{kind[1:]} {name};" for name, kind in kinds.items()]
    parameters = ", ".join(f".param .u64 p{name}" for name in kinds)
    for name, kind in kinds.items():
        lines.append(f"ld.param.u64 %rd0, [p{name}]; mad.wide.u32 %{name}, %i, {int(kind[1:]) // 8}, %rd0;")
        lines += [f"ld.global.b{kind[1:]} {name}, [%{name}];"] if name != "d" else []
    lines += [instruction, f"st.global.b{result[1:]} [%d], d;", "ret;"]
    registers = ".reg .b32 %i; .reg .pred %p<4>; .reg .b64 %rd<4>, %a, %b, %c, %d; mov.u32 %i, %tid.x;"
    return f".visible .entry k({parameters})\n{{\n{registers}\n" + "\n".join(lines) + f"\n}}\n{extra}"


def do(instruction, result, *arrays, extra=""):
    names = [f"b{8 * a.itemsize}" for a in arrays]
    out = np.zeros(arrays[0].size, result)
    memory = Memory()
    text = single(instruction, f"b{8 * out.itemsize}", *names, extra=extra)
    launch(text, None, 1, out.size, [memory.put(a) for a in (*arrays, out)], memory=memory)
    return out


def scalar(function, *arrays):
    return [function(*(int(v) for v in values)) for values in zip(*arrays, strict=True)]


A, B = RNG.integers(0, 2**32, (2, 200), np.uint32)
A[:4], B[:4] = (0, 1, ALL, 0x80000000), (ALL, 0, ALL, 0x7FFFFFFF)
L, M = RNG.integers(0, 2**64, (2, 200), np.uint64)
N = RNG.integers(0, 40, 200).astype(np.uint32)


def signed(value, bits=32):
    return value - (value >> (bits - 1) << bits)


def towards_zero(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a, b):
    return a - b * towards_zero(a, b)


BITS = [
    ("mul.hi.u32 d, a, b;", "u4", (A, B), lambda a, b: a * b >> 32),
    ("mul.hi.s32 d, a, b;", "u4", (A, B), lambda a, b: signed(a) * signed(b) >> 32),
    ("mul.hi.u64 d, a, b;", "u8", (L, M), lambda a, b: a * b >> 64),
    ("mul.hi.s64 d, a, b;", "u8", (L, M), lambda a, b: signed(a, 64) * signed(b, 64) >> 64),
    ("mul.wide.s32 d, a, b;", "u8", (A, B), lambda a, b: signed(a) * signed(b)),
    ("mad.lo.u32 d, a, b, a;", "u4", (A, B), lambda a, b: a * b + a),
    ("brev.b32 d, a;", "u4", (A,), lambda a: int(f"{a:032b}"[::-1], 2)),
    ("brev.b64 d, a;", "u8", (L,), lambda a: int(f"{a:064b}"[::-1], 2)),
    ("bfind.u32 d, a;", "u4", (A,), lambda a: a.bit_length() - 1),
    ("bfind.s32 d, a;", "u4", (A,), lambda a: (a if a < 2**31 else ~a & ALL).bit_length() - 1),
    ("popc.b64 d, a;", "u4", (L,), int.bit_count),
    ("clz.b64 d, a;", "u4", (L >> N.astype("u8"),), lambda a: 64 - a.bit_length()),
    ("shf.l.wrap.b32 d, a, b, c;", "u4", (A, B, N), lambda a, b, n: ((b << 32 | a) << (n & 31)) >> 32),
    ("shf.r.wrap.b32 d, a, b, c;", "u4", (A, B, N), lambda a, b, n: (b << 32 | a) >> (n & 31)),
    ("shf.r.clamp.b32 d, a, b, c;", "u4", (A, B, N), lambda a, b, n: (b << 32 | a) >> min(n, 32)),
    ("shl.b32 d, a, b;", "u4", (A, N), lambda a, n: a << n if n < 32 else 0),
    ("shr.s32 d, a, b;", "u4", (A, N), lambda a, n: signed(a) >> min(n, 31)),
    ("shr.u64 d, a, b;", "u8", (L, N), lambda a, n: a >> n),
    ("bfe.u32 d, a, b, 7;", "u4", (A, N), lambda a, n: a >> n & 127),
    ("bfe.s32 d, a, 9, 7;", "u4", (A,), lambda a: signed(a >> 9 & 127, 7)),
    ("bfi.b32 d, a, b, 5, 9;", "u4", (A, B), lambda a, b: b & ~(511 << 5) | (a & 511) << 5),
    ("lop3.b32 d, a, b, c, 0xE8;", "u4", (A, B, A[::-1].copy()), lambda a, b, c: a & b | a & c | b & c),
    ("prmt.b32 d, a, b, 0x3175;", "u4", (A, B), lambda a, b: prmt(a, b, 0x3175)),
    ("prmt.b32 d, a, b, 0xF280;", "u4", (A, B), lambda a, b: prmt(a, b, 0xF280)),
    ("cvt.sat.u8.s32 %i, a; mov.b32 d, %i;", "u4", (A,), lambda a: min(max(signed(a), 0), 255)),
    ("cvt.s32.s8 d, a;", "u4", (A,), lambda a: signed(a & 255, 8)),
    ("mov.b64 {%x, %y}, a; mov.b64 d, {%y, %x};", "u8", (L,), lambda a: a << 32 | a >> 32),
    ("setp.lo.or.u32 %p1|%p2, a, b, %p0; selp.b32 d, 3, 5, !%p1;", "u4", (A, B), lambda a, b: 5 if a < b else 3),
    ("add.cc.u32 %i, a, b; addc.u32 d, 0, 0;", "u4", (A, B), lambda a, b: (a + b) >> 32),
    ("sub.cc.u32 %i, a, b; subc.u32 d, 7, 0;", "u4", (A, B), lambda a, b: 7 - (a < b)),
    ("div.s32 d, a, b;", "u4", (A, B | np.uint32(1)), lambda a, b: towards_zero(signed(a), signed(b))),
    ("rem.s64 d, a, b;", "u8", (L, M), lambda a, b: remainder(signed(a, 64), signed(b, 64))),
    ("slct.b32.s32 d, a, b, c;", "u4", (A, B, A), lambda a, b, c: a if signed(c) >= 0 else b),
]


def prmt(a, b, selector):
    both, result = b << 32 | a, 0
    for place in range(4):
        chosen = selector >> 4 * place & 15
        byte = both >> 8 * (chosen & 7) & 255
        result |= (255 * (byte >> 7) if chosen & 8 else byte) << 8 * place
    return result


@pytest.mark.parametrize("case", BITS, ids=lambda case: case[0].split()[0])
def test_instructions_on_integers(case):
    text, result, arrays, expected = case
    got = do(".reg .b32 %x, %y; setp.ne.u32 %p0, 0, 0; " + text, result, *arrays)
    bits = 8 * got.itemsize
    wanted = [v % 2**bits for v in scalar(expected, *arrays)]
    assert got.tolist() == wanted


F = np.concatenate([RNG.normal(size=90) * 10.0 ** RNG.integers(-40, 38, 90), [0, -0.0, np.inf, -np.inf, np.nan, 1e-41]])
F = F.astype("f4")
G = np.concatenate([RNG.normal(size=90) * 10.0 ** RNG.integers(-3, 12, 90), [np.inf, -np.inf, np.nan, 2.5, 3.5, -0.5]])
"""Numbers that integers may or may not hold."""


@pytest.mark.parametrize(
    ("mode", "function"), [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)]
)
@pytest.mark.parametrize(("kind", "dtype"), [("s32", "i4"), ("u32", "u4"), ("s64", "i8"), ("u64", "u8")])
def test_floats_become_integers(mode, function, kind, dtype):
    got = do(f"cvt.{mode}.{kind}.f64 d, a;", dtype, G)
    info = np.iinfo(dtype)
    whole = [0 if math.isnan(v) else info.max if v > 1e30 else info.min if v < -1e30 else int(function(v)) for v in G]
    assert got.tolist() == [min(max(v, info.min), info.max) for v in whole]


@pytest.mark.parametrize("mode", ["rm", "rp", "rz"])
@pytest.mark.parametrize("name", ["add", "mul", "div", "fma", "cvt"])
def test_other_directions_of_rounding(mode, name):
    x = (RNG.normal(size=300) * 10.0 ** RNG.integers(-12, 12, 300)).astype("f4")
    y = (RNG.normal(size=300) * 10.0 ** RNG.integers(-12, 12, 300)).astype("f4")
    z = (RNG.normal(size=300) * 10.0 ** RNG.integers(-12, 12, 300)).astype("f4")
    if name == "cvt":
        x = RNG.normal(size=300)
        got = do(f"cvt.{mode}.f32.f64 d, a;", "f4", x)
    else:
        given = {"fma": "a, b, c"}.get(name, "a, b")
        got = do(f"{name}.{mode}.f32 d, {given};", "f4", x, y, *([z] if name == "fma" else []))
    for a, b, c, r in zip(x, y, z, got, strict=True):
        a, b, c = (Fraction(float(v)) for v in (a, b, c))
        exact = {"add": a + b, "mul": a * b, "div": a / b, "fma": a * b + c, "cvt": a}[name]
        below = mode == "rm" or (mode == "rz" and exact > 0)
        towards = np.nextafter(r, np.float32(np.inf if below else -np.inf))
        if below:
            assert Fraction(float(r)) <= exact < Fraction(float(towards))
        else:
            assert Fraction(float(towards)) < exact <= Fraction(float(r))


def test_short_floats():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with np.errstate(over="ignore"):
        half, brain = F.astype("f2"), F.astype(ml_dtypes.bfloat16)
    got = do("cvt.rn.bf16.f32 d, a;", "u2", F)
    same = (got == brain.view("u2")) | np.isnan(F)
    assert same.all()
    assert np.array_equal(do("cvt.rn.f16.f32 d, a;", "f2", F), half, equal_nan=True)
    assert np.array_equal(do("cvt.f32.f16 d, a;", "f4", half), half.astype("f4"), equal_nan=True)
    assert np.array_equal(do("cvt.f32.bf16 d, a;", "f4", brain.view("u2")), brain.astype("f4"), equal_nan=True)
    pair = do("cvt.rn.f16x2.f32 d, a, b;", "u4", F, F[::-1].copy()).view("f2").reshape(-1, 2)
    assert np.array_equal(pair, np.stack([half[::-1], half], axis=1), equal_nan=True)
    finite = np.where(np.isfinite(half), half, np.float16(1))
    twice = np.stack([finite, finite[::-1]], axis=1).copy().view("u4")[:, 0].copy()
    with np.errstate(over="ignore"):
        expected = twice.view("f2") * twice.view("f2")
    assert np.array_equal(do("mul.f16x2 d, a, a;", "u4", twice).view("f2"), expected)


def test_minima_and_comparisons_of_floats():
    x, y = np.repeat(F, F.size), np.tile(F, F.size)
    at = slice(0, None, 9)
    x, y = x[at].copy()[:1000], y[at].copy()[:1000]
    assert np.array_equal(do("min.f32 d, a, b;", "f4", x, y), np.fmin(x, y), equal_nan=True)
    assert np.array_equal(do("max.NaN.f32 d, a, b;", "f4", x, y), np.maximum(x, y), equal_nan=True)
    for name, ordered in (("lt", operator.lt), ("ge", operator.ge), ("eq", operator.eq)):
        yes = do(f"setp.{name}.f32 %p1, a, b; selp.u32 d, 1, 0, %p1;", "u4", x, y)
        assert (yes == ordered(x, y)).all()
        yes = do(f"setp.{name}u.f32 %p1, a, b; selp.u32 d, 1, 0, %p1;", "u4", x, y)
        assert (yes == (ordered(x, y) | np.isnan(x) | np.isnan(y))).all()
    zeros = np.array([0.0, -0.0], "f4")
    assert np.signbit(do("min.f32 d, a, b;", "f4", zeros, -zeros)).all()
    assert (do("add.ftz.f32 d, a, a;", "f4", np.full(2, 1e-39, "f4")) == 0).all()


TABLE = """
.visible .func (.param .b32 result) twice(.param .b32 given)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [given]; add.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret; }
"""


def test_calls_and_tables_of_jumps():
    text = """
    { .param .b32 param0; .param .b32 result0; st.param.b32 [param0+0], a;
      call.uni (result0), twice, (param0); ld.param.b32 d, [result0+0]; }
    and.b32 %i, a, 3;
    @%p0 brx.idx %i, ways;
    ways: .branchtargets L0, L1, L2, L0;
    brx.idx %i, ways;
    L1: add.u32 d, d, 100; bra L0;
    L2: add.u32 d, d, 1000;
    L0:
    """
    source = single("setp.ne.u32 %p0, 0, 0;" + text, "b32", "b32", extra=TABLE)
    x, out = np.arange(64, dtype="u4"), np.zeros(64, "u4")
    memory = Memory()
    launch(source, None, 1, 64, [memory.put(x), memory.put(out)], memory=memory)
    assert out.tolist() == [2 * v + {1: 100, 2: 1000}.get(v % 4, 0) for v in range(64)]


def test_what_is_unknown_is_named():
    with pytest.raises(PtxError, match=r"unknown instruction: frobnicate\.f32 d, a"):
        do("frobnicate.f32 d, a;", "f4", F)


def test_named_barriers_hold_a_part_of_the_block():
    text = """
    .reg .b32 %w; shr.u32 %w, %i, 5; setp.eq.u32 %p1, %w, 0; mov.b32 d, 0;
    @%p1 bra PRODUCE;
    setp.eq.u32 %p1, %w, 1;
    @%p1 bra CONSUME;
    bra DONE;
    PRODUCE: st.shared.u32 [box], 5; bar.arrive 1, 64; mov.b32 d, 1; bra DONE;
    CONSUME: bar.sync 1, 64; ld.shared.u32 d, [box];
    DONE: bar.sync 0;
    """
    extra = ".shared .align 4 .b8 box[4];"
    memory, x, out = Memory(), np.zeros(96, "u4"), np.zeros(96, "u4")
    given = [memory.put(x), memory.put(out)]
    launch(single(text, "b32", "b32", extra=extra), None, 1, 96, given, memory=memory)
    assert out.tolist() == [1] * 32 + [5] * 32 + [0] * 32


def test_threads_meet_again_wherever_the_text_has_its_blocks():
    text = """
    .reg .b32 %k, %j; mov.b32 d, 0; mov.b32 %k, 0; bra HEAD;
    JOIN: mul.lo.u32 d, d, 3; add.u32 %k, %k, 1; setp.lt.u32 %p1, %k, 8; @%p1 bra HEAD; bra DONE;
    ODD: add.u32 d, d, 100; bra JOIN;
    HEAD: add.u32 %j, %i, %k; and.b32 %j, %j, 1; setp.eq.u32 %p1, %j, 1; @%p1 bra ODD;
    add.u32 d, d, 10; bra JOIN;
    DONE:
    """
    memory, x, out = Memory(), np.zeros(64, "u4"), np.zeros(64, "u4")
    given = [memory.put(x), memory.put(out)]
    report = launch(single(text, "b32", "b32"), None, 1, 64, given, memory=memory)
    expected = np.zeros(64, "u4")
    for k in range(8):
        expected = 3 * (expected + np.where((np.arange(64) + k) % 2 == 1, 100, 10))
    assert out.tolist() == expected.tolist()
    assert report.executed("mul.lo", warps=True) == 2 * 8


ATOMICS = [
    ("inc", "u32", 5, lambda old: 0 if old >= 5 else old + 1),
    ("dec", "u32", 5, lambda old: 5 if old == 0 or old > 5 else old - 1),
    ("exch", "b32", 9, lambda old: 9),
    ("max", "s32", 40, lambda old: max(old, 40)),
    ("or", "b32", 24, lambda old: old | 24),
    ("add", "u32", 3, lambda old: old + 3),
]


@pytest.mark.parametrize(("name", "kind", "given", "step"), ATOMICS, ids=lambda case: case)
@pytest.mark.parametrize("space", ["shared", "generic"])
def test_atomics_take_turns(name, kind, given, step, space):
    address = {"shared": "box", "generic": "%g"}[space]
    text = f"""
    .reg .b64 %g; cvta.shared.u64 %g, box; st.shared.u32 [box], 3; bar.sync 0;
    atom{".shared" if space == "shared" else ""}.{name}.{kind} d, [{address}], {given};
    """
    got = do(text, "u4", np.zeros(40, "u4"), extra=".shared .align 4 .b8 box[4];")
    expected = [3]
    while len(expected) < 40:
        expected.append(step(expected[-1]))
    assert got.tolist() == expected


def test_warps_reduce_and_elect():
    got = do("redux.sync.max.s32 d, a, -1;", "i4", A.view("i4")[:192].copy())
    assert (got == np.repeat(A.view("i4")[:192].reshape(-1, 32).max(axis=1), 32)).all()
    got = do("elect.sync _|%p1, -1; selp.u32 d, 1, 0, %p1;", "u4", A[:64].copy())
    assert got.tolist() == ([1] + [0] * 31) * 2
