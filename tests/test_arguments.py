"""Bad input: the class of each error, one sentence that names the argument, and nothing written into out."""

import re

import numpy as np
import pytest
import scipy.sparse

import fastce

INF, NAN = np.inf, np.nan
LOGITS = np.arange(12.0).reshape(4, 3) / 7
LABELS = np.array([0, 1, 2, 0])
BINARY = (LOGITS > 0.5).astype(float)


class Missing:
    """An object that is no array of numbers."""


def assert_refused(error, argument, function, *args, **options):
    """The exact class, the argument's name, one sentence, and out as it was."""
    out = options.get("out")
    before = out.copy() if isinstance(out, np.ndarray) else None
    with pytest.raises(error) as caught:
        function(*args, **options)
    assert type(caught.value) is error, f"{type(caught.value)} and not {error}"
    message = str(caught.value)
    assert argument in message
    assert "\n" not in message
    assert not re.search(r"[.!?]\s", message), f"more than one sentence: {message}"
    if before is not None:
        np.testing.assert_array_equal(out, before)


def cross_entropies(logits, targets, **options):
    """The two calls that must refuse: the value alone, and the value with its gradient into out."""
    yield fastce.cross_entropy, (logits, targets), options
    out = np.full(np.shape(logits) or (1,), 7.0)
    yield fastce.cross_entropy_value_and_grad, (logits, targets), {**options, "out": out}


def assert_cross_entropy_refuses(error, argument, logits=LOGITS, targets=LABELS, **options):
    for function, args, keywords in cross_entropies(logits, targets, **options):
        assert_refused(error, argument, function, *args, **keywords)


# --------------------------------------------------------------------------------------------- class indices
@pytest.mark.parametrize("bad", [3, -1, -100, 4, 2**31, 2**40, -(2**40), -(2**63), 2**63 - 1])
@pytest.mark.parametrize("row", [0, 2, 3])
def test_an_index_out_of_range_is_an_index_error_with_row_and_value(bad, row):
    labels = LABELS.astype(np.int64)
    labels[row] = bad
    ignore_index = -7  # so that -100 is out of range as well
    assert_cross_entropy_refuses(IndexError, "targets", targets=labels, ignore_index=ignore_index)
    with pytest.raises(IndexError, match=rf"row {row}\b.*{bad}\b"):
        fastce.cross_entropy(LOGITS, labels, ignore_index=ignore_index)
    out = np.full((4, 3), 7.0)
    assert_refused(
        IndexError,
        "targets",
        fastce.nll_loss_value_and_grad,
        LOGITS,
        labels,
        ignore_index=ignore_index,
        out=out,
    )


def test_an_index_above_2_to_63_in_uint64_is_reported_as_it_is():
    labels = LABELS.astype(np.uint64)
    labels[1] = 2**63 + 5
    assert_cross_entropy_refuses(IndexError, "targets", targets=labels)
    with pytest.raises(IndexError, match=rf"row 1\b.*{2**63 + 5}\b"):
        fastce.cross_entropy(LOGITS, labels)
    labels[1] = 2**64 - 100  # -100 if read as int64, which would be ignored
    assert_cross_entropy_refuses(IndexError, "targets", targets=labels)


def test_the_first_of_several_offending_rows_is_reported_flat_for_n_dimensional_logits():
    labels = np.zeros((2, 5), int)
    labels[1, 2], labels[1, 4] = 9, 8
    with pytest.raises(IndexError, match=r"row 7\b.*\b9\b"):
        fastce.cross_entropy(np.zeros((2, 3, 5)), labels)


def test_an_index_out_of_range_far_down_is_found_before_anything_is_written():
    logits = np.zeros((100_000, 4), np.float32)
    labels, out = np.zeros(100_000, np.int8), np.full((100_000, 4), 7, np.float32)
    labels[-1] = 4
    assert_refused(IndexError, "targets", fastce.cross_entropy_value_and_grad, logits, labels, out=out)
    assert_refused(IndexError, "targets", fastce.cross_entropy_value_and_grad, logits, labels, out=logits)


def test_a_single_index_out_of_range_for_one_dimensional_logits():
    assert_cross_entropy_refuses(IndexError, "targets", np.zeros(3), 3)
    assert_cross_entropy_refuses(IndexError, "targets", np.zeros(3), -1)


@pytest.mark.parametrize(
    "dtype",
    ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i2", ">i4", ">i8", ">u8"],
)
def test_class_indices_of_any_integer_dtype(rng, dtype):
    logits, labels = rng.normal(size=(30, 100)), rng.integers(0, 100, 30)
    for name, options in (("cross_entropy", {"label_smoothing": 0.1}), ("nll_loss", {})):
        expected = getattr(fastce, f"{name}_value_and_grad")(logits, labels, **options)
        padded = np.zeros((30, 2), dtype)
        padded[:, 0] = labels
        read_only = labels.astype(dtype)
        read_only.flags.writeable = False
        for given in (labels.astype(dtype), padded[:, 0], labels[::-1].astype(dtype)[::-1], read_only):
            ours = getattr(fastce, f"{name}_value_and_grad")(logits, given, **options)
            assert ours.value == expected.value
            np.testing.assert_array_equal(ours.grad, expected.grad)


def test_ignored_rows_in_small_integer_dtypes(rng):
    logits, labels = rng.normal(size=(6, 5)), np.array([0, -100, 4, -100, 2, 1])
    expected = fastce.cross_entropy(logits, labels)
    assert fastce.cross_entropy(logits, labels.astype(np.int8)) == expected
    unsigned = np.where(labels < 0, 255, labels).astype(np.uint8)
    assert fastce.cross_entropy(logits, unsigned, ignore_index=255) == expected


@pytest.mark.parametrize(
    ("error", "targets"),
    [
        (TypeError, np.array([True, False, True, True])),
        (TypeError, np.array(["0", "1", "2", "0"])),
        (TypeError, ["cat", "dog", "cat", "cat"]),
        (TypeError, np.array([0, 1, 2, None], object)),
        (TypeError, np.array([0, 1, 2, 0], object)),
        (TypeError, np.array([0, 1, 2, 0], complex)),
        (TypeError, np.array([0, 1, 2, 0], "M8[s]")),
        (TypeError, np.array([0, 1, 2, 0], "m8[s]")),
        (TypeError, np.zeros(4, [("label", int)])),
        (TypeError, np.ma.masked_equal(LABELS, 0)),
        (TypeError, None),
        (TypeError, Missing()),
        (ValueError, np.array([0.0, 1, 2, 0])),  # floats have the shape of the logits
        (ValueError, np.array([0.0, 1, NAN, 0])),
        (ValueError, np.zeros((3, 4))),
        (ValueError, np.zeros((4, 3, 1))),
        (ValueError, np.array([0, 1, 2])),
        (ValueError, np.array([[0, 1, 2, 0]])),
        (ValueError, np.zeros((4, 3), int)),
        (ValueError, np.int64(0)),
        (ValueError, scipy.sparse.csr_array((4, 4))),
        (ValueError, scipy.sparse.csr_array((3, 4))),
    ],
)
def test_targets_of_the_wrong_kind_or_shape(error, targets):
    assert_cross_entropy_refuses(error, "targets", targets=targets)
    for function in (fastce.nll_loss, fastce.nll_loss_value_and_grad):
        with pytest.raises((ValueError, TypeError), match="targets"):
            function(LOGITS, targets)


@pytest.mark.parametrize("targets", [np.array([0, 1, 2]), np.zeros((3, 4)), scipy.sparse.csr_array((4, 5))])
def test_shapes_that_do_not_fit_are_both_in_the_message(targets):
    with pytest.raises(ValueError, match="targets") as caught:
        fastce.cross_entropy(LOGITS, targets)
    assert str(LOGITS.shape) in str(caught.value)
    assert str(targets.shape) in str(caught.value)


@pytest.mark.parametrize("targets", [np.full((4, 3), 1 / 3), scipy.sparse.csr_array((4, 3))])
def test_nll_loss_takes_class_indices_only(targets):
    for function in (fastce.nll_loss, fastce.nll_loss_value_and_grad):
        with pytest.raises((TypeError, ValueError), match="targets"):
            function(LOGITS, targets)


def test_an_ignored_class_among_probabilities_is_refused():
    for targets in (np.full((4, 3), 1 / 3), scipy.sparse.csr_array((4, 3))):
        assert_cross_entropy_refuses(ValueError, "ignore_index", targets=targets, ignore_index=1)


@pytest.mark.parametrize("ignore_index", [1.5, "1", None])
def test_ignore_index_is_an_integer(ignore_index):
    assert_cross_entropy_refuses(TypeError, "ignore_index", ignore_index=ignore_index)


# -------------------------------------------------------------------------------------------- sparse targets
def hand_made(indices, indptr, data=None, shape=(4, 3)):
    """A CSR matrix whose arrays SciPy has not checked."""
    matrix = scipy.sparse.csr_array(shape)
    matrix.indices, matrix.indptr = np.asarray(indices), np.asarray(indptr)
    matrix.data = np.ones(len(indices)) if data is None else np.asarray(data)
    return matrix


@pytest.mark.parametrize(("row", "bad"), [(0, 3), (1, -1), (3, 2**31 - 1), (2, -(2**31))])
def test_a_sparse_index_out_of_range_is_an_index_error_with_row_and_value(row, bad):
    indices = np.array([0, 1, 2, 0])
    indices[row] = bad
    targets = hand_made(indices, [0, 1, 2, 3, 4])
    assert_cross_entropy_refuses(IndexError, "targets", targets=targets)
    with pytest.raises(IndexError, match=rf"row {row}\b.*{bad}\b"):
        fastce.cross_entropy(LOGITS, targets)


@pytest.mark.parametrize(
    ("indices", "indptr"),
    [
        ([0, 1, 2, 0], [0, 1, 2, 3, 400]),  # ends after the indices do
        ([0, 1, 2, 0], [0, 3, 2, 3, 4]),  # goes back
        ([0, 1, 2, 0], [-5, 1, 2, 3, 4]),
        ([0, 1, 2, 0], [0, 1, 2, 4]),  # a row short
    ],
)
def test_a_sparse_matrix_whose_row_pointers_are_broken_harms_no_memory(indices, indptr):
    for function, args, options in cross_entropies(LOGITS, hand_made(indices, indptr)):
        with pytest.raises((ValueError, IndexError), match="targets"):
            function(*args, **options)
        if "out" in options:
            assert np.all(options["out"] == 7)


def test_a_sparse_matrix_with_less_data_than_indices_is_refused():
    targets = hand_made([0, 1, 2, 0], [0, 1, 2, 3, 4], data=[1.0, 1.0])
    for function, args, options in cross_entropies(LOGITS, targets):
        with pytest.raises(ValueError, match="targets"):
            function(*args, **options)


def broken_matrices():
    """Sparse matrices of every format that has arrays, one of whose indices is out of range or too much."""
    dense = np.eye(4, 3)
    for name, places in {
        "csr": ("indices", "indptr"),
        "csc": ("indices", "indptr"),
        "bsr": ("indices", "indptr"),
        "coo": ("row", "col"),
    }.items():
        for place in places:
            for bad in (2_000_000_000, -2_000_000_000):
                matrix = getattr(scipy.sparse, f"{name}_array")(dense)
                getattr(matrix, place)[1] = bad
                yield pytest.param(matrix, id=f"{name}, {place} {bad}")
    matrix = scipy.sparse.lil_array(dense)
    matrix.rows[1] = [2_000_000_000]
    yield pytest.param(matrix, id="lil, column")
    matrix = scipy.sparse.lil_array(dense)
    matrix.data[1] = []
    yield pytest.param(matrix, id="lil, data")


@pytest.mark.parametrize("targets", list(broken_matrices()))
def test_a_broken_sparse_matrix_of_any_format_harms_no_memory(targets):
    calls = [
        *cross_entropies(LOGITS, targets),
        (fastce.clip_loss, (LOGITS, targets), {}),
        (fastce.linear_cross_entropy, (LOGITS, LOGITS[:3], targets), {}),
        (fastce.siglip_loss, (LOGITS, LOGITS[:3], 1.0, 0.0), {"targets": targets}),
    ]
    for function, args, options in calls:
        with pytest.raises((ValueError, IndexError), match="targets"):
            function(*args, **options)


def test_sparse_targets_whose_indices_and_data_are_one_array():
    one = np.array([1, 2, 1])
    targets = scipy.sparse.csr_array((one, one, [0, 1, 2, 3, 3]), shape=(4, 3))
    assert targets.indices is targets.data or np.array_equal(targets.indices, targets.data)
    assert fastce.cross_entropy(LOGITS, targets) == fastce.cross_entropy(LOGITS, targets.toarray().astype(float))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32, np.float64])
def test_sparse_weights_of_any_real_dtype(dtype):
    dense = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
    assert fastce.cross_entropy(LOGITS, scipy.sparse.csr_array(dense.astype(dtype))) == fastce.cross_entropy(
        LOGITS, scipy.sparse.csr_array(dense.astype(float))
    )


@pytest.mark.parametrize("bad", [-1e-300, -2.0, NAN, INF])
def test_sparse_masses_are_finite_and_not_negative(bad):
    dense = np.eye(4, 3)
    dense[3, 1] = bad
    targets = scipy.sparse.csr_array(dense)
    assert_cross_entropy_refuses(ValueError, "targets", targets=targets)
    assert_refused(ValueError, "targets", fastce.clip_loss, LOGITS, targets)
    assert_refused(ValueError, "targets", fastce.siglip_loss, LOGITS, LOGITS[:3], 1.0, 0.0, targets=targets)
    assert_refused(ValueError, "targets", fastce.cross_entropy_grad_and_hess, LOGITS, targets)
    assert_refused(ValueError, "targets", fastce.linear_cross_entropy, LOGITS, LOGITS[:3], targets)
    with pytest.raises(ValueError, match=r"row 3\b"):
        fastce.cross_entropy(LOGITS, targets)


def test_complex_sparse_targets_are_refused():
    assert_cross_entropy_refuses(TypeError, "targets", targets=scipy.sparse.csr_array(np.eye(4, 3) * 1j))


# ------------------------------------------------------------------------------------------------ the logits
NOT_NUMBERS = [
    np.zeros((4, 3), complex),
    np.zeros((4, 3), object),
    np.full((4, 3), "a"),
    np.zeros((4, 3), "M8[s]"),
    np.zeros((4, 3), "m8[s]"),
    np.zeros((4, 3), [("x", float)]),
    np.ma.masked_less(LOGITS, 1),
    np.ma.array(LOGITS),
    scipy.sparse.csr_array((4, 3)),
    None,
    Missing(),
    "logits",
]
NOT_NUMBERS_IDS = [
    "complex",
    "object",
    "str",
    "datetime",
    "timedelta",
    "structured",
    "masked",
    "unmasked masked array",
    "sparse",
    "None",
    "an object",
    "a string",
]


@pytest.mark.parametrize("logits", NOT_NUMBERS, ids=NOT_NUMBERS_IDS)
def test_logits_that_are_no_real_numbers_are_a_type_error(logits):
    for function in (fastce.cross_entropy, fastce.cross_entropy_value_and_grad):
        assert_refused(TypeError, "logits", function, logits, LABELS)
    for function in (fastce.nll_loss, fastce.nll_loss_value_and_grad):
        assert_refused(TypeError, "log_probs", function, logits, LABELS)
    for function in (
        fastce.binary_cross_entropy_with_logits,
        fastce.binary_cross_entropy_with_logits_value_and_grad,
    ):
        assert_refused(TypeError, "logits", function, logits, BINARY)


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="longdouble is float64 here")
def test_longdouble_is_refused_and_the_message_says_what_to_convert_to():
    logits = LOGITS.astype(np.longdouble)
    for function, targets in [
        (fastce.cross_entropy, LABELS),
        (fastce.binary_cross_entropy_with_logits, BINARY),
    ]:
        assert_refused(TypeError, "logits", function, logits, targets)
        with pytest.raises(TypeError, match="float64"):
            function(logits, targets)
    with pytest.raises(TypeError, match="float64"):
        fastce.clip_loss(np.eye(3, dtype=np.longdouble))


@pytest.mark.parametrize("logits", [1.0, np.float32(1), np.array(1.0)])
def test_logits_without_a_dimension_are_refused(logits):
    for function in (fastce.cross_entropy, fastce.cross_entropy_value_and_grad):
        assert_refused(ValueError, "logits", function, logits, 0)
    assert_refused(ValueError, "log_probs", fastce.nll_loss, logits, 0)


@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 0), (4, 0, 2)])
def test_logits_without_a_class_are_refused(shape):
    logits, rows = np.empty(shape), (shape[0], *shape[2:]) if len(shape) > 1 else ()
    assert_cross_entropy_refuses(ValueError, "logits", logits, np.zeros(rows, int))
    assert_refused(ValueError, "log_probs", fastce.nll_loss, logits, np.zeros(rows, int))


def test_ragged_lists_are_refused():
    with pytest.raises((ValueError, TypeError)):
        fastce.cross_entropy([[1.0, 2.0], [1.0]], [0, 0])


@pytest.mark.parametrize("axis", [2, -3, 10**20])
def test_an_axis_out_of_range_is_an_axis_error(axis):
    for function in (fastce.cross_entropy, fastce.cross_entropy_value_and_grad, fastce.nll_loss):
        assert_refused(np.exceptions.AxisError, "axis", function, LOGITS, LABELS, axis=axis)


@pytest.mark.parametrize("axis", [1.0, "1", (0, 1), [1]])
def test_an_axis_that_is_no_integer_is_a_type_error(axis):
    for function in (fastce.cross_entropy, fastce.cross_entropy_value_and_grad, fastce.nll_loss):
        assert_refused(TypeError, "axis", function, LOGITS, LABELS, axis=axis)


# ------------------------------------------------------------------------------------------------- options
POSITIVE = ["logit_scale", "softcap"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in POSITIVE for value in (0.0, -1.0, NAN, INF, -INF)],
        *[("label_smoothing", value) for value in (-0.1, -1e-300, 1.0000001, NAN, INF)],
        *[("z_loss", value) for value in (-1.0, NAN, INF)],
        *[("reduction", value) for value in ("average", "", "Mean")],
        *[("smoothing_over", value) for value in ("rest", "All")],
        *[("n_threads", value) for value in (0, -1)],
        ("weight", [1.0, NAN, 1.0]),
        ("weight", [1.0, INF, 1.0]),
        ("weight", [1.0, 1.0]),
        ("weight", np.ones((1, 3))),
        ("weight", 1.0),
        ("sample_weight", [1.0, NAN, 1.0, 1.0]),
        ("sample_weight", [1.0, INF, 1.0, 1.0]),
        ("sample_weight", [1.0, 1.0]),
        ("sample_weight", np.ones((4, 1))),
    ],
)
def test_option_values_that_make_no_sense_are_a_value_error(name, value):
    assert_cross_entropy_refuses(ValueError, name, **{name: value})
    assert_cross_entropy_refuses(ValueError, name, targets=np.full((4, 3), 1 / 3), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in [*POSITIVE, "label_smoothing", "z_loss"] for value in ("1", [1.0], np.ones(2), 1j)],
        *[(name, None) for name in ("logit_scale", "label_smoothing", "z_loss")],
        *[("n_threads", value) for value in (True, 1.0, "2", [1])],
        ("weight", ["a", "b", "c"]),
        ("weight", np.ones(3, complex)),
        ("weight", np.ma.array([1.0, 1.0, 1.0], mask=[0, 1, 0])),
        ("sample_weight", np.array([None] * 4, object)),
    ],
)
def test_options_of_the_wrong_kind_are_a_type_error(name, value):
    assert_cross_entropy_refuses(TypeError, name, **{name: value})


@pytest.mark.parametrize(
    ("name", "choices"), [("reduction", ["none", "sum", "mean"]), ("smoothing_over", ["all", "others"])]
)
def test_the_message_lists_the_choices(name, choices):
    with pytest.raises(ValueError, match="wrong") as caught:
        fastce.cross_entropy(LOGITS, LABELS, **{name: "wrong"})
    assert all(choice in str(caught.value) for choice in choices)


def test_numpy_scalars_and_integers_are_accepted_as_options():
    expected = fastce.cross_entropy(LOGITS, LABELS, label_smoothing=0.5, logit_scale=2.0, softcap=3.0, z_loss=1.0)
    options = {
        "label_smoothing": np.float32(0.5),
        "logit_scale": 2,
        "softcap": np.int64(3),
        "z_loss": np.float64(1),
    }
    assert fastce.cross_entropy(LOGITS, LABELS, **options) == expected
    assert fastce.cross_entropy(LOGITS, LABELS, n_threads=np.int64(2)) == fastce.cross_entropy(LOGITS, LABELS)
    assert fastce.cross_entropy(LOGITS, LABELS, axis=np.int8(1)) == fastce.cross_entropy(LOGITS, LABELS)


@pytest.mark.parametrize(
    ("reduction", "grad_output"),
    [("none", np.ones(3)), ("none", np.ones((4, 3))), ("mean", np.ones(4)), ("sum", np.ones((1, 4)))],
)
def test_grad_output_of_the_wrong_shape(reduction, grad_output):
    for function, targets in [
        (fastce.cross_entropy_value_and_grad, LABELS),
        (fastce.nll_loss_value_and_grad, LABELS),
    ]:
        assert_refused(
            ValueError,
            "grad_output",
            function,
            LOGITS,
            targets,
            reduction=reduction,
            grad_output=grad_output,
            out=np.full((4, 3), 7.0),
        )


def test_options_are_keyword_only():
    for function in (
        fastce.cross_entropy,
        fastce.cross_entropy_value_and_grad,
        fastce.nll_loss,
        fastce.clip_loss,
    ):
        with pytest.raises(TypeError):
            function(LOGITS, LABELS, np.ones(3))


# -------------------------------------------------------------------------------------------------- binary
@pytest.mark.parametrize(
    ("error", "argument", "targets", "options"),
    [
        (ValueError, "targets", BINARY[:2], {}),
        (ValueError, "targets", BINARY.T, {}),
        (ValueError, "targets", BINARY[0], {}),  # no broadcasting: exactly the shape of the logits
        (ValueError, "targets", 1.0, {}),
        (TypeError, "targets", BINARY.astype(complex), {}),
        (TypeError, "targets", BINARY.astype(object), {}),
        (TypeError, "targets", BINARY.astype(str), {}),
        (TypeError, "targets", np.ma.masked_less(BINARY, 0.5), {}),
        (ValueError, "weight", BINARY, {"weight": np.ones(4)}),
        (ValueError, "weight", BINARY, {"weight": np.ones((2, 4, 3))}),
        (ValueError, "weight", BINARY, {"weight": [1.0, NAN, 1.0]}),
        (ValueError, "pos_weight", BINARY, {"pos_weight": np.ones(4)}),
        (ValueError, "pos_weight", BINARY, {"pos_weight": INF}),
        (ValueError, "reduction", BINARY, {"reduction": "average"}),
        (ValueError, "n_threads", BINARY, {"n_threads": 0}),
        (TypeError, "n_threads", BINARY, {"n_threads": True}),
    ],
)
def test_what_binary_cross_entropy_refuses(error, argument, targets, options):
    assert_refused(error, argument, fastce.binary_cross_entropy_with_logits, LOGITS, targets, **options)
    assert_refused(
        error,
        argument,
        fastce.binary_cross_entropy_with_logits_value_and_grad,
        LOGITS,
        targets,
        out=np.full((4, 3), 7.0),
        **options,
    )


# ------------------------------------------------------------------------------------------------------ out
WITH_OUT = {
    "cross_entropy": lambda logits, out: fastce.cross_entropy_value_and_grad(logits, LABELS, out=out),
    "nll_loss": lambda logits, out: fastce.nll_loss_value_and_grad(logits, LABELS, out=out),
    "binary": lambda logits, out: fastce.binary_cross_entropy_with_logits_value_and_grad(logits, BINARY, out=out),
    "clip_loss": lambda logits, out: fastce.clip_loss_value_and_grad(logits, LABELS % 3, out=out),
}


def read_only():
    out = np.full((4, 3), 7.0)
    out.flags.writeable = False
    return out


def overlapping_itself():
    return np.lib.stride_tricks.as_strided(np.full(12, 7.0), (4, 3), (16, 8))


@pytest.mark.parametrize("function", WITH_OUT)
@pytest.mark.parametrize(
    ("error", "make"),
    [
        (ValueError, read_only),
        (ValueError, overlapping_itself),
        (ValueError, lambda: np.broadcast_to(7.0, (4, 3))),
        (ValueError, lambda: np.lib.stride_tricks.as_strided(np.full(3, 7.0), (4, 3), (0, 8))),
        (ValueError, lambda: np.full((3, 4), 7.0)),
        (ValueError, lambda: np.full((4, 3, 1), 7.0)),
        (ValueError, lambda: np.full(12, 7.0)),
        ((ValueError, TypeError), lambda: np.full((4, 3), 7, np.float32)),
        ((ValueError, TypeError), lambda: np.full((4, 3), 7, int)),
        ((ValueError, TypeError), lambda: np.full((4, 3), 7, ">f8" if np.little_endian else "<f8")),
        (TypeError, lambda: [[7.0] * 3] * 4),
        (TypeError, lambda: np.ma.array(np.full((4, 3), 7.0))),
    ],
    ids=[
        "read-only",
        "overlapping itself",
        "broadcast",
        "rows on top of each other",
        "transposed shape",
        "more axes",
        "flat",
        "float32",
        "int",
        "byte-swapped",
        "list",
        "masked",
    ],
)
def test_an_out_that_cannot_hold_the_gradient_is_refused_unwritten(function, error, make):
    out = make()
    with pytest.raises(error, match="out") as caught:
        WITH_OUT[function](LOGITS.copy(), out)
    assert type(caught.value) in (ValueError, TypeError)
    assert np.all(np.asarray(out) == 7)


@pytest.mark.parametrize("function", WITH_OUT)
@pytest.mark.parametrize("place", ["shifted by a row", "shifted by an element", "reversed", "transposed"])
def test_an_out_that_overlaps_the_input_in_part_is_refused_unwritten(function, place):
    memory = np.arange(20.0)
    logits = memory[:12].reshape(4, 3)
    out = {
        "shifted by a row": memory[3:15].reshape(4, 3),
        "shifted by an element": memory[1:13].reshape(4, 3),
        "reversed": memory[11::-1].reshape(4, 3),
        "transposed": memory[:12].reshape(3, 4).T,
    }[place]
    before = memory.copy()
    with pytest.raises(ValueError, match="out"):
        WITH_OUT[function](logits, out)
    np.testing.assert_array_equal(memory, before)


def test_an_out_that_overlaps_the_other_inputs_is_refused_unwritten():
    targets, weight = np.full((4, 3), 1 / 3), np.ones(16)
    assert_refused(ValueError, "out", fastce.cross_entropy_value_and_grad, LOGITS, targets, out=targets)
    out = weight[4:].reshape(4, 3)
    assert_refused(ValueError, "out", fastce.cross_entropy_value_and_grad, LOGITS, LABELS, weight=weight[3:6], out=out)
    assert_refused(
        ValueError,
        "out",
        fastce.cross_entropy_value_and_grad,
        LOGITS,
        LABELS,
        sample_weight=weight[3:7],
        out=out,
    )
    assert_refused(
        ValueError,
        "out",
        fastce.binary_cross_entropy_with_logits_value_and_grad,
        LOGITS,
        targets,
        out=targets,
    )


def test_interleaved_out_and_input_that_share_no_element_are_accepted():
    memory = np.zeros((4, 6))
    memory[:, ::2] = LOGITS
    plain = fastce.cross_entropy_value_and_grad(LOGITS, LABELS)
    ours = fastce.cross_entropy_value_and_grad(memory[:, ::2], LABELS, out=memory[:, 1::2])
    assert ours.value == plain.value
    np.testing.assert_array_equal(memory[:, ::2], LOGITS)
    np.testing.assert_array_equal(memory[:, 1::2], plain.grad)


@pytest.mark.parametrize("logits", [LOGITS.astype(np.float16), (LOGITS * 9).astype(int)])
def test_out_has_the_dtype_of_the_gradient(logits):
    dtype = np.float16 if logits.dtype == np.float16 else np.float64
    fastce.cross_entropy_value_and_grad(logits, LABELS, out=np.empty((4, 3), dtype))
    with pytest.raises((ValueError, TypeError), match="out"):
        fastce.cross_entropy_value_and_grad(logits, LABELS, out=np.empty((4, 3), np.float32))


# ------------------------------------------------------------------------------------------ great and greater
def test_more_than_2_to_31_elements():
    row = np.linspace(-1, 1, 40_000, dtype=np.float32)
    logits = np.broadcast_to(row, (70_000, 40_000))  # 2.8e9 elements in 160 kB
    labels = np.full(70_000, -100)
    labels[[0, 53_688, 69_999]] = [5, 39_999, 20_000]
    expected = fastce.cross_entropy(np.stack([row] * 3), [5, 39_999, 20_000], reduction="none")
    losses = fastce.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_array_equal(losses[[0, 53_688, 69_999]], expected)
    assert np.count_nonzero(losses) == 3
    assert fastce.nll_loss(logits, labels) == pytest.approx(-float(row[[5, 39_999, 20_000]].mean()), rel=1e-6)


def test_a_result_too_large_for_memory_is_a_memory_error_and_the_next_call_works():
    logits = np.broadcast_to(np.float32(0), (1024, 2**40))  # its gradient would take 4 PB
    labels = np.full(1024, -100)
    for function in (fastce.cross_entropy_value_and_grad, fastce.nll_loss_value_and_grad):
        with pytest.raises(MemoryError):
            function(logits, labels)
    assert fastce.cross_entropy_value_and_grad(np.zeros((2, 3)), [0, 1]).value == pytest.approx(np.log(3))


def test_a_call_that_was_refused_does_not_harm_the_next_one(rng):
    logits, labels = rng.normal(size=(2000, 50)), rng.integers(0, 50, 2000)
    expected = fastce.cross_entropy(logits, labels)
    wrong = labels.copy()
    wrong[1999] = 50
    with pytest.raises(IndexError):
        fastce.cross_entropy(logits, wrong)
    assert fastce.cross_entropy(logits, labels) == expected
