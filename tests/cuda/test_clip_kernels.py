"""clip_loss on a device: by the simulator, and by compiled kernels that the interpreter of PTX runs."""

import clip_checks
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of, same_bits
from clip_checks import make_targets, unit_cosines
from crosscheck import LAYOUTS

import fastce

pytest.importorskip("numba_cuda")

CHECKS = clip_checks  # for the fixtures
INF, NAN = np.inf, np.nan


CASES = [
    ("float32", (5, 5), None, 0.0, 1.0),
    ("float32", (37, 37), None, 0.1, 14.3),
    ("float64", (9, 9), None, 0.0, 3.0),
    ("float64", (18, 70), "permutation", 0.2, 1.0),
    ("float16", (21, 21), "repeated", 0.1, 5.0),
    ("bfloat16", (12, 264), "sparse, every row", 0.0, 10.0),
    ("float32", (33, 20), "repeated", 0.0, 2.0),
    ("float32", (10, 140), "sparse, with empty rows", 0.3, 7.0),
]


def check_cases(rng, cases):
    for name, (n, m), kind, smoothing, scale in cases:
        similarity = unit_cosines(rng, n, m).astype(dtype_of(name))
        targets = None if kind is None else make_targets(kind, rng, n, m)
        reduction = rng.choice(REDUCTIONS if n == m else REDUCTIONS[1:])
        clip_checks.assert_clip(similarity, targets, reduction, label_smoothing=smoothing, logit_scale=scale)


# ------------------------------------------------------------------------------------------- in the simulator
def test_dtypes_targets_and_options(on_device, rng):
    check_cases(rng, CASES)


def laid_out(layout, similarity):
    make, _ = LAYOUTS[layout]
    array = make(*similarity.shape, similarity.dtype)
    if array.ndim == 2 and array.shape == similarity.shape and array.flags.writeable:
        array[...] = similarity
        return array
    return None


@pytest.mark.parametrize("layout", ["transposed", "classes backwards", "every other class", "misaligned"])
def test_any_strides(on_device, rng, layout):
    similarity = laid_out(layout, rng.normal(size=(11, 11)).astype(np.float32))
    clip_checks.assert_clip(similarity, reduction="none")
    expected = fastce.clip_loss_value_and_grad(similarity)
    out = laid_out(layout, np.zeros_like(similarity))
    assert on_device.clip_loss_value_and_grad(similarity, out=out).grad is out
    np.testing.assert_allclose(out, expected.grad, atol=1e-8)
    ours = on_device.clip_loss_value_and_grad(similarity, out=similarity)
    assert ours.grad is similarity
    assert same_bits(similarity, out)


def test_special_values_stay_in_their_row_and_column(on_device, rng):
    clean = rng.normal(size=(10, 10)).astype(np.float32)
    plain = on_device.clip_loss_value_and_grad(clean, reduction="none")
    for value, at in ((NAN, (1, 3)), (INF, (7, 2)), (INF, (4, 4))):
        similarity = clean.copy()
        similarity[at] = value
        ours = on_device.clip_loss_value_and_grad(similarity, reduction="none")
        others = ~np.isin(np.arange(10), at)
        assert np.isnan(ours.value[list(at)]).all()
        assert same_bits(ours.value[others], plain.value[others])
        rows, columns = np.arange(10) != at[0], np.arange(10) != at[1]
        assert np.isnan(ours.grad[at[0]]).all()
        assert np.isnan(ours.grad[:, at[1]]).all()
        assert same_bits(ours.grad[np.ix_(rows, columns)], plain.grad[np.ix_(rows, columns)])
        assert np.isnan(ours.grad_logit_scale)


def test_masked_pairs(on_device, rng):
    similarity = rng.normal(size=(12, 12)).astype(np.float32)
    masked = (rng.random((12, 12)) < 0.4) & ~np.eye(12, dtype=bool)
    similarity[masked] = -INF
    clip_checks.assert_clip(similarity, reduction="none", logit_scale=2.0)
    assert np.all(on_device.clip_loss_value_and_grad(similarity).grad[masked] == 0)
    smoothed = on_device.clip_loss(similarity, label_smoothing=0.1, reduction="none")
    assert np.array_equal(np.isposinf(smoothed), masked.any(1) | masked.any(0))
    similarity[4, 4] = -INF
    assert on_device.clip_loss(similarity) == INF
    similarity[2] = -INF  # a row without a softmax
    losses = on_device.clip_loss(similarity, reduction="none")
    assert np.array_equal(np.isnan(losses), np.arange(12) == 2)


def test_confident_pairs_keep_their_digits(on_device):
    for margin in (25, 80):
        similarity = (np.eye(9) * margin).astype(np.float32)
        exact = np.log1p(8 * np.exp(-float(margin)))
        ours = on_device.clip_loss_value_and_grad(similarity, reduction="none")
        assert clip_checks.naive.ulp_error(ours.value, np.full(9, exact)).max() <= 4
        slope = -8 / (np.exp(float(margin)) + 8)
        np.testing.assert_allclose(np.diag(ours.grad), slope, rtol=1e-6)
        assert ours.grad_logit_scale == pytest.approx(9 * margin * slope, rel=1e-6)


def test_offsets_that_grow_along_rows_and_columns(on_device, rng):
    ramp = np.linspace(-600, 600, 18)
    for offset in (ramp[:, None], ramp[:, None] + ramp[None, ::-1]):
        clip_checks.assert_clip((rng.normal(size=(18, 18)) + offset).astype(np.float32), reduction="none")


def test_columns_that_outgrow_their_first_elements_and_rows_far_from_0(on_device, rng, monkeypatch):
    monkeypatch.setattr("fastce.cuda.similarity.ENOUGH_BLOCKS", 1)  # a thread goes down many rows
    similarity = rng.normal(size=(24, 24)).astype(np.float32)
    similarity[:12, 3] -= 200  # powers relative to these would be infinite
    similarity[:5, 5] = -INF
    similarity[:7, 7] = -3e38
    similarity[:8, 9] -= 40  # within what powers may come to, but confident
    similarity[13:16, 9] += 45
    similarity[:, 11] = 0.25  # all are the largest
    similarity[14] = 0.5
    similarity[16:18] += 1e5  # whose ulp is so large that 2**c is not 1 + c ln(2)
    similarity[18, :18] = -1e5
    similarity[20, 2:20] = similarity[20, 21:] = -INF
    similarity[20, :2] = -120
    clip_checks.assert_clip(similarity, reduction="none")
    clip_checks.assert_clip(similarity, reduction="mean", logit_scale=0.37, label_smoothing=0.0)


def test_nobody_and_nothing(on_device):
    similarity = np.ones((3, 4), np.float32)
    value, grad, grad_logit_scale = on_device.clip_loss_value_and_grad(similarity, scipy.sparse.csr_array((3, 4)))
    assert np.isnan(value)
    assert not grad.any()
    assert grad_logit_scale == 0
    assert on_device.clip_loss(similarity, scipy.sparse.csr_array((3, 4)), reduction="sum") == 0
    nobody = np.empty((0, 0), np.float32)
    assert np.isnan(on_device.clip_loss(nobody))
    assert on_device.clip_loss(nobody, reduction="sum") == 0
    assert on_device.clip_loss(nobody, reduction="none").shape == (0,)
    ours = on_device.clip_loss_value_and_grad(np.array([[3.0]], np.float32), logit_scale=20.0)
    assert (ours.value, ours.grad.tolist(), ours.grad_logit_scale) == (0.0, [[0.0]], 0.0)


def test_integers_count_as_float64(on_device, rng):
    similarity = rng.integers(-3, 4, (7, 7))
    ours, expected = (f.clip_loss_value_and_grad(similarity, logit_scale=0.5) for f in (on_device, fastce))
    assert ours.value == pytest.approx(expected.value, rel=1e-14)
    assert ours.grad.dtype == np.float64
    np.testing.assert_allclose(ours.grad, expected.grad, atol=1e-15)


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (np.array([0, 1, 5, 2]), {}),
        (np.array([0, -1, 2, 3]), {}),
        (np.zeros(4, np.float32), {}),
        (np.zeros(3, int), {}),
        (np.zeros((4, 4), int), {}),
        (scipy.sparse.csr_array(np.eye(4, 5)), {}),
        (scipy.sparse.csr_array(-np.eye(4)), {}),
        (None, {"logit_scale": -1.0}),
        (None, {"label_smoothing": 1.5}),
        (None, {"reduction": "avg"}),
    ],
)
def test_errors_are_those_of_the_cpu(on_device, targets, options):
    similarity, out = np.ones((4, 4), np.float32), np.full((4, 4), 7, np.float32)
    with pytest.raises((IndexError, ValueError, TypeError)) as expected:
        fastce.clip_loss(similarity, targets, **options)
    with pytest.raises(expected.type) as ours:
        on_device.clip_loss_value_and_grad(similarity, targets, out=out, **options)
    assert str(ours.value) == str(expected.value)
    assert (out == 7).all()


def test_shapes_and_out_are_checked(on_device):
    with pytest.raises(ValueError, match="similarity must be square unless targets are given"):
        on_device.clip_loss(np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="similarity must have two dimensions"):
        on_device.clip_loss(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="out has shape"):
        on_device.clip_loss_value_and_grad(np.ones((3, 3), np.float32), out=np.ones((3, 4), np.float32))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(0, 3), (0, 0)])
def test_a_matrix_without_elements(on_device, shape, smoothing):
    similarity, targets = np.ones(shape, np.float32), np.zeros(0, int)
    for function in (on_device.clip_loss, lambda *a, **k: on_device.clip_loss_value_and_grad(*a, **k).value):
        assert np.isnan(function(similarity, targets, label_smoothing=smoothing))
        assert function(similarity, targets, label_smoothing=smoothing, reduction="sum") == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_column_without_positives_spoils_no_other_row(on_device, bad):
    similarity = np.array([[bad, 0], [bad, 0], [0, 1]], np.float32)
    targets = np.ones(3, int)
    ours = on_device.clip_loss_value_and_grad(similarity, targets, reduction="sum").grad
    theirs = fastce.clip_loss_value_and_grad(similarity, targets, reduction="sum").grad
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))


def test_a_matrix_needs_no_cupy(on_device, rng, monkeypatch):
    def missing():
        raise ImportError("no CuPy")

    similarity = rng.normal(size=(5, 5))
    expected = fastce.clip_loss_value_and_grad(similarity)
    for module in ("engine", "products"):
        monkeypatch.setattr(f"fastce.cuda.{module}.array_module", missing)
    ours = on_device.clip_loss_value_and_grad(similarity)
    assert ours.value == pytest.approx(expected.value, rel=1e-14)
    np.testing.assert_allclose(ours.grad, expected.grad, atol=1e-15)


# ------------------------------------------------------------------------------------------- compiled kernels
@pytest.mark.ptx
def test_compiled_targets_and_options(launched, rng):
    check_cases(rng, [case for case in CASES if case[0] == "float32"])


@pytest.mark.ptx
@pytest.mark.parametrize("name", NAMES)
def test_compiled_tiles_of_all_heights(launched, rng, name, monkeypatch):
    """More tiles than one thread merges, along rows and along columns."""
    from fastce.cuda import similarity

    monkeypatch.setattr(similarity, "TOGETHER", 2)
    dtype = dtype_of(name)
    width = 32 * 16 // dtype.itemsize
    matrix = unit_cosines(rng, 70, 2 * width + 16).astype(dtype)
    targets = make_targets("sparse, with empty rows", rng, *matrix.shape)
    clip_checks.assert_clip(matrix, targets, "sum", logit_scale=9.0, label_smoothing=0.1)
    monkeypatch.setattr(similarity, "ENOUGH_BLOCKS", 1)
    clip_checks.assert_clip(matrix, make_targets("repeated", rng, *matrix.shape), logit_scale=9.0)


@pytest.mark.ptx
@pytest.mark.parametrize("layout", ["plain", "transposed", "rows backwards", "every other class", "misaligned"])
def test_compiled_kernels_take_any_strides(launched, rng, layout):
    similarity = laid_out(layout, rng.normal(size=(45, 45)).astype(np.float32))
    clip_checks.assert_clip(similarity)
    ours = launched.clip_loss_value_and_grad(similarity).grad
    launched.clip_loss_value_and_grad(similarity, out=similarity)
    assert same_bits(similarity, ours)


@pytest.mark.ptx
@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_is_read_once_for_the_value_and_once_for_the_gradient(launched, rng, name):
    n, aligned = 512, pytest.importorskip("ptx.device").aligned
    similarity = aligned((64, n), dtype_of(name))
    similarity[...] = rng.normal(size=similarity.shape)
    launched.clip_loss_value_and_grad(similarity, rng.integers(0, n, 64))
    reports = {one.kernel.__name__: one.report for one in launched.device.launches}
    for one in launched.device.launches:
        assert ".local" not in one.text
    for kernel in ("states", "gradient"):
        assert reports[kernel].read_widths[16] == similarity.nbytes
        assert reports[kernel].sectors["read", 16] == similarity.nbytes // 32
    assert reports["gradient"].written_widths[16] == similarity.nbytes
    assert reports["gradient"].sectors["written", 16] == similarity.nbytes // 32


# ------------------------------------------------------------------------------------------- on a GPU
@pytest.mark.gpu
def test_a_gpu_takes_dtypes_targets_and_options(on_gpu, rng):
    check_cases(rng, CASES)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1000, 1000), (4099, 4099), (7, 100_000), (50_000, 9)])
def test_a_gpu_takes_matrices_of_any_shape(on_gpu, rng, shape, name):
    similarity = unit_cosines(rng, *shape).astype(dtype_of(name))
    targets = None if shape[0] == shape[1] else make_targets("repeated", rng, *shape)
    clip_checks.assert_clip(similarity, targets, logit_scale=20.0, label_smoothing=0.1)
    first, second = (on_gpu.clip_loss_value_and_grad(similarity, targets) for _ in range(2))
    assert first.value == second.value
    assert first.grad_logit_scale == second.grad_logit_scale
    assert same_bits(first.grad, second.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["transposed", "every other class", "misaligned"])
def test_a_gpu_takes_any_strides(on_gpu, rng, layout):
    clip_checks.assert_clip(laid_out(layout, rng.normal(size=(301, 301)).astype(np.float32)), reduction="none")
