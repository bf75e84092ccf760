"""Signals, forks, small stacks, threads that cannot be started, and the end of the process: in the middle of a call."""

import os
import platform
import threading
import time
from importlib import import_module

import pytest
from scripts import run_script

pool, apart, for_each = (
    import_module("fastce.cpu.pool"),
    import_module("fastce.apart"),
    import_module("fastce.cpu.threads").for_each,
)
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes and signals")


# ------------------------------------------------------------------------- threads that cannot be started
@pytest.mark.parametrize("can_be_started", [0, 1, 2])
def test_threads_that_cannot_be_started_are_done_without(can_be_started, monkeypatch):
    real, starts, done = apart.start_new_thread, [], []

    def start(*args):
        starts.append(args)
        if len(starts) > can_be_started:
            raise RuntimeError("can't start new thread")
        return real(*args)

    def work(start, stop):
        time.sleep(0.05)
        done.append(start)

    monkeypatch.setattr(apart, "start_new_thread", start)
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(pool, "_pool", pool._Pool())
    for_each([(0, 1), (1, 2), (2, 3)], work, 3)
    assert sorted(done) == [0, 1, 2]  # by helpers that have begun, too
    time.sleep(0.1)
    assert len(done) == 3
    assert pool._pool.threads == can_be_started
    if can_be_started == 0:
        assert pool._pool.requests.qsize() == 0  # nobody would ever take one out


def test_work_apart_is_done_here_where_no_thread_can_be_started(monkeypatch):
    def start(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(apart, "start_new_thread", start)
    assert apart.load(threading.get_ident) == threading.get_ident()
    assert apart.load(lambda: apart.load(threading.get_ident)) == threading.get_ident()


def test_an_error_of_a_helper_is_raised_when_all_have_ended():
    together, ended = threading.Barrier(3), []

    def work(start, stop):
        together.wait(timeout=60)
        if start == 0:
            raise KeyError("block 0")
        time.sleep(0.05)
        ended.append(start)

    with pytest.raises(KeyError, match="block 0"):
        for_each([(k, k + 1) for k in range(3)] + [(9, 10)] * 100, work, 3)
    assert sorted(ended) == [1, 2]


def test_what_is_done_apart_raises_here():
    with pytest.raises(ZeroDivisionError):
        apart.load(lambda: 1 / 0)
    assert apart.load(threading.get_ident) != threading.get_ident()


def test_a_call_leaves_no_reference_to_its_arrays():
    class Block:
        pass

    import gc
    import weakref

    block = Block()
    gone = weakref.ref(block)

    def work(start, stop, block=block):
        time.sleep(0.001)

    for_each([(k, k + 1) for k in range(10)], work, 3)
    del work, block
    end = time.monotonic() + 30
    while gone() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


# --------------------------------------------------------------------------------- exceptions from handlers
BURST = """
import random, signal, threading, time
import numpy as np
import fastce
from importlib import import_module

class Late(BaseException):  # nothing that handles errors takes it for one of its own
    pass

left, pause = 0, 1.0

def handler(number, frame):
    global left
    while frame is not None and "fastce" not in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    if left > 0:
        is_in_call = frame is not None
        left -= is_in_call
        signal.setitimer(signal.ITIMER_REAL, pause)  # once, lest handlers interrupt each other without end
        if is_in_call:
            raise Late

def burst(call):
    '''Call it until a burst of exceptions is over.'''
    global left, pause
    pause = random.choice([5e-5, 2e-4, 1e-3])
    left = random.randint(1, 20)
    signal.setitimer(signal.ITIMER_REAL, random.choice([1e-4, 1e-3, 3e-3]))
    while True:
        try:
            while left > 0:
                call()
            break
        except Late:
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)

signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 1.5
"""


@pytest.mark.slow
@posix
def test_after_a_burst_of_exceptions_from_a_handler_no_helper_begins_or_ends_a_block(tmp_path):
    run_script(
        BURST
        + """
for_each, log, helped = import_module("fastce.cpu.threads").for_each, [], set()

def work(start, stop):
    time.sleep(0.0005 if threading.current_thread() is threading.main_thread() else 0.002)
    log.append(start)
    helped.add(threading.get_ident())

while time.monotonic() < end or len(helped) < 2:
    burst(lambda: for_each([(k, k + 1) for k in range(12)], work, 3))
    count = len(log)
    time.sleep(0.005)
    assert len(log) == count, "a helper went on"
for_each([(k, k + 1) for k in range(12)], work, 3)
assert sorted(log[-12:]) == list(range(12))
assert import_module("fastce.cpu.pool")._pool.threads < 20
""",
        tmp_path,
    )


@pytest.mark.slow
@posix
def test_after_an_exception_from_a_handler_nothing_is_written_into_out(tmp_path):
    run_script(
        BURST
        + """
x = np.random.default_rng(0).normal(0, 5, (20_000, 300)).astype(np.float32)
out, expected = np.zeros_like(x), fastce.log_softmax(x, axis=1, n_threads=1)
while time.monotonic() < end:
    burst(lambda: fastce.log_softmax(x, axis=1, out=out, n_threads=3))
    out.fill(7)
    time.sleep(0.005)
    assert np.all(out == 7)
assert np.array_equal(fastce.log_softmax(x, axis=1, n_threads=3), expected)
""",
        tmp_path,
    )


# --------------------------------------------------------------------------------- calls in signal handlers
# Kernels of a test's own are compiled in a moment.
KERNELS = """
import os, signal, sys, threading, time
import numpy as np
from fastce.cpu._vectors.compiler import kernel, vector

def new_kernel():
    @kernel(lambda storage: (vector(storage),))
    def fill(out):
        for i in range(out.size):
            out[i] = 3
    return fill

def compile_and_check():
    out = np.zeros(5, np.float32)
    new_kernel().compiled(out.dtype)(out)
    assert np.all(out == 3)
"""


@pytest.mark.slow
@posix
def test_a_handler_may_call_while_the_main_thread_imports_and_compiles(tmp_path):
    run_script(
        """
import signal, time
import numpy as np
import fastce

x, y = np.ones((40, 300), np.float32), np.zeros(40, int)
answers = []

def handler(number, frame):
    if len(answers) < 2:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
    answers.append(float(fastce.nll_loss(x, y)))

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
assert abs(fastce.binary_cross_entropy_with_logits(x, x) - np.log1p(np.exp(-1))) < 1e-6
while len(answers) < 2:
    time.sleep(0.01)
assert set(answers) == {-1.0}
""",
        tmp_path,
        FASTCE_CACHE=0,
    )


@pytest.mark.slow
@posix
def test_a_handler_may_compile_while_the_main_thread_does_and_while_numba_does(tmp_path):
    run_script(
        KERNELS
        + """
import traceback
import numba

count = 0

def handler(number, frame):
    global count
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        compile_and_check()
    except RuntimeError as error:  # Numba called back from LLVM: nothing can be compiled there, and that is said
        assert "has interrupted LLVM" in str(error), error
        assert "llvmlite" in "".join(traceback.format_stack()), "not in the middle of LLVM"
    count += 1

signal.signal(signal.SIGALRM, handler)
compile_and_check()
for delay in (0.005, 0.02, 0.05):
    for compiles in (compile_and_check, lambda: numba.njit(lambda x: x + 1)(1)):
        signal.setitimer(signal.ITIMER_REAL, delay)
        before = count
        compiles()
        while count == before:
            time.sleep(0.001)
""",
        tmp_path,
        FASTCE_CACHE=0,
    )


@pytest.mark.slow
@posix
def test_a_handler_may_call_while_the_main_thread_shares_a_call_with_helpers(tmp_path):
    run_script(
        """
import signal, time
import numpy as np
import fastce

x = np.random.default_rng(0).normal(0, 5, (3000, 300)).astype(np.float32)
expected, count, busy = fastce.softmax(x, axis=1, n_threads=1), 0, False

def handler(number, frame):
    global count, busy
    if not busy:
        busy = True
        assert np.array_equal(fastce.softmax(x, axis=1, n_threads=3), expected)
        count += 1
        busy = False

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
end = time.monotonic() + 1
while time.monotonic() < end or count < 10:
    assert np.array_equal(fastce.softmax(x, axis=1, n_threads=3), expected)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
        tmp_path,
    )


# ------------------------------------------------------------------------------------------------- forks
@posix
@pytest.mark.slow
def test_a_child_can_compile_though_its_parent_was_compiling(tmp_path):
    run_script(
        KERNELS
        + """
compile_and_check()
stop = threading.Event()

def compile_on():
    while not stop.is_set():
        compile_and_check()

others = [threading.Thread(target=compile_on) for _ in range(2)]
[other.start() for other in others]
for repeat in range(5):
    time.sleep(0.02 * repeat)
    child = os.fork()
    if child == 0:
        signal.alarm(50)  # a child that hangs is killed by it
        compile_and_check()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child was killed or hung"
stop.set()
[other.join() for other in others]
compile_and_check()
""",
        tmp_path,
        FASTCE_CACHE=0,
    )


@pytest.mark.slow
@posix
def test_a_child_can_import_though_its_parent_was_importing(tmp_path):
    _, err = run_script(
        """
import os, signal, threading, time
import fastce

threading.Thread(target=lambda: fastce.logsumexp([1.0, 2.0])).start()
time.sleep(0.05)
child = os.fork()
if child == 0:
    signal.alarm(50)
    assert abs(fastce.logsumexp([0.0, 0.0]) - 0.6931471805599453) < 1e-12
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child was killed or hung"
""",
        tmp_path,
    )
    assert err == ""


@posix
def test_importing_fastce_does_not_import_numba_for_the_sake_of_forks(tmp_path):
    out, _ = run_script("import os, sys, fastce; os.fork() or os._exit(0); print('numba' in sys.modules)", tmp_path)
    assert out.split() == ["False"]


# ------------------------------------------------------------------------------------------ small stacks
@posix
@pytest.mark.slow
def test_threads_with_a_stack_of_128_kib(tmp_path):
    run_script(
        """
import threading
import numpy as np
import fastce

rng = np.random.default_rng(0)
x, y = rng.normal(0, 5, (300_000, 8)).astype(np.float32), rng.integers(0, 8, 300_000)
expected = fastce.cross_entropy_value_and_grad(x, y, n_threads=1)
threading.stack_size(128 << 10)
value, grad = fastce.cross_entropy_value_and_grad(x, y, n_threads=3)
assert value == expected.value and np.array_equal(grad, expected.grad)
assert threading.stack_size() == 128 << 10

few, many = rng.normal(0, 5, (500, 7)), rng.normal(0, 5, (40, 300))
def calls():
    for logits in (few, many):
        targets = np.zeros(len(logits), int)
        for dtype in (np.float32, np.float64, np.float16):
            z = logits.astype(dtype)
            yield fastce.logsumexp(z, axis=1)
            yield fastce.softmax(z, axis=1)
            yield fastce.log_softmax(z, axis=0)
            yield from fastce.cross_entropy_value_and_grad(z, targets, label_smoothing=0.1, n_threads=2)
            yield from fastce.cross_entropy_grad_and_hess(z, targets)
            yield fastce.nll_loss(z, targets)
            yield fastce.binary_cross_entropy_with_logits(z, np.abs(np.tanh(z)))
            yield from fastce.clip_loss_value_and_grad(z[:7, :7])
            yield fastce.row_stats(z, outputs=("entropy",))["entropy"]
            yield from fastce.linear_cross_entropy_value_and_grad(z, z[:50], targets)

results = []
def work():
    with fastce.threads(3):
        assert fastce.get_num_threads() == 3
        results.append([np.asarray(part) for part in calls() if part is not None])
thread = threading.Thread(target=work)
thread.start()
thread.join()
for part, same in zip(results[0], [np.asarray(part) for part in calls() if part is not None], strict=True):
    assert np.array_equal(part, same)
""",
        tmp_path,
        timeout=300,  # if all of it must be compiled
    )


# ------------------------------------------------------------------------------------ floating-point modes
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="knows one layout")
@pytest.mark.parametrize("bits", [0x8040, 0x4000], ids=["subnormals are 0", "rounded up"])
def test_helpers_have_the_floating_point_mode_of_their_caller(bits, tmp_path):
    run_script(
        f"""
import ctypes
import numpy as np
import fastce

usual, library = (ctypes.c_uint * 16)(), ctypes.CDLL(None)
library.fegetenv(usual)
other = type(usual)(*usual)
other[7] |= {bits}  # MXCSR
x = np.random.default_rng(0).uniform(-100, 0, (20_000, 300)).astype(np.float32)
def bits_of(mode, n_threads):
    library.fesetenv(mode)
    try:
        return fastce.softmax(x, axis=1, n_threads=n_threads).tobytes()
    finally:
        library.fesetenv(usual)
fastce.softmax(x[:9], axis=1)
in_other, in_usual = bits_of(other, 3), bits_of(usual, 1)  # the pool is made in the other mode
assert in_other != in_usual, "the mode does not matter"
for repeat in range(3):
    assert bits_of(usual, 3) == in_usual
    assert bits_of(other, 3) == bits_of(other, 1) == in_other
""",
        tmp_path,
    )


# ---------------------------------------------------------------------------------- the end of the process
def test_the_process_ends_while_a_daemon_thread_is_in_a_call(tmp_path):
    run_script(
        """
import threading, time
from importlib import import_module
import fastce

begun = threading.Event()
def work(start, stop):
    begun.set()
    time.sleep(0.2)
blocks = [(k, k + 1) for k in range(10_000)]  # for a quarter of an hour
threading.Thread(target=import_module("fastce.cpu.threads").for_each, args=(blocks, work, 2), daemon=True).start()
begun.wait()
""",
        tmp_path,
    )


@pytest.mark.parametrize("n_threads", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_process_ends_while_a_daemon_thread_is_in_a_kernel(n_threads, tmp_path):
    run_script(
        f"""
import threading, time
import numpy as np
import fastce

x = np.broadcast_to(np.float32(1), (100_000_000, 1000))  # minutes
fastce.logsumexp(x[:9], axis=1)
threading.Thread(target=lambda: fastce.logsumexp(x, axis=1, n_threads={n_threads}), daemon=True).start()
time.sleep(0.2)
""",
        tmp_path,
    )
