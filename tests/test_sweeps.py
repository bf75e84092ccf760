"""Losses from features, tile by tile: budgets, memory, threads, progress, interrupts."""

import sys
import threading
import types
from importlib import import_module

import calls
import dense
import numpy as np
import pytest
from covering import covering
from scripts import run_script
from test_process import INTERRUPT, posix

import fastce

INF, NAN = np.inf, np.nan
every_loss = pytest.mark.parametrize("form", calls.ALL)
OF_TILES = ["clip_loss_from_features", "siglip_loss", "nt_xent", "sup_con"]
TWICE = ["clip_loss_from_features", "nt_xent", "sup_con"]  # sweeps


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Work on a tile is cut in many blocks, and goes to all threads."""
    threads = import_module("fastce.cpu.threads")
    monkeypatch.setattr(threads, "INLINE_BYTES", 1)
    monkeypatch.setattr(threads, "BLOCK_BYTES", 256)


# ------------------------------------------------------------------------------------------- tiles, budgets
@covering({"form": calls.ALL, "budget": [1, 1500, 4000, 12_000, 40_000, 1 << 20], "normalize": [False, True]}, quick=1)
def test_any_memory_budget_is_right(edges, rng, normalize, budget, form):
    edges(64, 8)
    features = calls.features_of(form, rng, 70, dtype=np.float64)
    options = calls.options_of(form) | ({"normalize": normalize} if form in calls.CONTRASTIVE else {})
    rest = calls.rest_of(form, 70)
    dense.check(calls.name_of(form), *features, *rest, reductions=["mean"], memory_budget=budget, **options)


@covering({"form": calls.ALL, "n": [*range(1, 10), 15, 16, 17, 25, 35]}, quick=1)
def test_every_size_around_the_edges_of_tiles(edges, rng, n, form):
    edges(8, 4)
    features, rest = calls.features_of(form, rng, n, dtype=np.float64), calls.rest_of(form, n)
    dense.check(calls.name_of(form), *features, *rest, reductions=["sum"], **calls.options_of(form))


@pytest.mark.slow
@pytest.mark.parametrize("form", TWICE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kept_tiles_are_the_bits_of_tiles_that_are_multiplied_again(edges, monkeypatch, rng, dtype, form):
    edges(16, 16)
    features = calls.features_of(form, rng, 40, dtype=dtype)
    tiles, products = import_module("fastce.products.tiles").Tiles, []
    multiply = tiles._product
    monkeypatch.setattr(tiles, "_product", lambda self, *args: (products.append(args[0]), multiply(self, *args))[1])

    def result_and_products(budget):
        products.clear()
        return dense.bits(calls.call(form, features, memory_budget=budget)), len(products)

    plain, twice = result_and_products(1)
    assert twice % 2 == 0
    number, seen = twice // 2, set()
    for budget in (1, *range(4000, 40_000, 3000), 1 << 28):
        result, multiplied = result_and_products(budget)
        assert result == plain
        seen.add(multiplied)
    assert {twice, number} < seen, "no budget kept none, some and all of the tiles"
    assert seen <= set(range(number, twice + 1))


@pytest.mark.parametrize("form", ["nt_xent", "sup_con"])
def test_only_half_of_the_products_of_one_side_are_multiplied(edges, rng, form):
    edges(8, 8)
    features = calls.features_of(form, rng, 80)
    seen = []
    calls.value(form, features, progress=lambda done, total: seen.append(total))
    side = 2 * 10 if form == "nt_xent" else 10
    assert set(seen) == {side * (side + 1) // 2}


# --------------------------------------------------------------------------------------------------- memory
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a record of resident memory that can be set back")
def test_extra_memory_is_the_budget_and_not_the_matrix(tmp_path):
    # the matrix of products would be 144 MB, and so would be that of its gradient
    out, _ = run_script(
        """
import numpy as np
import calls
from fastce.profile.measure import extra_memory

rng = np.random.default_rng(0)
for form in [f for f in calls.ALL if "own" not in f]:
    for dtype in (np.float32, np.float16):
        n = 3000 if form == "nt_xent" else 6000
        features = calls.features_of(form, rng, n, 64, dtype)
        calls.call(form, [a[:300] for a in features])
        extra, result = extra_memory(lambda: calls.call(form, features, memory_budget=16 << 20))
        print(form.replace(" ", "_"), extra)
""",
        tmp_path,
    )
    for line in out.splitlines():
        form, extra = line.split()
        if extra == "None":
            pytest.skip("the system does not tell")
        assert int(extra) <= (16 + 32) << 20, f"{form} took {int(extra) / 2**20:.1f} MiB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a record of resident memory that can be set back")
def test_wide_features_and_own_keys_keep_to_the_budget(tmp_path):
    out, _ = run_script(
        """
import numpy as np
import fastce
from fastce.profile.measure import extra_memory

rng = np.random.default_rng(0)

def extra_of(name, *arrays, **options):
    function = getattr(fastce, f"{name}_value_and_grad")
    function(*arrays, **options)  # compiles
    extra, result = extra_memory(lambda: function(*arrays, **options))
    print(name, None if extra is None else extra - sum(part.nbytes for part in result if isinstance(part, np.ndarray)))

wide = rng.normal(size=(4, 16384)).astype(np.float32)
extra_of("linear_cross_entropy", wide, rng.normal(size=(4096, 16384)).astype(np.float32), np.arange(4), memory_budget=1)
query, own = rng.normal(size=(2000, 64)).astype(np.float32), rng.normal(size=(2000, 200, 64)).astype(np.float32)
extra_of("info_nce", query, query, own, memory_budget=24 << 20)
""",
        tmp_path,
    )
    budgets = {"linear_cross_entropy": 1, "info_nce": 24 << 20}
    for line in out.splitlines():
        name, extra = line.split()
        if extra == "None":
            pytest.skip("the system does not tell")
        assert int(extra) <= budgets[name] + (32 << 20), f"{name} took {int(extra) / 2**20:.1f} MiB"


def test_wide_features_are_multiplied_many_rows_at_a_time(rng):
    steps = []
    features, weights = (
        rng.normal(size=(300, 16384)).astype(np.float32),
        rng.normal(size=(10, 16384)).astype(np.float32),
    )
    fastce.linear_cross_entropy(
        features, weights, np.arange(300) % 10, progress=lambda done, total: steps.append(total)
    )
    assert steps == [1]


@every_loss
def test_a_call_that_is_refused_opens_no_bar(monkeypatch, rng, form):
    bars = stub_of_tqdm(monkeypatch)
    wrong = {"grad_output": "no"} if form == "linear_cross_entropy" else {"memory_budget": 0}
    with pytest.raises((TypeError, ValueError)):
        calls.call(form, calls.features_of(form, rng), progress=True, **wrong)
    assert not bars


# -------------------------------------------------------------------------------------------------- threads
@covering({"form": calls.ALL, "dtype": [np.float16, np.float32, np.float64]}, quick=1)
def test_any_number_of_threads_gives_the_same_bits(small_tiles, tiny_blocks, rng, dtype, form):
    features = calls.features_of(form, rng, 61, dtype=dtype)
    options = {"normalize": True} if form in calls.CONTRASTIVE else {"linear_bias": rng.normal(size=61).astype(dtype)}
    expected = dense.bits(calls.call(form, features, n_threads=1, **options))
    for n_threads in (2, 3, 8):
        assert dense.bits(calls.call(form, features, n_threads=n_threads, **options)) == expected
    with fastce.threads(3):
        assert dense.bits(calls.call(form, features, **options)) == expected


@covering({"form": calls.ALL, "n_threads": [1, 3], "bad": [NAN, INF, -INF, 3e38]}, quick=1)
def test_nothing_warns_or_raises_in_any_thread(small_tiles, tiny_blocks, rng, bad, n_threads, form):
    features = calls.features_of(form, rng, 40)
    for a in features:
        a[::7] = bad
    for options in ({"normalize": True}, {"normalize": False}) if form in calls.CONTRASTIVE else ({},):
        quiet = calls.call(form, features, n_threads=n_threads, **options)
        with np.errstate(all="raise"):
            strict = calls.call(form, features, n_threads=n_threads, **options)
        assert dense.bits(strict) == dense.bits(quiet)


def test_all_threads_of_a_call_have_the_error_handling_of_its_caller():
    for_each, together, seen = import_module("fastce.cpu.threads").for_each, threading.Barrier(3), {}

    def work(start, stop):
        together.wait(timeout=60)  # three threads have a block each
        seen[start] = threading.get_ident(), np.geterr()

    with np.errstate(over="ignore", divide="raise"):
        expected = np.geterr()
        for_each([(0, 1), (1, 2), (2, 3)], work, 3)
    assert len({ident for ident, _ in seen.values()}) == 3
    assert [errors for _, errors in seen.values()] == [expected] * 3


@pytest.mark.slow
def test_four_python_threads_at_once_give_the_results_of_one():
    rng = np.random.default_rng(3)
    inputs = {form: calls.features_of(form, rng, 200, 20, np.float64) for form in calls.ALL}
    expected = {form: calls.call(form, features) for form, features in inputs.items()}
    barrier, results = threading.Barrier(4), {}

    def work(k):
        barrier.wait()
        results[k] = [{form: calls.call(form, features) for form, features in inputs.items()} for _ in range(2)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers), "hangs"
    for rounds in results.values():
        for result in rounds:
            for form, parts in result.items():
                for part, same in zip(parts, expected[form], strict=True):
                    if same is not None:
                        np.testing.assert_allclose(part, same, rtol=1e-10, atol=1e-13)
    assert len(results) == 4


@pytest.mark.slow
@posix
def test_a_child_forked_after_a_call_can_call(tmp_path):
    run_script(
        """
import os, signal
import numpy as np
import calls, dense

rng = np.random.default_rng(0)
inputs = {form: calls.features_of(form, rng, 300, 20) for form in calls.ALL}
expected = {form: dense.bits(calls.call(form, features, n_threads=2)) for form, features in inputs.items()}
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs is killed by it
    same = all(dense.bits(calls.call(form, inputs[form], n_threads=2)) == expected[form] for form in calls.ALL)
    os._exit(0 if same else 3)
assert os.waitpid(child, 0)[1] == 0, "the child was killed, hung or got other results"
""",
        tmp_path,
    )


# ------------------------------------------------------------------------------------------------- progress
@every_loss
def test_progress_is_told_after_every_tile_in_order_from_the_calling_thread(small_tiles, tiny_blocks, rng, form):
    features = calls.features_of(form, rng, 50)
    plain = calls.call(form, features)
    for function, same in ((calls.call, plain), (calls.value, plain.value)):
        told = []

        def tell(done, total, told=told):
            told.append((done, total))
            assert threading.current_thread() is threading.main_thread()

        assert dense.bits(function(form, features, progress=tell, n_threads=3)) == dense.bits(same)
        total = told[0][1]
        assert total > 1
        assert told == [(done, total) for done in range(1, total + 1)]


@covering({"form": calls.ALL, "at": [1, 3]}, quick=1)
def test_what_progress_raises_ends_the_call_and_the_next_one_works(small_tiles, rng, at, form):
    features = calls.features_of(form, rng, 50)
    plain, told = calls.call(form, features), []

    def tell(done, total):
        told.append(done)
        if done == at:
            raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError, match="enough"):
        calls.call(form, features, progress=tell)
    assert told == list(range(1, at + 1))
    assert dense.bits(calls.call(form, features)) == dense.bits(plain)


@every_loss
@pytest.mark.parametrize("progress", [None, False])
def test_without_progress_nothing_is_printed(small_tiles, rng, capfd, progress, form):
    calls.call(form, calls.features_of(form, rng, 50), progress=progress)
    assert capfd.readouterr() == ("", "")


@every_loss
def test_without_tqdm_progress_is_a_line_on_stderr(small_tiles, monkeypatch, capfd, rng, form):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    features, totals = calls.features_of(form, rng, 50), []
    calls.call(form, features, progress=lambda done, total: totals.append(total))
    ours = calls.call(form, features, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    unit = "panels" if calls.name_of(form) in ("info_nce", "linear_cross_entropy") else "tiles"
    assert f"{calls.name_of(form)}: {totals[0]} of {totals[0]} {unit}" in err
    assert err.endswith("\n")
    assert dense.bits(ours) == dense.bits(calls.call(form, features))


def stub_of_tqdm(monkeypatch):
    """In the place of tqdm; the bars that were made."""
    bars = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.options, self.count, self.closed = total, options, 0, False
            bars.append(self)

        def update(self, n=1):
            assert not self.closed
            self.count += n

        def close(self):
            self.closed = True

    package, auto = types.ModuleType("tqdm"), types.ModuleType("tqdm.auto")
    package.auto, auto.tqdm = auto, Bar
    monkeypatch.setitem(sys.modules, "tqdm", package)
    monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
    return bars


@every_loss
def test_with_tqdm_progress_is_one_bar_that_reaches_its_end_and_is_closed(small_tiles, monkeypatch, capfd, rng, form):
    bars = stub_of_tqdm(monkeypatch)
    for k, function in enumerate((calls.call, calls.value)):
        function(form, calls.features_of(form, rng, 50), progress=True)
        assert len(bars) == k + 1
        assert bars[-1].count == bars[-1].total > 1
        assert bars[-1].closed
        assert bars[-1].options["desc"] == calls.name_of(form)
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_closed_when_a_call_fails(small_tiles, monkeypatch, rng):
    bars = stub_of_tqdm(monkeypatch)
    tiles = import_module("fastce.products.tiles").Tiles
    multiply = tiles._product

    def fails_at_last(self, place, room):
        if place.number == 5:
            raise MemoryError
        return multiply(self, place, room)

    monkeypatch.setattr(tiles, "_product", fails_at_last)
    form = "clip_loss_from_features"
    with pytest.raises(MemoryError):
        calls.call(form, calls.features_of(form, rng, 50), progress=True)
    assert bars[0].closed
    assert bars[0].count == 5


def test_the_real_tqdm_writes_to_stderr_only(small_tiles, capfd, rng):
    pytest.importorskip("tqdm")
    form = "clip_loss_from_features"
    calls.call(form, calls.features_of(form, rng, 50), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "clip_loss_from_features" in err


# --------------------------------------------------------------------------------------------------- Ctrl-C
@pytest.mark.slow
@posix
@pytest.mark.parametrize("form", ["clip_loss_from_features", "siglip_loss", "linear_cross_entropy"])
def test_ctrl_c_stops_a_sweep_soon_and_the_next_call_works(form, tmp_path):
    # What counts is the time that the process has worked on each core, BLAS included; and the best of three tries.
    run_script(
        INTERRUPT
        + f"""
import calls, dense

rng = np.random.default_rng(0)
small = calls.features_of({form!r}, rng, 300, 64)
large = calls.features_of({form!r}, rng, 30_000, 64)
before = dense.bits(calls.call({form!r}, small))
for attempt in range(3):
    sent = interrupt_after(0.3)
    try:
        calls.call({form!r}, large)
    except KeyboardInterrupt:
        delay = (time.process_time() - sent[0]) / len(os.sched_getaffinity(0))
    else:
        raise SystemExit("was not interrupted")
    assert dense.bits(calls.call({form!r}, small)) == before
    if delay <= 0.25:
        break
else:
    raise SystemExit(f"stopped after {{delay}} s")
print(delay)
""",
        tmp_path,
    )


def test_an_empty_call_has_no_progress():
    told = []
    nobody = np.empty((0, 4))
    fastce.clip_loss_from_features_value_and_grad(nobody, nobody, progress=lambda *args: told.append(args))
    assert told == []
