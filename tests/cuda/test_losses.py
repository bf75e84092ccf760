"""cross_entropy and its gradient by kernels, in the simulator: against the formulas and against fastce on the CPU."""

import numpy as np
import pytest
import scipy.sparse
from checks import mixture, same_bits
from crosscheck import INTEGERS, LAYOUTS, call, check, filled, of_dtype, pairwise, targets_of

import fastce

pytest.importorskip("numba_cuda")

pytestmark = pytest.mark.usefixtures("small_blocks")

OPTIONS = {
    "none": {},
    "ignored inside": {"ignore_index": 0},
    "ignored outside": {"ignore_index": -1},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing over others": {"label_smoothing": 0.2, "smoothing_over": "others"},
    "z_loss": {"z_loss": 0.01},
    "softcap": {"softcap": 5.0},
    "logit_scale": {"logit_scale": 7.0},
    "all": {
        "label_smoothing": 0.1, "smoothing_over": "all", "z_loss": 0.001, "softcap": 30.0, "logit_scale": 0.25,
    },
}  # fmt: skip
CASES = pairwise(
    dtype=["float32", "float64", "float16", "bfloat16", "int32", "bool"],
    classes=[1, (2, 3, 10), (31, 32), (33, 40), (100, 129), 300, 1000],
    layout=list(LAYOUTS),
    kind=[tuple(INTEGERS[:4]), tuple(INTEGERS[4:]), "probabilities", "other probabilities", "sparse"],
    option=list(OPTIONS),
    weights=["none", "class", "sample", "both"],
    reduction=["none", "sum", "mean"],
    upstream=["1", "-2.5", "rows"],
    out=[None, "new", "strided", "in place"],
    rows=[1, 2, 3],
)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_pair_of_options_layouts_and_dtypes(device, rng, number):
    case = CASES[number]
    dtype, out, layout, kind = of_dtype(case["dtype"]), case["out"], case["layout"], case["kind"]
    logits, axis = filled(layout, lambda shape: 3 * rng.normal(size=shape), case["rows"], case["classes"], dtype)
    at = 1 if axis is None else axis % logits.ndim
    lead = logits.shape[:at] + logits.shape[at + 1 :]
    targets = targets_of(kind, rng, logits.shape, at, dtype)
    if kind == "sparse" and logits.ndim == 3:
        axis = at
    options = dict(OPTIONS[case["option"]])
    if kind not in INTEGERS:
        options.pop("ignore_index", None)
    elif case["option"] == "ignored outside" and kind.startswith("int"):
        targets[..., 0] = -1
    if case["weights"] in ("class", "both"):
        options["weight"] = rng.random(case["classes"])
    if case["weights"] in ("sample", "both"):
        options["sample_weight"] = rng.random(lead) * (rng.random(lead) < 0.8)
    upstream = {"1": 1.0, "-2.5": -2.5, "rows": rng.normal(size=lead)}[case["upstream"]]
    if case["reduction"] != "none" and np.ndim(upstream):
        upstream = 0.5
    if out == "in place" and (dtype.kind in "ib" or not logits.flags.writeable):
        out = "new"
    check(device, logits, targets, axis=axis, reduction=case["reduction"], grad_output=upstream, out=out, **options)


# ------------------------------------------------------------------------------------------ difficult rows
# Rows for each kernel: of few classes, of a group of threads, of a block, of several blocks, and along another axis.
SHAPES = {"few": (12, 7, 1), "warps": (8, 40, 1), "block": (4, 400, 1), "parts": (3, 700, 1), "lone": (12, 40, 0)}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def placed(logits, axis):
    return logits if axis == 1 else np.ascontiguousarray(logits.T)


@every_shape
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothing"])
def test_difficult_rows_are_right_and_harm_no_other(device, rng, shape, options):
    rows, classes, axis = SHAPES[shape]
    logits, labels = mixture(rng, rows, classes, np.float32, 0.9)
    check(device, placed(logits, axis), labels, axis=axis, reduction="none", **options)


@every_shape
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confident_rows_and_common_offsets_keep_their_digits(device, rng, shape, dtype):
    rows, classes, axis = SHAPES[shape]
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)).astype(dtype)
    for margin in (25, 80):
        logits[np.arange(rows), labels] = margin
        check(device, placed(logits, axis), labels, axis=axis, reduction="none")
    check(device, placed((logits % 3 + 1e6).astype(dtype), axis), labels, axis=axis, reduction="none")


def row_cases(classes):
    """Rows of contract section 5, and their labels."""
    inf, rows = np.inf, np.zeros((8, classes), np.float32)
    rows[0] = -inf  # all
    rows[1, 1] = -inf  # at the target
    rows[2, 2] = -inf  # elsewhere
    rows[3, 1] = inf  # at the target
    rows[4, 2] = inf  # elsewhere
    rows[5, 2] = np.nan
    rows[6, 1:] = -inf
    return rows, np.array([1, 1, 1, 1, 1, 1, 0, 1])


@pytest.mark.parametrize("case", pairwise(
    shape=list(SHAPES), kind=["indices", "probabilities", "sparse"], option=["none", "smoothing", "z_loss"]
), ids=str)  # fmt: skip
def test_special_values(device, case):
    kind, (_, classes, axis) = case["kind"], SHAPES[case["shape"]]
    logits, labels = row_cases(classes)
    logits, dense = placed(logits, axis), np.eye(classes, dtype=np.float32)[labels]
    targets = {"indices": labels, "probabilities": placed(dense, axis), "sparse": scipy.sparse.csr_array(dense)}[kind]
    check(device, logits, targets, axis=axis, reduction="none", **OPTIONS[case["option"]])


@every_shape
def test_rows_that_do_not_count_cost_nothing_whatever_they_hold(device, rng, shape):
    _, classes, axis = SHAPES[shape]
    logits = rng.normal(size=(4, classes)).astype(np.float32)
    logits[1], logits[2] = np.nan, np.inf
    labels, weights = np.array([1, -100, 2, 0]), np.array([1.0, 1.0, 0.0, 2.0])
    ours = check(device, placed(logits, axis), labels, axis=axis, sample_weight=weights, out="new")
    assert np.isfinite(ours.value)
    for reduction in ("none", "sum", "mean"):
        nothing = call(device, placed(logits, axis), np.full(4, -100), axis=axis, reduction=reduction)
        assert np.array_equal(
            nothing.value, {"none": np.zeros(4), "sum": 0.0, "mean": np.nan}[reduction], equal_nan=True
        )
        assert not nothing.grad.any()


@pytest.mark.parametrize("kind", ["int64", "probabilities", "sparse"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_no_rows_cost_nothing(device, rng, kind, reduction):
    logits = np.zeros((0, 5), np.float32)
    check(device, logits, targets_of(kind, rng, (0, 5), 1, logits.dtype), reduction=reduction)


def test_one_dimension_is_one_row(device, rng):
    logits = rng.normal(size=40).astype(np.float32)
    for reduction in ("none", "mean"):
        check(device, logits, np.asarray(3), reduction=reduction)


def test_a_number_is_the_weight_of_all_rows(device, rng):
    logits, labels = rng.normal(size=(3, 5)).astype(np.float32), np.array([0, 4, -100])
    for weight in (2.5, np.float32(0.5), np.array(2.0)):
        check(device, logits, labels, reduction="sum", sample_weight=weight)
    with pytest.raises(ValueError, match=r"sample_weight must be finite, got nan"):
        call(device, logits, labels, sample_weight=np.nan)


@pytest.mark.parametrize("classes", [5, 70])
def test_weights_of_any_sign_are_those_of_the_cpu(device, rng, classes):
    logits, labels = rng.normal(size=(3, classes)), rng.integers(0, classes, 3)
    options = {"weight": rng.normal(size=classes), "sample_weight": -rng.random(3), "label_smoothing": 0.1}
    for targets in (labels, rng.normal(size=(3, classes))):
        value, grad = call(device, logits, targets, **options)
        expected = fastce.cross_entropy_value_and_grad(logits, targets, **options)
        np.testing.assert_allclose(value, expected.value, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_sparse_duplicates_are_summed_and_unsorted_indices_explicit_zeros_and_empty_rows_accepted(device, rng):
    data, indices, indptr = np.array([0.25, 0.5, 0.25, 0.0, 1.0]), np.array([3, 1, 3, 0, 2]), np.array([0, 3, 3, 5])
    matrix = scipy.sparse.csr_array((data, indices, indptr), shape=(3, 6))
    ours = check(device, rng.normal(size=(3, 6)), matrix, reduction="none")
    assert ours.value[1] == 0.0


@every_shape
def test_the_same_bits_in_every_run(device, rng, shape):
    rows, classes, axis = SHAPES[shape]
    logits, labels = placed(rng.normal(size=(rows, classes)).astype(np.float32), axis), rng.integers(0, classes, rows)
    first, second = (call(device, logits, labels, axis=axis, label_smoothing=0.1) for _ in range(2))
    assert first.value == second.value
    assert same_bits(first.grad, second.grad)


# ------------------------------------------------------------------------------------------------- errors
def refused(device, error, words, logits, targets, **options):
    """The call raises and writes nothing into out."""
    out = np.full(logits.shape, 7, logits.dtype)
    with pytest.raises(error, match=words):
        call(device, logits, targets, **({"out": out} | options))
    assert (out == 7).all()


@every_shape
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [("int64", -1), ("int64", 2**40), ("int8", -100), ("uint8", 200), ("uint64", 2**63 + 5), ("uint64", 2**64 - 100)],
)
def test_a_class_index_out_of_range_is_an_index_error_and_nothing_is_written(device, shape, dtype, bad):
    _, classes, axis = SHAPES[shape]
    if 0 <= bad < classes:
        pytest.skip("this is a class")
    logits, targets = placed(np.zeros((4, classes), np.float32), axis), np.array([0, 1, 2, 3], dtype)
    targets[2:] = np.array([bad], dtype)
    ignored = {"ignore_index": -7} if dtype == "int8" else {}
    refused(device, IndexError, f"row 2 hold class index {bad}, ", logits, targets, axis=axis, **ignored)


def test_the_number_of_classes_is_no_class(device):
    refused(device, IndexError, "row 1 hold class index 5, accepted are 0 to 4", np.zeros((2, 5)), np.array([0, 5]))


def test_a_sparse_index_out_of_range_is_an_index_error(device):
    matrix = scipy.sparse.csr_array((np.ones(3), np.array([0, 1, 4]), np.array([0, 1, 3])), shape=(2, 5))
    matrix.indices[2] = 9
    refused(device, IndexError, "row 1 hold class index 9", np.zeros((2, 5)), matrix)


@pytest.mark.parametrize("indptr", [[0, 3, 1], [1, 2, 3], [0, 1, 9]])
def test_a_sparse_matrix_whose_row_pointers_are_broken_harms_no_memory(device, indptr):
    matrix = scipy.sparse.csr_array((np.ones(3), np.array([0, 1, 2]), np.array([0, 1, 3])), shape=(2, 5))
    matrix.has_canonical_format = True
    matrix.indptr[:] = indptr
    refused(device, ValueError, "sparse targets are inconsistent", np.zeros((2, 5)), matrix)


@pytest.mark.parametrize("name", ["weight", "sample_weight"])
@pytest.mark.parametrize("bad", [-np.inf, np.nan, np.inf])
def test_weights_are_finite(device, name, bad):
    weights = np.array([1.0, bad, bad])
    words = f"{name} must be finite, got {bad}"
    refused(device, ValueError, words, np.zeros((3, 3), np.float32), np.arange(3), **{name: weights})


LABELS = np.arange(3)


@pytest.mark.parametrize(
    ("error", "words", "targets", "options"),
    [
        (ValueError, r"shape \(2,\), expected \(3,\)", LABELS[:2], {}),
        (ValueError, r"have shape \(3, 4\), but logits have \(3, 5\)", np.zeros((3, 4)), {}),
        (ValueError, r"shape \(3, 4\), expected \(3, 5\)", scipy.sparse.csr_array((3, 4)), {}),
        (ValueError, r"weight has shape \(4,\), expected \(5,\)", LABELS, {"weight": np.ones(4)}),
        (ValueError, r"sample_weight has shape \(2,\)", LABELS, {"sample_weight": np.ones(2)}),
        (ValueError, "ignore_index applies to class indices", np.zeros((3, 5)), {"ignore_index": 0}),
        (ValueError, "grad_output has shape", LABELS, {"grad_output": np.ones(2), "reduction": "none"}),
        (ValueError, "grad_output has shape", LABELS, {"grad_output": np.ones(3), "reduction": "mean"}),
        (ValueError, "label_smoothing must be between 0 and 1", LABELS, {"label_smoothing": -0.1}),
        (ValueError, "logit_scale must be positive", LABELS, {"logit_scale": 0.0}),
        (ValueError, "reduction must be one of", LABELS, {"reduction": "max"}),
        (ValueError, "axis 2 is out of bounds", LABELS, {"axis": 2}),
        (ValueError, "out has shape", LABELS, {"out": np.zeros((3, 4), np.float32)}),
        (ValueError, "out has dtype float64", LABELS, {"out": np.zeros((3, 5))}),
        (TypeError, "targets must be class indices", np.zeros(3, bool), {}),
        (TypeError, "softcap must be a number", LABELS, {"softcap": "5"}),
    ],
)
def test_what_is_refused(device, error, words, targets, options):
    refused(device, error, words, np.zeros((3, 5), np.float32), targets, **options)


def test_logits_without_a_class_are_refused(device):
    refused(device, ValueError, "no classes along axis 1", np.zeros((3, 0), np.float32), LABELS)


def test_arrays_in_two_places_are_refused(device):
    logits, labels = np.zeros((3, 5), np.float32), np.arange(3)
    for given in ((device.to_device(logits), labels), (logits, device.to_device(labels))):
        with pytest.raises(TypeError, match="all arrays of a call must be in one place"):
            fastce.cross_entropy(*given)
    with pytest.raises(TypeError, match="all arrays of a call must be in one place"):
        fastce.cross_entropy(device.to_device(logits), device.to_device(labels), weight=np.ones(5))


@pytest.mark.parametrize(
    "part", [(slice(1, 4), slice(0, 5)), (slice(0, 3), slice(1, 6)), (slice(2, None, -1), slice(0, 5))]
)
def test_an_out_that_overlaps_the_input_in_part_is_refused(device, part):
    memory = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="out overlaps the input in part"):
        call(device, memory[:3, :5], LABELS, out=memory[part])
    assert not memory.any()
