"""Asynchronous copies to shared memory in the interpreter of PTX."""

import numpy as np
import pytest

from ptx import Memory, MemoryFault, PtxError, launch

RNG = np.random.default_rng(7)
THREADS = 64
SUM = "ld.shared.v4.u32 {%a, %b, %c, %d}, [%box]; add.u32 %a, %a, %b; add.u32 %c, %c, %d; add.u32 %a, %a, %c;"
SHOW = f"{SUM} st.global.u32 [%out], %a;"
FETCH = "cp.async.cg.shared.global [%box], [%x], 16;"
OTHER = "xor.b32 %j, %i, 1; mov.u64 %box, box; mad.wide.u32 %box, %j, 16, %box;"  # %box is that of another thread


def kernel(body):
    """Each thread has four words of x at %x, 16 bytes of shared memory at %box and a word of out at %out."""
    return f"""
    .shared .align 16 .b8 box[{4 * THREADS * 16}];
    .visible .entry k(.param .u64 px, .param .u64 pout)
    {{
    .reg .b32 %i, %j, %a, %b, %c, %d; .reg .b64 %x, %out, %box; .reg .pred %p<3>;
    mov.u32 %i, %tid.x;
    ld.param.u64 %x, [px]; mad.wide.u32 %x, %i, 16, %x;
    ld.param.u64 %out, [pout]; mad.wide.u32 %out, %i, 4, %out;
    mov.u64 %box, box; mad.wide.u32 %box, %i, 16, %box;
    {body}
    ret;
    }}
    """


def run(body, x=None, offset=0, **options):
    """(sums of the four words of each thread, report)."""
    x = words() if x is None else x
    memory, out = Memory(), np.zeros(THREADS, "u4")
    given = [memory.put(x, offset), memory.put(out)]
    report = launch(kernel(body), None, 1, THREADS, given, memory=memory, **options)
    return out, report


def words():
    return RNG.integers(0, 1000, 4 * THREADS, np.uint32)


def test_copies_arrive_at_the_wait():
    x = words()
    out, report = run(f"{FETCH} cp.async.wait_all; {SHOW}", x, races=True)
    assert (out == x.reshape(-1, 4).sum(axis=1)).all()
    assert report.read_widths == {16: x.nbytes}
    assert report.sectors_read == x.nbytes // 32
    assert report.executed("cp.async.cg") == THREADS


def test_what_nobody_waited_for_is_not_there():
    with pytest.raises(MemoryFault, match="never written"):
        run(f"{FETCH} {SHOW}")
    with pytest.raises(MemoryFault, match="never written"):  # nor what was there before
        run(f"mov.u32 %a, 0; st.shared.v4.u32 [%box], {{%a, %a, %a, %a}}; {FETCH} {SHOW}")
    with pytest.raises(MemoryFault, match=r"never written.*thread \(32, 0, 0\)"):  # the wait is each thread's own
        run(f"{FETCH} setp.lt.u32 %p1, %i, 32; @%p1 cp.async.wait_all; {SHOW}")
    out, _ = run(f"{FETCH} {SHOW}", unwritten=False)
    assert not out.any()


def test_groups_are_waited_for_in_their_order():
    room = 16 * THREADS
    two = f"{FETCH} cp.async.commit_group; cp.async.ca.shared.global [%box+{room}], [%x], 16; cp.async.commit_group;"
    x = words()
    out, _ = run(f"{two} cp.async.wait_group 1; {SHOW}", x)
    assert (out == x.reshape(-1, 4).sum(axis=1)).all()
    late = SHOW.replace("[%box]", f"[%box+{room}]")
    with pytest.raises(MemoryFault, match="never written"):
        run(f"{two} cp.async.wait_group 1; {late}", x)
    out, _ = run(f"{two} cp.async.wait_group 0; {late}", x)
    assert (out == x.reshape(-1, 4).sum(axis=1)).all()
    with pytest.raises(MemoryFault, match="never written"):  # no group holds it yet
        run(f"{FETCH} cp.async.wait_group 0; {SHOW}")


def test_smaller_copies_and_zeros_for_what_is_not_read():
    x = words()
    pieces = "".join(f"cp.async.ca.shared.global [%box+{at}], [%x+{at}], {n};" for at, n in ((0, 4), (4, 4), (8, 8)))
    out, report = run(f"{pieces} cp.async.wait_all; {SHOW}", x)
    assert (out == x.reshape(-1, 4).sum(axis=1)).all()
    assert report.read_widths == {4: x.nbytes // 2, 8: x.nbytes // 2}
    sizes = "and.b32 %j, %i, 3; shl.b32 %j, %j, 2; cp.async.cg.shared.global.L2::128B [%box], [%x], 16, %j;"
    out, report = run(f"{sizes} cp.async.wait_all; {SHOW}", x)
    there = np.arange(4) < np.arange(THREADS)[:, None] % 4
    assert (out == np.where(there, x.reshape(-1, 4), 0).sum(axis=1)).all()
    assert report.global_bytes_read == 4 * np.count_nonzero(there)


def test_only_the_threads_of_the_guard_copy():
    x = words()
    guarded = f"setp.lt.u32 %p1, %i, 40; @%p1 {FETCH} cp.async.wait_all; @%p1 bra THERE; ret; THERE: {SHOW}"
    out, report = run(guarded, x)
    assert (out == np.where(np.arange(THREADS) < 40, x.reshape(-1, 4).sum(axis=1), 0)).all()
    assert report.global_bytes_read == 40 * 16


def test_bounds_and_alignment():
    with pytest.raises(MemoryFault, match=r"misaligned: cp\.async.*thread \(0, 0, 0\)"):
        run(f"{FETCH} cp.async.wait_all;", offset=1)
    with pytest.raises(MemoryFault, match="misaligned"):
        run(f"{FETCH.replace('[%box]', '[%box+4]')}")
    with pytest.raises(MemoryFault, match=r"out of bounds of global memory.*thread \(60, 0, 0\)"):
        run(f"{FETCH} cp.async.wait_all;", words()[: 4 * 60])
    with pytest.raises(MemoryFault, match="out of bounds of shared memory"):
        run(f"{FETCH.replace('[%box]', f'[%box+{4 * 16 * THREADS}]')}")
    x = words()[: 4 * 60]  # what is not read may be beyond the end
    run(f"setp.lt.u32 %p1, %i, 60; selp.u32 %j, 16, 0, %p1; {FETCH.replace('16;', '16, %j;')} cp.async.wait_all;", x)


def test_a_wait_is_no_barrier():
    x = words()
    with pytest.raises(MemoryFault, match="race"):
        run(f"{FETCH} cp.async.wait_all; {OTHER} {SHOW}", x, races=True)
    out, _ = run(f"{FETCH} cp.async.wait_all; bar.sync 0; {OTHER} {SHOW}", x, races=True)
    assert (out == x.reshape(-1, 4).sum(axis=1)[np.arange(THREADS) ^ 1]).all()


def touch(kind, width, at):
    """A load or store of so many bytes of %box."""
    name = {1: "u8", 2: "u16", 4: "u32", 8: "v2.u32", 16: "v4.u32"}[width]
    registers = {8: "{%a, %b}", 16: "{%a, %b, %c, %d}"}.get(width, "%a")
    both = (registers, f"[%box+{at}]") if kind == "ld" else (f"[%box+{at}]", registers)
    return f"{kind}.shared.{name} {', '.join(both)};"


@pytest.mark.parametrize("second", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("first", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kinds", [("st", "ld"), ("ld", "st"), ("st", "st")], ids="-".join)
def test_accesses_of_any_widths_race_where_they_share_a_byte(kinds, first, second):
    one, two = (touch(kind, width, 16 - width) for kind, width in zip(kinds, (first, second), strict=True))
    for between in ("", touch("ld", 1, 0)):  # an access narrower than both, of a thread's own
        with pytest.raises(MemoryFault, match="race"):
            run(f"{one} {between} {OTHER} {two}", races=True, unwritten=False)
        run(f"{one} {between} bar.sync 0; {OTHER} {two}", races=True, unwritten=False)
        run(f"{one} {between} {two}", races=True, unwritten=False)
    if first + second <= 16:
        run(f"{touch(kinds[0], first, 0)} {OTHER} {two}", races=True, unwritten=False)


@pytest.mark.parametrize("wrong", ["cp.async.cg.shared.global [%box], [%x], 8;", "cp.async.bulk.wait_group 0;"])
def test_other_copies_are_unknown(wrong):
    with pytest.raises(PtxError, match="unknown instruction"):
        run(wrong)
