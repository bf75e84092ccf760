"""The interpreter of PTX does what NumPy does, and finds the faults that it is there to find."""

import math

import numpy as np
import pytest

from ptx import Memory, MemoryFault, PtxError, run

pytest.importorskip("numba_cuda")
cuda = pytest.importorskip("numba.cuda")

from llvmlite import ir  # noqa: E402
from numba import float32, float64, int32, int64, types  # noqa: E402
from numba.cuda.extending import intrinsic  # noqa: E402
from numba.cuda.types import float16  # noqa: E402

ALL = 0xFFFFFFFF
RNG = np.random.default_rng(5)


def reduction(x, out):
    partial = cuda.shared.array(32, float32)
    lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    for shift in (16, 8, 4, 2, 1):
        total += cuda.shfl_down_sync(ALL, total, shift)
    if lane == 0:
        partial[warp] = total
    cuda.syncthreads()
    if warp == 0:
        total = partial[lane] if lane < cuda.blockDim.x // 32 else float32(0)
        for shift in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(ALL, total, shift)
        if lane == 0:
            out[cuda.blockIdx.x] = total


def by_halves(values):
    """The sums of rows of 32, in the order of the shuffles."""
    for shift in (16, 8, 4, 2, 1):
        values = values[:, :shift] + values[:, shift : 2 * shift]
    return values[:, 0]


def test_a_sum_over_a_block_adds_in_the_order_of_the_shuffles():
    x, out = RNG.normal(size=3000).astype("f4"), np.zeros(3, "f4")
    report = run(reduction, 3, 256, x, out)
    padded = np.zeros((4, 768), "f4")
    padded.reshape(-1)[:3000] = x
    threads = np.zeros(768, "f4")
    for row in padded:
        threads += row
    warps = np.zeros((3, 32), "f4")
    warps[:, :8] = by_halves(threads.reshape(-1, 32)).reshape(3, 8)
    assert (out == by_halves(warps)).all()
    assert report.global_bytes_read == x.nbytes
    assert report.sectors_read == x.nbytes // 32
    assert report.global_bytes_written == 12
    assert report.executed("bar.sync", warps=True) == 24


def test_strided_access_shows_in_the_sectors():
    x, out = RNG.normal(size=(8, 1024)).astype("f4"), np.zeros(4, "f4")
    report = run(reduction, 1, 256, x.T.reshape(-1)[::8][:1024], out)  # contiguous in its own memory
    base = np.zeros(8192, "f4")
    base[::8] = x[0]
    spread = np.zeros(4, "f4")
    report_spread = run(reduction, 1, 256, base[::8], spread)
    assert report.global_bytes_read == report_spread.global_bytes_read == 4096
    assert report_spread.sectors_read == 1024
    assert spread[0] == pytest.approx(x[0].astype("f8").sum(), rel=1e-4)


@intrinsic
def ex2(typingctx, x):
    def build(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        return builder.asm(kind, "ex2.approx.ftz.f32 $0, $1;", "=f,f", args, side_effect=False)

    return float32(float32), build


@intrinsic
def load4(typingctx, array, index):
    """Four float32 by one load of 128 bits."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        single = ir.FloatType()
        vector = ir.VectorType(single, 4)
        pointer = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        loaded = builder.load(pointer)
        loaded.align = 16
        parts = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(float32, 4)(array, int64), build


def logsumexp_rows(x, out):
    """One row a block: maxima and sums in float32, merged in float64."""
    maxima, sums = cuda.shared.array(8, float32), cuda.shared.array(8, float64)
    row, lane, warp = cuda.blockIdx.x, cuda.threadIdx.x % 32, cuda.threadIdx.x // 32
    log2e = float32(1.4426950408889634)
    top, total = float32(-math.inf), float32(0)
    for i in range(4 * cuda.threadIdx.x, x.shape[1], 4 * cuda.blockDim.x):
        for v in load4(x[row], i):
            if v > top:
                total = total * ex2((top - v) * log2e) + float32(1)
                top = v
            else:
                total += ex2((v - top) * log2e)
    whole = float64(total)
    for shift in (16, 8, 4, 2, 1):
        other, more = cuda.shfl_xor_sync(ALL, top, shift), cuda.shfl_xor_sync(ALL, whole, shift)
        new = max(top, other)
        whole = whole * math.exp(float64(top) - float64(new)) + more * math.exp(float64(other) - float64(new))
        top = new
    if lane == 0:
        maxima[warp], sums[warp] = top, whole
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        for w in range(1, cuda.blockDim.x // 32):
            new = max(top, maxima[w])
            whole = whole * math.exp(float64(top) - float64(new)) + sums[w] * math.exp(
                float64(maxima[w]) - float64(new)
            )
            top = new
        out[row] = float64(top) + math.log(whole)


def logsumexp_case():
    x = RNG.normal(size=(5, 2048)).astype("f4") * np.float32(4)
    return x, np.log(np.exp(x.astype("f8")).sum(axis=1)), np.zeros(5)


def test_logsumexp_with_loads_of_128_bits():
    x, expected, out = logsumexp_case()
    report = run(logsumexp_rows, 5, 128, x, out)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert report.read_widths == {16: x.nbytes}
    assert report.sectors_read == x.nbytes // 32
    assert report.requests_read == x.nbytes // 512


def test_a_load_of_128_bits_must_be_aligned():
    x, _, out = logsumexp_case()
    memory = Memory()
    memory.put(x, offset=1)
    with pytest.raises(MemoryFault, match=r"misaligned: ld\.global.*thread \(0, 0, 0\)"):
        run(logsumexp_rows, 5, 128, x, out, memory=memory)


def test_the_end_of_an_array_is_seen():
    x, _, out = logsumexp_case()
    short = np.ascontiguousarray(x[:, :2046])
    with pytest.raises(MemoryFault, match=r"out of bounds|misaligned"):
        run(logsumexp_rows, 5, 128, short, out)


FUNCTIONS = ["exp", "exp2", "expm1", "log", "log1p", "log2", "tanh", "sqrt", "sin", "cos"]


@cuda.jit(device=True, inline="never")
def both(x, y):
    return x * y, x - y


def through_functions(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        product, difference = both(x[i], y[i])
        again, _ = both(product, difference)
        out[i] = again


def test_device_functions_need_no_device():
    x, y = RNG.normal(size=(2, 100))
    out = np.zeros(100)
    report = run(through_functions, 1, 128, x, y, out)
    assert (out == (x * y) * (x - y)).all()
    assert report.executed("call", warps=True) in (0, 8)  # LLVM may put the body in the calls' places


def doubled(x):
    i = cuda.grid(1)
    x[i] *= float64(2)


def test_all_blocks_run():
    x = np.arange(41 * 32.0)
    run(doubled, 41, 32, x, resident=3)
    assert (x == 2 * np.arange(41 * 32)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_libdevice_is_as_accurate_as_nvidia_says(name, dtype):
    scope = {"cuda": cuda, "function": getattr(math, name)}
    exec("def kernel(x, y):\n    i = cuda.grid(1)\n    if i < x.size:\n        y[i] = function(x[i])\n", scope)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 88.7, 700, -104, -745, 1e-40]
    parts = [special, RNG.normal(size=300) * 3, RNG.normal(size=60) * 1e6, RNG.normal(size=60) * 1e-30]
    x = np.concatenate(parts).astype(dtype)
    y = np.full_like(x, 7)
    run(scope["kernel"], 4, 128, x, y)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x.astype(np.longdouble)).astype(dtype)
        apart = np.abs(y.astype(np.longdouble) - expected) / np.spacing(np.abs(expected))
    same = (y == expected) | (np.isnan(y) & np.isnan(expected))
    assert np.where(same, 0, apart).max() <= 2


def fused(a, b, c, out):
    i = cuda.grid(1)
    if i < a.size:
        out[i] = cuda.fma(a[i], b[i], c[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(dtype):
    from fractions import Fraction

    bits = np.finfo(dtype).nmant
    a = (1 + RNG.integers(0, 2**bits, 500) / 2.0**bits).astype(dtype)
    b = (1 + RNG.integers(0, 2**bits, 500) / 2.0**bits).astype(dtype)
    c = (RNG.normal(size=500) * 2.0 ** RNG.integers(-2 * bits, 4, 500)).astype(dtype)
    a[:100] *= dtype(2) ** (np.finfo(dtype).minexp // 2)
    b[:100] *= dtype(2) ** (np.finfo(dtype).minexp // 2 - 2)
    c[:100] *= np.finfo(dtype).tiny
    c[100:200] = -(a * b)[100:200]  # what is left is the rounding of the product
    out = np.zeros_like(a)
    run(fused, 4, 128, a, b, c, out)
    for x, y, z, got in zip(a, b, c, out, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        for near in (np.nextafter(got, dtype(np.inf)), np.nextafter(got, dtype(-np.inf))):
            ours, other = abs(Fraction(float(got)) - exact), abs(Fraction(float(near)) - exact)
            assert ours < other or (ours == other and not got.view(f"u{got.itemsize}") & 1)


def halves(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = float16(float32(x[i]) * float32(2.5) + float32(y[i]))


def test_float16_arrays():
    x, y = RNG.normal(size=(2, 300)).astype("f2")
    out = np.zeros(300, "f2")
    run(halves, 3, 128, x, y, out)
    exact = x.astype("f8") * 2.5 + y.astype("f8")
    assert (out == exact.astype("f4").astype("f2")).all()


def integers(a, b, out):
    i = cuda.grid(1)
    if i >= a.size:
        return
    x, y = a[i], b[i]
    out[0, i] = x // y
    out[1, i] = x % y
    out[2, i] = x * y - (x & y) + (x | ~y)
    out[3, i] = x >> (y & 31)
    out[4, i] = x << (y & 31)
    out[5, i] = min(x, y) ^ max(x, -y)
    out[6, i] = cuda.popc(x) + cuda.clz(y)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_integers(dtype):
    info = np.iinfo(dtype)
    a = np.concatenate([RNG.integers(info.min, info.max, 250, dtype), np.array([0, 1, info.max, info.min], dtype)])
    b = RNG.integers(1, 1000, a.size) * RNG.choice([1, -1 if info.min else 1], a.size)
    b = b.astype(dtype)
    out = np.zeros((7, a.size), dtype)
    run(integers, 2, 128, a, b, out)
    bits = 8 * a.itemsize
    n = b & dtype(31)
    clz = np.array([bits - len(bin(int(v) % 2**bits)) + 2 if v else bits for v in b])
    popc = np.array([bin(int(v) % 2**bits).count("1") for v in a])
    expected = [
        a // b,
        a % b,
        a * b - (a & b) + (a | ~b),
        a >> n,
        a << n,
        np.minimum(a, b) ^ np.maximum(a, -b),
        clz + popc,
    ]
    for got, want in zip(out, expected[:5], strict=False):
        assert (got == want.astype(dtype)).all()
    assert (out[6] == expected[6]).all()


def collatz(start, steps):
    i = cuda.grid(1)
    if i >= start.size:
        return
    n, count = start[i], 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        count += 1
    steps[i] = count


def test_each_thread_takes_its_own_way():
    start, steps = np.arange(1, 200), np.zeros(199, "i8")
    run(collatz, 2, 128, start, steps)

    def count(n):
        return 0 if n == 1 else 1 + count(n // 2 if n % 2 == 0 else 3 * n + 1)

    assert steps.tolist() == [count(int(n)) for n in start]


def histogram(x, counts, sums, highest):
    i = cuda.grid(1)
    if i < x.size:
        at = int32(x[i] * 4)
        cuda.atomic.add(counts, at, int32(1))
        cuda.atomic.add(sums, at, x[i])
        cuda.atomic.max(highest, 0, x[i])


def test_atomics():
    x = RNG.random(1000)
    counts, sums, highest = np.zeros(4, "i4"), np.zeros(4), np.full(1, -np.inf)
    run(histogram, 8, 128, x, counts, sums, highest)
    place = (x * 4).astype(int)
    expected = np.zeros(4)
    np.add.at(expected, place, x)
    assert (counts == np.bincount(place)).all()
    assert (sums == expected).all()
    assert highest[0] == x.max()


def relay(tickets, box, out):
    """Blocks take tickets; each waits for the one before it."""
    mine = cuda.shared.array(1, int32)
    if cuda.threadIdx.x == 0:
        mine[0] = cuda.atomic.add(tickets, 0, int32(1))
    cuda.syncthreads()
    ticket = mine[0]
    if cuda.threadIdx.x == 0:
        if ticket != cuda.gridDim.x - 1:
            while cuda.atomic.cas(box, ticket + 1, 0, 0) == 0:
                pass
        cuda.threadfence()
        out[ticket] = ticket + (out[ticket + 1] if ticket != cuda.gridDim.x - 1 else 0)
        cuda.threadfence()
        cuda.atomic.exch(box, ticket, 1)


def test_blocks_that_spin_give_way():
    tickets, box, out = np.zeros(1, "i4"), np.zeros(9, "i4"), np.zeros(9, "i4")
    run(relay, 8, 64, tickets, box, out, turn=300)
    assert out[:8].tolist() == np.cumsum(np.arange(8)[::-1])[::-1].tolist()


def test_blocks_that_wait_for_ever_are_found():
    tickets, box, out = np.zeros(1, "i4"), np.zeros(9, "i4"), np.zeros(9, "i4")
    with pytest.raises(PtxError, match="hangs"):
        run(relay, 8, 64, tickets, box, out, resident=2, limit=20_000)


def lock(state, total):
    done = False
    while not done:
        if cuda.atomic.cas(state, 0, 0, 1) == 0:
            total[0] += 1
            cuda.threadfence()
            cuda.atomic.exch(state, 0, 0)
            done = True


def test_a_lock_within_a_block():
    state, total = np.zeros(1, "i4"), np.zeros(1, "i8")
    run(lock, 1, 40, state, total, turn=100)
    assert total[0] == 40


def lonely(out):
    if cuda.threadIdx.x < 7:
        out[cuda.threadIdx.x] = cuda.shfl_sync(ALL, cuda.threadIdx.x, 3)
    else:
        cuda.syncwarp(ALL)


def test_a_warp_that_does_not_meet_is_a_deadlock():
    with pytest.raises(PtxError, match="deadlock"):
        run(lonely, 1, 32, np.zeros(32, "i8"))


def unwritten(out):
    box = cuda.shared.array(64, int32)
    if cuda.threadIdx.x < 32:
        box[cuda.threadIdx.x] = 1
    cuda.syncthreads()
    out[cuda.threadIdx.x] = box[cuda.threadIdx.x]


def test_shared_memory_never_written_must_not_be_read():
    with pytest.raises(MemoryFault, match=r"never written.*thread \(32, 0, 0\)"):
        run(unwritten, 1, 64, np.zeros(64, "i4"))
    run(unwritten, 1, 64, np.zeros(64, "i4"), unwritten=False)


def beyond(x, at):
    box = cuda.shared.array(32, int32)
    box[cuda.threadIdx.x + at] = 1
    x[cuda.threadIdx.x + at] = box[cuda.threadIdx.x + at]


@pytest.mark.parametrize(("size", "at", "space"), [(31, 0, "global"), (40, 1, "shared"), (40, -40, "shared")])
def test_bounds(size, at, space):
    with pytest.raises(MemoryFault, match=f"out of bounds of {space} memory"):
        run(beyond, 1, 32, np.zeros(size, "i4"), np.int64(at))


def exchange(x, fenced):
    box = cuda.shared.array(64, int32)
    i = cuda.threadIdx.x
    box[i] = x[i]
    if fenced:
        cuda.syncthreads()
    x[i] = box[63 - i]


def test_races_are_found():
    x = np.arange(64, dtype="i4")
    run(exchange, 1, 64, x, np.int64(1), races=True)
    assert x.tolist() == list(range(63, -1, -1))
    with pytest.raises(MemoryFault, match="race"):
        run(exchange, 1, 64, x, np.int64(0), races=True)


def dynamic(x):
    box = cuda.shared.array(0, float32)
    i = cuda.threadIdx.x
    box[i] = x[i]
    cuda.syncthreads()
    x[i] = box[cuda.blockDim.x - 1 - i]


def test_dynamic_shared_memory():
    x = RNG.normal(size=96).astype("f4")
    expected = x[::-1].copy()
    run(dynamic, 1, 96, x, dynamic_shared=96 * 4)
    assert (x == expected).all()
    with pytest.raises(MemoryFault, match="out of bounds of shared"):
        run(dynamic, 1, 96, x, dynamic_shared=95 * 4)


def two_views(x):
    """Dynamic shared memory is the same for both; it lies behind the static."""
    first, floats, ints = cuda.shared.array(8, int32), cuda.shared.array(0, float32), cuda.shared.array(0, int32)
    i = cuda.threadIdx.x
    first[i % 8] = 7
    floats[i] = x[i]
    cuda.syncthreads()
    ints[i] ^= -(2**31)
    x[i] = floats[i] * first[i % 8]


def test_dynamic_shared_memory_is_one():
    x = RNG.normal(size=32).astype("f4")
    expected = -7 * x
    run(two_views, 1, 32, x, dynamic_shared=128)
    assert (x == expected).all()


def halving(x, whole):
    """A tree in one warp, with a barrier of the warp or without."""
    box = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    box[i] = x[i]
    step = 16
    while step:
        if whole:
            cuda.syncwarp(ALL)
        first = box[(i & 32) + (i & (step - 1)) + step]
        second = box[(i & 32) + (i & (step - 1))]
        if whole:
            cuda.syncwarp(ALL)
        box[i] = first + second
        step //= 2
    x[i] = box[i]


def test_barriers_of_a_warp_order_its_own_memory():
    x = np.arange(64, dtype="f4")
    run(halving, 1, 64, x, np.bool_(True), races=True)
    assert (x == np.repeat([np.arange(32).sum(), np.arange(32, 64).sum()], 32)).all()
    with pytest.raises(MemoryFault, match="race"):
        run(halving, 1, 64, x, np.bool_(False), races=True)


def leaving(x, n):
    """Some threads leave before the barrier: the others do not wait for them."""
    box = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    if i >= n:
        return
    box[i] = x[i]
    cuda.syncthreads()
    x[i] = box[n - 1 - i]


def test_a_barrier_waits_for_none_that_has_left():
    x = np.arange(64, dtype="f4")
    run(leaving, 1, 64, x, np.int64(50))
    assert x.tolist() == [*range(49, -1, -1), *range(50, 64)]


def local_array(x, out, k):
    best = cuda.local.array(8, float32)
    for j in range(8):
        best[j] = -math.inf
    for j in range(x.shape[1]):
        v = x[cuda.threadIdx.x, j]
        at = 7
        while at > 0 and best[at - 1] < v:
            best[at] = best[at - 1]
            at -= 1
        if best[at] < v:
            best[at] = v
    out[cuda.threadIdx.x] = best[k]


def test_local_arrays():
    x, out = RNG.normal(size=(40, 50)).astype("f4"), np.zeros(40, "f4")
    run(local_array, 1, 40, x, out, np.int64(3))
    assert (out == np.sort(x, axis=1)[:, -4]).all()


def votes(x, out):
    i = cuda.threadIdx.x
    out[0, i] = cuda.ballot_sync(ALL, x[i] > 0)
    out[1, i] = cuda.all_sync(ALL, x[i] > -5)
    out[2, i] = cuda.any_sync(ALL, x[i] > 5)
    out[3, i] = cuda.match_any_sync(ALL, int32(x[i]))
    out[4, i] = cuda.activemask()
    out[5, i] = cuda.syncthreads_count(int32(x[i] > 0))
    out[6, i] = cuda.shfl_up_sync(ALL, i, 3)
    out[7, i] = cuda.shfl_sync(ALL, i, 5)


def test_votes_and_shuffles():
    x, out = RNG.normal(size=64).astype("f4"), np.zeros((8, 64), "i8")
    run(votes, 1, 64, x, out)
    lanes, truth, whole = np.arange(64), (x > 0).reshape(2, 32), x.astype("i4").reshape(2, 32)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    assert (out[0] % 2**32 == np.repeat((truth * bits).sum(axis=1), 32)).all()
    assert (out[1] == 1).all()
    assert (out[2] == 0).all()
    same = whole[:, :, None] == whole[:, None, :]
    assert (out[3] % 2**32 == (same * bits).sum(axis=2).reshape(-1)).all()
    assert (out[4] % 2**32 == ALL).all()
    assert (out[5] == truth.sum()).all()
    assert (out[6] == np.where(lanes % 32 >= 3, lanes - 3, lanes)).all()
    assert (out[7] == lanes // 32 * 32 + 5).all()


def test_read_only_arrays_stay_so():
    x = np.zeros(64, "i4")
    x.flags.writeable = False
    with pytest.raises(MemoryFault, match="read-only"):
        run(exchange, 1, 64, x, np.int64(1))


def test_views_of_one_base_share_memory():
    base = np.arange(100, dtype="f4")
    memory = Memory()
    memory.put(base)

    run(copying, 1, 32, base[::2], base[1::2], memory=memory)
    assert (base[1:65:2] == base[0:64:2]).all()


def copying(x, y):
    y[cuda.threadIdx.x] = x[cuda.threadIdx.x]
