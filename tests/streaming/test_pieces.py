"""Cross entropy of logits in pieces: as of the whole matrix, whatever the pieces are and wherever they come from."""

import itertools
import threading

import naive
import numpy as np
import pytest
import scipy.sparse
from checks import assert_gradient, assert_losses, dtype_of, mixture
from covering import covering

import fastce
from fastce import streaming

DTYPES = ["float32", "float64", "float16", "bfloat16"]
ROWS, CLASSES = 61, 45
CUTS_OF_CLASSES = [0, 1, 1, 20, 44, 45]  # one class, none, many, one
CUTS_OF_ROWS = [0, 1, 1, 40, 61]


def pieces_of(array, cuts, axis):
    return [array.take(range(a, b), axis) for a, b in itertools.pairwise(cuts)]


def options_of(kind, rng):
    weight = rng.uniform(0.5, 2.0, CLASSES)
    sample_weight = rng.uniform(0.1, 2.0, ROWS)
    sample_weight[[3, 50]] = 0.0
    return {
        "plain": {},
        "smoothed": {"label_smoothing": 0.1},
        "over others": {"label_smoothing": 0.3, "smoothing_over": "others"},
        "weights": {"weight": weight, "sample_weight": sample_weight},
        "all": {"weight": weight, "sample_weight": sample_weight, "label_smoothing": 0.2, "z_loss": 1e-2,
                "logit_scale": 0.7, "softcap": 15.0},
        "scaled": {"logit_scale": 3.0, "z_loss": 1e-3},
    }[kind]  # fmt: skip


REDUCTIONS, TARGETS = ["none", "sum", "mean"], ["indices", "probabilities", "sparse"]
OPTIONS = ["plain", "smoothed", "over others", "weights", "all", "scaled"]


def targets_of(kind, rng):
    if kind == "indices":
        targets = rng.integers(0, CLASSES, ROWS)
        targets[[7, 30]] = -100
        return targets
    if kind == "probabilities":
        return rng.dirichlet(np.ones(CLASSES), ROWS)
    return scipy.sparse.random_array((ROWS, CLASSES), density=0.1, random_state=1, format="csr")


def is_right(value, grad, logits, targets, reduction, options):
    exact = naive.CrossEntropy(np.array(logits, copy=True), targets, **options)
    assert_losses(value, exact, logits.dtype, reduction, options)
    if grad is not None:
        assert_gradient(grad, exact, logits.dtype, reduction, 1.0, options)


@pytest.fixture
def logits(rng):
    """Of a dtype; half of the rows are difficult if no sum of them is asked for."""
    return lambda name, reduction="mean": mixture(
        rng, ROWS, CLASSES, dtype_of(name), 0.5 if reduction == "none" else 0.0
    )[0]


# --- blocks of classes


@covering({"dtype": DTYPES, "kind": OPTIONS, "reduction": REDUCTIONS}, quick=1)
def test_blocks_of_classes(dtype, kind, reduction, logits, rng):
    x, targets, options = logits(dtype, reduction), targets_of("indices", rng), options_of(kind, rng)
    blocks, grad = pieces_of(x, CUTS_OF_CLASSES, 1), np.empty_like(x)
    call = {"pieces": "classes", "reduction": reduction, **options}
    value, given = streaming.cross_entropy_value_and_grad(blocks, targets, out=grad, **call)
    assert given is grad
    is_right(value, grad, x, targets, reduction, options)
    np.testing.assert_array_equal(streaming.cross_entropy(iter(blocks), targets, **call), value)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_special_values_in_any_block(smoothing):
    inf, nan = np.inf, np.nan
    x = np.array([
        [0, 1, 2, 3], [-inf, -inf, -inf, -inf], [inf, 0, 0, 0], [0, 0, inf, 0], [nan, 0, 0, 0], [0, 0, 0, nan],
        [-inf, -inf, 0, 1], [0, 1, -inf, -inf], [-inf, 0, -inf, -inf], [3e38, -3e38, 0, 1], [-inf, -inf, -inf, 5],
    ], np.float32)  # fmt: skip
    for target in range(4):
        targets = np.full(len(x), target)
        expected, of_whole = fastce.cross_entropy_value_and_grad(
            x, targets, label_smoothing=smoothing, reduction="none"
        )
        grad = np.empty_like(x)
        value, _ = streaming.cross_entropy_value_and_grad(
            [x[:, :2], x[:, 2:2], x[:, 2:]], targets, pieces="classes", out=grad, label_smoothing=smoothing,
            reduction="none",
        )  # fmt: skip
        np.testing.assert_allclose(value, expected, rtol=5e-7)
        np.testing.assert_allclose(grad, of_whole, atol=5e-7)


@pytest.mark.parametrize("margin", [25.0, 40.0, 80.0])
@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_confident_rows_keep_their_digits_wherever_their_classes_are(margin, offset):
    x = np.full((4, 6), offset)
    targets = np.array([0, 2, 3, 5])
    x[range(4), targets] += margin
    blocks = pieces_of(x, [0, 2, 3, 6], 1)
    value = streaming.cross_entropy(blocks, targets, pieces="classes", reduction="none")
    np.testing.assert_allclose(value, np.log1p(5 * np.exp(-((offset + margin) - offset))), rtol=1e-14)


def test_rows_that_do_not_count_may_hold_anything(rng):
    x, targets = rng.normal(size=(4, 6)), np.array([0, -100, 5, 2])
    x[1], x[2] = np.nan, np.inf
    weight = np.array([1.0, 1.0, 0.0, 1.0])
    grad = np.empty_like(x)
    value, _ = streaming.cross_entropy_value_and_grad(
        pieces_of(x, [0, 3, 6], 1), targets, pieces="classes", sample_weight=weight, out=grad
    )
    assert value == pytest.approx(fastce.cross_entropy(x[[0, 3]], targets[[0, 3]]), rel=1e-15)
    assert not grad[1:3].any()


@pytest.mark.parametrize("wrong", [-1, 45, 2**40, -101])
def test_a_target_that_no_block_owns_is_named(wrong, logits, rng):
    targets = rng.integers(0, CLASSES, ROWS)
    targets[9] = wrong
    blocks = pieces_of(logits("float32"), CUTS_OF_CLASSES, 1)
    with pytest.raises(IndexError, match=f"targets in row 9 hold class index {wrong}, accepted are 0 to 44"):
        streaming.cross_entropy(blocks, targets, pieces="classes")


def test_a_gradient_needs_blocks_of_classes_that_can_be_read_twice(logits, rng):
    x, targets = logits("float32"), targets_of("indices", rng)
    blocks, grad = pieces_of(x, CUTS_OF_CLASSES, 1), np.empty_like(x)
    call = {"pieces": "classes", "out": grad}
    with pytest.raises(ValueError, match="twice: give a sequence, or a function"):
        streaming.cross_entropy_value_and_grad(iter(blocks), targets, **call)
    value, _ = streaming.cross_entropy_value_and_grad(lambda: (block for block in blocks), targets, **call)
    is_right(value, grad, x, targets, "mean", {})


def test_weights_of_another_number_of_classes_are_refused(logits, rng):
    blocks, targets = pieces_of(logits("float32"), CUTS_OF_CLASSES, 1), targets_of("indices", rng)
    for size in (44, 46):
        with pytest.raises(ValueError, match=rf"weight has shape \({size},\)"):
            streaming.cross_entropy(blocks, targets, pieces="classes", weight=np.ones(size))


# --- blocks of rows


@covering({"dtype": DTYPES, "kind": OPTIONS, "targets": TARGETS, "reduction": REDUCTIONS}, quick=1)
def test_blocks_of_rows(dtype, kind, targets, reduction, logits, rng):
    x, t, options = logits(dtype, reduction), targets_of(targets, rng), options_of(kind, rng)
    grad = np.empty_like(x)
    value, _ = streaming.cross_entropy_value_and_grad(
        iter(pieces_of(x, CUTS_OF_ROWS, 0)), t, out=grad, reduction=reduction, **options
    )
    is_right(value, grad, x, t, reduction, options)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_targets_and_weights_may_come_with_the_blocks(reduction, logits, rng):
    x, targets, weight = logits("float32"), targets_of("indices", rng), rng.uniform(0.0, 2.0, ROWS)
    blocks = zip(*(pieces_of(part, CUTS_OF_ROWS, 0) for part in (x, targets, weight)), strict=True)
    value = streaming.cross_entropy(blocks, reduction=reduction)
    is_right(value, None, x, targets, reduction, {"sample_weight": weight})


def test_the_gradient_of_a_mean_must_know_all_rows(logits, rng):
    x, targets = logits("float32"), rng.integers(0, CLASSES, ROWS)
    blocks = list(zip(*(pieces_of(part, CUTS_OF_ROWS, 0) for part in (x, targets)), strict=True))
    grad = np.empty_like(x)
    with pytest.raises(ValueError, match="targets of all rows before the first block"):
        streaming.cross_entropy_value_and_grad(blocks, out=grad)
    streaming.cross_entropy_value_and_grad(blocks, out=grad, reduction="sum", grad_output=1.0 / ROWS)
    assert_gradient(grad, naive.CrossEntropy(x, targets), x.dtype, "mean", 1.0, {})


def test_no_rows_at_all():
    assert np.isnan(streaming.cross_entropy([]))
    assert streaming.cross_entropy([], reduction="sum") == 0.0
    assert np.isnan(streaming.cross_entropy([(np.zeros((0, 3)), np.zeros(0, int))]))
    assert streaming.cross_entropy(np.zeros((0, 3)), np.zeros(0, int), reduction="none").shape == (0,)


def test_an_error_says_in_which_block_it_was(logits, rng):
    x, targets = logits("float32"), rng.integers(0, CLASSES, ROWS)
    targets[41] = 99
    blocks = zip(*(pieces_of(part, CUTS_OF_ROWS, 0) for part in (x, targets)), strict=True)
    with pytest.raises(IndexError, match="row 1 hold class index 99") as caught:
        streaming.cross_entropy(blocks)
    assert "in the block of rows 40 to 61" in caught.value.__notes__[0]
    with pytest.raises(IndexError, match="row 41 hold class index 99"):  # before anything is read
        streaming.cross_entropy(pieces_of(x, CUTS_OF_ROWS, 0), targets)


@pytest.mark.parametrize(
    ("blocks", "targets", "error", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((2, 4))], np.zeros(4, int), ValueError, "same classes, got 4 after 3"),
        ([np.zeros((2, 3))], np.zeros(3, int), ValueError, "blocks have 2 rows, but there are 3 targets"),
        ([np.zeros((4, 3))], np.zeros(3, int), ValueError, "blocks have more than 3 rows"),
        ([np.zeros(3)], np.zeros(3, int), ValueError, "two dimensions, got shape"),
        ([np.zeros((2, 3))], None, TypeError, "targets must be given"),
        ([(np.zeros((2, 3)), [0, 1])], [0, 1], TypeError, "targets were given twice"),
        ([(np.zeros((2, 3)), [0, 1], None, None)], None, ValueError, "a block must be"),
        (3, [0], TypeError, "logits must be an array, a path or an iterable of blocks, got int"),
        (np.zeros((2, 3)), None, TypeError, "targets must be given where logits are a matrix"),
        (np.zeros(3), 0, ValueError, "two dimensions, rows and classes"),
        ("none.txt", [0], FileNotFoundError, "none.txt"),
    ],
)
def test_blocks_that_do_not_fit(blocks, targets, error, message):
    with pytest.raises(error, match=message):
        streaming.cross_entropy(blocks, targets)


# --- files and what has slices


class Sliced:
    """An array of a library that reads when it is sliced, and says what was read."""

    def __init__(self, array, chunks=None):
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, chunks
        self.largest, self.threads = 0, set()

    def __getitem__(self, place):
        part = self.array[place].copy()
        self.largest = max(self.largest, part.nbytes)
        self.threads.add(threading.get_ident())
        return part

    def __setitem__(self, place, part):
        self.array[place] = part


def opened(kind, x, tmp_path):
    path = tmp_path / "logits.npy"
    if kind in ("path", "Fortran path", "memmap"):
        np.save(path, np.asfortranarray(x) if kind == "Fortran path" else x)
        return np.load(path, mmap_mode="r") if kind == "memmap" else path
    if kind == "zarr":
        return pytest.importorskip("zarr").array(x, chunks=(20, 10))
    if kind == "columns of zarr":
        return pytest.importorskip("zarr").array(x, chunks=(ROWS, 7))
    if kind == "hdf5":
        file = pytest.importorskip("h5py").File.in_memory()
        return file.create_dataset("logits", data=x, chunks=(9, CLASSES))
    return {"array": x, "Fortran": np.asfortranarray(x), "reversed": x[::-1, ::-1].copy()[::-1, ::-1]}.get(
        kind, Sliced(x, (16, 16) if kind == "chunked" else None)
    )


KINDS = [
    "array", "Fortran", "reversed", "path", "Fortran path", "memmap", "zarr", "columns of zarr", "hdf5", "sliced",
    "chunked",
]  # fmt: skip


@covering({"source": KINDS, "budget": [1, 2_000, 9_000, 1 << 28], "options": OPTIONS, "targets": TARGETS}, quick=1)
def test_a_matrix_wherever_it_is(source, budget, options, targets, logits, tmp_path, rng):
    t, given = targets_of(targets, rng), options_of(options, rng)
    for reduction in ("none", "mean"):
        x = logits("float32", reduction)
        matrix, grad = opened(source, x, tmp_path), np.empty_like(x)
        call = {"memory_budget": budget, "reduction": reduction, **given}
        value, _ = streaming.cross_entropy_value_and_grad(matrix, t, out=grad, **call)
        is_right(value, grad, x, t, reduction, given)
        np.testing.assert_array_equal(streaming.cross_entropy(matrix, t, **call), value)


@pytest.mark.parametrize("budget", [1_000, 1 << 28])
@pytest.mark.parametrize("to", ["array", "memmap", "path", "sliced", "zarr", "function"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_goes_wherever_it_is_wanted(to, budget, dtype, logits, tmp_path, rng):
    x, targets, path = logits(dtype), targets_of("indices", rng), tmp_path / "grad.npy"
    seen, room = [], np.full_like(x, np.nan)

    def take(rows, columns, part):
        seen.append(part.nbytes)
        room[rows, columns] = part

    out = {
        "array": lambda: room,
        "memmap": lambda: np.lib.format.open_memmap(path, "w+", x.dtype, x.shape),
        "path": lambda: path,
        "sliced": lambda: Sliced(room),
        "zarr": lambda: pytest.importorskip("zarr").zeros(x.shape, dtype=x.dtype, chunks=(7, 11)),
        "function": lambda: take,
    }[to]()
    value, given = streaming.cross_entropy_value_and_grad(x, targets, out=out, memory_budget=budget)
    assert given is (None if to == "function" else out)
    grad = {"path": lambda: np.load(path), "zarr": lambda: out[:], "memmap": lambda: np.array(out)}.get(
        to, lambda: room
    )()
    is_right(value, grad, x, targets, "mean", {})
    assert to != "function" or budget > 1_000 or max(seen) <= 500


def test_the_logits_may_be_replaced(logits, rng):
    x, targets = logits("float32"), targets_of("indices", rng)
    for matrix in (x.copy(), np.asfortranarray(x)):
        value, _ = streaming.cross_entropy_value_and_grad(matrix, targets, out=matrix, memory_budget=1_000)
        is_right(value, np.ascontiguousarray(matrix), x, targets, "mean", {})


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((3, 3), "f4"), ValueError, r"out has shape \(3, 3\), expected \(61, 45\)"),
        (np.empty((ROWS, CLASSES)), ValueError, "out has dtype float64, expected float32"),
        (np.broadcast_to(np.float32(0), (ROWS, CLASSES)), ValueError, "must be writable"),
        (3, TypeError, "out must be an array, a memmap, the path"),
        ("there", ValueError, "another file than logits"),
    ],
)
def test_an_out_that_does_not_fit(out, error, message, logits, tmp_path, rng):
    np.save(tmp_path / "there.npy", logits("float32"))
    given = tmp_path / "there.npy" if isinstance(out, str) else out
    with pytest.raises(error, match=message):
        streaming.cross_entropy_value_and_grad(tmp_path / "there.npy", targets_of("indices", rng), out=given)


def test_an_out_that_overlaps_in_part_is_refused(rng):
    room = rng.normal(size=(20, 6))
    with pytest.raises(ValueError, match="overlaps the input in part"):
        streaming.cross_entropy_value_and_grad(room[:10], np.zeros(10, int), out=room[5:15])


# --- memory, threads, progress


@pytest.mark.parametrize("chunks", [None, (16, 16), (ROWS, 1)])
@pytest.mark.parametrize("budget", [2_000, 6_000, 40_000])
def test_the_budget_bounds_what_is_read_at_a_time(budget, chunks, logits, rng):
    source = Sliced(logits("float32"), chunks)
    streaming.cross_entropy(source, targets_of("indices", rng), memory_budget=budget)
    least = 4 * (CLASSES if chunks is None else chunks[0] * chunks[1])  # a row, or a chunk
    assert source.largest <= max(budget // 3, least)


@pytest.mark.parametrize(("read_ahead", "elsewhere"), [(None, True), (True, True), (False, False)])
def test_a_thread_reads_ahead(read_ahead, elsewhere, logits, rng):
    source = Sliced(logits("float32"))
    streaming.cross_entropy(source, targets_of("indices", rng), memory_budget=3_000, read_ahead=read_ahead)
    assert (source.threads - {threading.get_ident()} != set()) is elsewhere
    assert not [thread for thread in threading.enumerate() if "fastce reads" in thread.name]


def test_iterables_may_give_the_same_memory_again(logits, rng):
    x, targets = logits("float32"), targets_of("indices", rng)

    def again():
        room = np.empty((20, CLASSES), np.float32)
        for start in range(0, 60, 20):
            room[...] = x[start : start + 20]
            yield room

    value = streaming.cross_entropy(again(), targets[:60])
    is_right(value, None, x[:60], targets[:60], "mean", {})


def test_what_reading_raises_comes_through_and_the_next_call_works(logits, rng):
    x, targets = logits("float32"), targets_of("indices", rng)

    class Broken(Sliced):
        def __getitem__(self, place):
            if place[0].start >= 20:
                raise OSError("the disk is gone")
            return super().__getitem__(place)

    with pytest.raises(OSError, match="the disk is gone"):
        streaming.cross_entropy(Broken(x), targets, memory_budget=3_000)
    is_right(streaming.cross_entropy(x, targets), None, x, targets, "mean", {})


@pytest.mark.parametrize("source", ["array", "chunked"])
def test_progress_counts_blocks(source, logits, tmp_path, rng):
    x, seen = logits("float32"), []
    matrix, targets = opened(source, x, tmp_path), targets_of("indices", rng)
    streaming.cross_entropy(
        matrix, targets, memory_budget=3_000, progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
    assert len(seen) > 1


@pytest.mark.parametrize("pieces", ["rows", "classes"])
def test_threads_change_no_bit(pieces, small_blocks, rng):
    x, targets = rng.normal(size=(300, 2_000)).astype(np.float32), rng.integers(0, 2_000, 300)
    blocks = pieces_of(x, [0, 100, 300], 0) if pieces == "rows" else pieces_of(x, [0, 700, 2_000], 1)
    results = []
    for n_threads in (1, 2, 3):
        grad = np.empty_like(x)
        value, _ = streaming.cross_entropy_value_and_grad(
            blocks, targets, pieces=pieces, out=grad, n_threads=n_threads, label_smoothing=0.1
        )
        results.append((value, grad.tobytes()))
    assert results[0] == results[1] == results[2]
