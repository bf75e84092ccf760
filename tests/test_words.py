"""What is said of odd arguments: one sentence that names the argument, from fastce and not from deep inside."""

import datetime
import decimal
import inspect
import re
import signal
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from covering import covering
from public_calls import CALLS, FEATURES, LABELS, LOGITS, OF_LOGITS, OTHERS, RNG

import fastce

IN_FASTCE = str(Path(fastce.__file__).parent)


class Missing:
    """An object that is nothing of what is wanted."""


class Raises:
    """An object that has what is asked for, and fails."""

    def __array__(self, *args, **options):
        raise RuntimeError("from inside")

    __float__ = __index__ = __array__


def odd_values():
    """Values that people have given, and worse; fresh ones, for some are used up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of np.matrix
        matrix = np.matrix(LOGITS)
    itself: list = []
    itself.append(itself)
    return [
        None, True, np.bool_(False), "abc", "", b"x", bytearray(b"abcd"), 0, -1, 10**30, -(10**30), 10**5000, 1.5, -0.0,
        np.nan, -np.inf, 1j, np.longdouble(2), np.float16(1), Fraction(1, 2), decimal.Decimal("0.5"),
        np.datetime64("2020"), np.timedelta64(3, "s"), datetime.datetime(2020, 1, 1),
        [], (), {}, {"a": 1}, set(), [[]], [[1.0, 2.0], [1.0]], [None, 1], ["a", 1.0], [1, 10**30], itself,
        range(3), (k for k in range(3)), Missing(), Missing, Raises(), Ellipsis, slice(3), memoryview(b"abc"),
        np.array(None), np.array(3.0), np.array(2), np.zeros(0), np.zeros((4, 0)), np.zeros((0, 3)), np.ones(7),
        np.zeros((2, 2, 2)), np.ones((5, 5)), np.full((4, 3), np.nan), np.full(4, 9), np.zeros((2, *(1,) * 40)),
        LOGITS.astype(object), LOGITS.astype(complex), LOGITS.astype(np.longdouble), np.array(["a", "b"]),
        np.zeros(4, "M8[s]"), np.zeros(4, [("x", float)]), np.ma.array(LOGITS), np.ma.array(1.0), matrix,
        scipy.sparse.csr_array(LOGITS), scipy.sparse.coo_array(np.eye(7)),
    ]  # fmt: skip


def complaint(function, given):
    """The error of a call, if there is one, and the file that raised it."""
    try:
        function(**given)
    except Exception as error:
        trace = error.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        return error, trace.tb_frame.f_code.co_filename
    return None, ""


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CALLS)
def test_an_odd_argument_is_taken_or_named_in_one_sentence(name, half):
    function, given = getattr(fastce, name), CALLS[name]
    function(**given)
    for k, argument in enumerate(inspect.signature(function).parameters):
        for value in odd_values()[(k + half) % 2 :: 2]:
            if (argument == "progress" and callable(value)) or (name == "warmup" and value is None):
                continue  # what the caller's own function raises; everything would be compiled
            error, file = complaint(function, given | {argument: value})
            if error is None:
                continue
            case = f"{argument}={type(value).__name__}: {type(error).__name__}: {error}"
            assert isinstance(error, (TypeError, ValueError, IndexError)), case
            assert file.startswith(IN_FASTCE), f"{case} from {file}"
            are_others_now_wrong = argument in ("axis", "features") and "targets" in str(error)
            assert argument in str(error) or are_others_now_wrong, case
            assert str(error).isprintable(), case
            assert not re.search(r"[.!?]\s", str(error)), case
    fastce.set_num_threads(CALLS["set_num_threads"]["n"])


@pytest.mark.parametrize("name", [name for name in CALLS if "value_and_grad" in name or "softmax" in name])
def test_a_call_that_raises_has_written_nothing_into_out(name):
    function, given = getattr(fastce, name), CALLS[name]
    arguments = inspect.signature(function).parameters
    if "out" not in arguments:
        return
    shape, refused = np.shape(next(iter(given.values()))), 0
    for argument in arguments:
        if argument == "out":
            continue
        for value in odd_values():
            out = np.full(shape, 7.0)
            error, _ = complaint(function, given | {"out": out, argument: value})
            if error is not None:
                assert np.all(out == 7), f"{argument}={type(value).__name__}: {error}"
                refused += 1
    assert refused > 100


def test_the_pair_of_the_hessian_is_not_written_either():
    for value in odd_values():
        for argument in inspect.signature(fastce.cross_entropy_grad_and_hess).parameters:
            if argument != "out":
                out = np.full((4, 3), 7.0), np.full((4, 3), 7.0)
                error, _ = complaint(fastce.cross_entropy_grad_and_hess, OF_LOGITS | {"out": out, argument: value})
                assert error is None or (np.all(out[0] == 7) and np.all(out[1] == 7)), argument


# ------------------------------------------------------------------------------------------------- numbers
NUMBERS = {
    "logit_scale": 3.0, "logit_bias": -0.5, "temperature": 0.25, "softcap": 4.0, "z_loss": 0.5,
    "label_smoothing": 0.125, "sample_weight": 2.0, "grad_output": -2.0,
}  # fmt: skip
SAME = [np.float64, np.float32, np.float16, np.array, lambda x: np.array([x]), lambda x: np.array([x], np.float32)]


def same_bits(one, other):
    ours, theirs = (part if isinstance(part, tuple) else (part,) for part in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def of_torch():
    torch = pytest.importorskip("torch")
    learned = torch.nn.Parameter
    tensors = [torch.tensor, lambda x: torch.tensor([x]), lambda x: torch.tensor([x], dtype=torch.bfloat16)]
    return [*tensors, lambda x: learned(torch.tensor(x)), lambda x: learned(torch.tensor([x]))]


@pytest.mark.parametrize("kinds", [lambda: SAME, of_torch], ids=["NumPy", "PyTorch"])
@pytest.mark.parametrize("name", CALLS)
def test_a_number_may_be_an_array_of_one_element(name, kinds):
    function, given = getattr(fastce, name), CALLS[name]
    for option in sorted(set(inspect.signature(function).parameters) & set(NUMBERS)):
        number = NUMBERS[option]
        expected = function(**given | {option: number})
        for kind in kinds():
            value = kind(number)
            if option in ("sample_weight", "grad_output") and (
                "Parameter" in type(value).__name__ or "bfloat" in str(value)
            ):
                continue  # arrays as well, and refused as those are
            assert same_bits(function(**given | {option: value}), expected), (option, value)


def test_integers_of_any_kind_are_numbers():
    expected = fastce.cross_entropy(LOGITS, LABELS, logit_scale=3.0)
    for three in (3, np.int64(3), np.uint8(3), np.array(3), np.array([3]), Fraction(3), decimal.Decimal(3)):
        assert fastce.cross_entropy(LOGITS, LABELS, logit_scale=three) == expected


@pytest.mark.parametrize(
    "value", [np.ones(2), np.ones((1, 1)), [1.0], np.array([True]), np.array(["1"]), np.array([1j])]
)
def test_other_arrays_are_no_numbers(value):
    for option in ("logit_scale", "softcap", "z_loss", "label_smoothing"):
        with pytest.raises(TypeError, match=f"{option} must be a number"):
            fastce.cross_entropy(LOGITS, LABELS, **{option: value})


def test_an_empty_sample_weight_is_none():
    for function in (fastce.cross_entropy, fastce.cross_entropy_grad_and_hess, fastce.nll_loss):
        with pytest.raises(ValueError, match=r"sample_weight is empty.* None"):
            function(LOGITS, LABELS, sample_weight=np.array([], np.float32))
    nothing = np.zeros((0, 3)), np.zeros(0, int)
    assert fastce.cross_entropy(*nothing, sample_weight=np.zeros(0), reduction="sum") == 0


# ------------------------------------------------------------------------------------------- class indices
INDICES = {
    "cross_entropy": lambda targets: fastce.cross_entropy(LOGITS, targets),
    "nll_loss": lambda targets: fastce.nll_loss(LOGITS, targets),
    "row_stats": lambda targets: fastce.row_stats(LOGITS, targets),
    "clip_loss": lambda targets: fastce.clip_loss(LOGITS, targets),
    "siglip_loss": lambda targets: fastce.siglip_loss(FEATURES, OTHERS, 1.0, 0.0, targets=targets),
    "linear_cross_entropy": lambda targets: fastce.linear_cross_entropy(FEATURES, OTHERS, targets),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", INDICES)
def test_class_labels_given_as_floats_are_told_how_to_become_integers(function, dtype):
    with pytest.raises((TypeError, ValueError), match=r"targets .*integers.*targets\.astype\(int\)"):
        INDICES[function](LABELS.astype(dtype))
    INDICES[function](LABELS.astype(dtype).astype(int))


def test_labels_of_sup_con_given_as_floats_are_told_how_to_become_integers():
    with pytest.raises(TypeError, match=r"labels must be integers.*labels\.astype\(int\)"):
        fastce.sup_con(FEATURES, LABELS.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_boosters_may_give_class_labels_as_floats(dtype):
    """LightGBM, XGBoost and pandas deliver float32."""
    labels = np.array([0, 1, -100, 2])
    expected = fastce.cross_entropy_grad_and_hess(LOGITS, labels)
    for given in (labels.astype(dtype), list(labels.astype(dtype)), labels.astype(dtype)[::-1][::-1]):
        assert same_bits(tuple(fastce.cross_entropy_grad_and_hess(LOGITS, given)), tuple(expected))
    probabilities = np.full((4, 3), 1 / 3, dtype)
    fastce.cross_entropy_grad_and_hess(LOGITS, probabilities)
    with pytest.raises(IndexError, match=r"targets in row 1 hold class index 3\b"):
        fastce.cross_entropy_grad_and_hess(LOGITS, np.array([0, 3, 0, 0], dtype))
    for bad in (0.5, np.nan, np.inf, -0.25):
        out = np.full((4, 3), 7.0), np.full((4, 3), 7.0)
        with pytest.raises(ValueError, match=r"targets .*whole numbers.*row 2"):
            fastce.cross_entropy_grad_and_hess(LOGITS, np.array([0, 1, bad, 0], dtype), out=out)
        assert np.all(out[0] == 7)


def test_labels_of_each_token_suggest_the_last_axis():
    logits, labels = RNG.normal(size=(2, 7, 11)), RNG.integers(0, 7, (2, 7))
    for function in (fastce.cross_entropy, fastce.cross_entropy_grad_and_hess, fastce.nll_loss, fastce.row_stats):
        with pytest.raises(ValueError, match=r"\(2, 7\).*\(2, 11\).*axis=-1"):
            function(logits, labels)
        function(logits, labels, axis=-1)


@pytest.mark.parametrize("dtype", [int, bool, np.float32, np.uint8])
def test_a_dense_matrix_of_pairs_is_told_how_to_become_sparse(dtype):
    dense = np.eye(4, 4, dtype=dtype)
    similarity = FEATURES @ OTHERS.T
    calls = (
        lambda targets: fastce.siglip_loss(FEATURES, OTHERS, 2.0, -1.0, targets=targets),
        lambda targets: fastce.clip_loss(similarity, targets),
        lambda targets: fastce.clip_loss_from_features(FEATURES, OTHERS, targets=targets),
    )
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"targets .*scipy\.sparse\.csr_array\(targets\)"):
            call(dense)
        assert call(scipy.sparse.csr_array(dense)) == call(None)


# --------------------------------------------------------------------------------------------------- axes
@pytest.mark.parametrize("axis", [1.0, "1", None.__class__, [1.5], (0, "1"), np.ones(2), True])
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_an_axis_that_is_no_integer_is_a_type_error_as_in_scipy(name, axis):
    for x in (LOGITS, LOGITS * 1j):
        with pytest.raises(TypeError, match="axis must be an integer"):
            getattr(fastce, name)(x, axis=axis)


@pytest.mark.parametrize("axis", [2, -3, 10**30, -(10**30), 10**100, (0, 5), (0, 10**30)])
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_an_axis_that_is_not_there_is_an_axis_error_as_in_scipy(name, axis):
    for x in (LOGITS, LOGITS * 1j):
        with pytest.raises(np.exceptions.AxisError, match="axis"):
            getattr(fastce, name)(x, axis=axis)
        with pytest.raises(ValueError, match="axis must not name the same dimension twice"):
            getattr(fastce, name)(x, axis=(0, -2))


@covering(
    {
        "axis": [None, 0, -1, 1, -2, (), (0,)],
        "name": ["logsumexp", "softmax", "log_softmax"],
        "x": [3.0, np.float32(2), np.array(-1.0), np.array(2 + 1j)],
    }
)
def test_a_number_has_the_axes_that_it_has_in_scipy(x, name, axis):
    for options in [{}, {"keepdims": True}, {"b": [2.0]}, {"return_sign": True}] if name == "logsumexp" else [{}]:
        try:
            expected = getattr(scipy.special, name)(x, axis=axis, **options)
        except np.exceptions.AxisError:
            with pytest.raises(np.exceptions.AxisError):
                getattr(fastce, name)(x, axis=axis, **options)
            continue
        ours = getattr(fastce, name)(x, axis=axis, **options)
        assert np.shape(ours) == np.shape(expected)
        np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), rtol=1e-6)


def test_factors_that_do_not_broadcast_are_named():
    with pytest.raises(ValueError, match=r"b of shape \(2,\) does not broadcast with a of shape \(4, 3\)"):
        fastce.logsumexp(LOGITS, axis=1, b=[1.0, 2.0])


@pytest.mark.parametrize("dimensions", [33, 64])
@pytest.mark.parametrize("classes", [5, 300])
def test_arrays_of_more_than_32_dimensions(dimensions, classes):
    shape = [1] * dimensions
    shape[2], shape[20], shape[dimensions - 1] = 3, classes, 2
    x, labels = RNG.normal(size=shape), RNG.integers(0, classes, shape[:20] + shape[21:])
    rows, row_labels = x.reshape(3, classes, 2), labels.reshape(3, 2)
    calls = {
        "cross_entropy_value_and_grad": ((x, labels), (rows, row_labels)),
        "cross_entropy_grad_and_hess": ((x, labels), (rows, row_labels)),
        "nll_loss_value_and_grad": ((x, labels), (rows, row_labels)),
        "softmax": ((x,), (rows,)),
        "logsumexp": ((x,), (rows,)),
    }
    for name, (many, few) in calls.items():
        ours, theirs = getattr(fastce, name)(*many, axis=20), getattr(fastce, name)(*few, axis=1)
        for a, b in zip(*(part if isinstance(part, tuple) else (part,) for part in (ours, theirs)), strict=True):
            np.testing.assert_array_equal(np.ravel(a), np.ravel(b))
    binary = fastce.binary_cross_entropy_with_logits_value_and_grad
    assert binary(x, abs(x), weight=x).value == pytest.approx(binary(rows, abs(rows), weight=rows).value, rel=1e-13)
    with_factors = fastce.logsumexp(x, axis=20, b=abs(x))
    np.testing.assert_array_equal(with_factors.ravel(), fastce.logsumexp(rows, axis=1, b=abs(rows)).ravel())


# ------------------------------------------------------------------------------------------------- PyTorch
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("warmup", "threads", "set_num_threads")])
def test_tensors_that_require_grad_are_named_with_the_way_out(name):
    torch = pytest.importorskip("torch")
    function, given = getattr(fastce, name), CALLS[name]
    arrays = [k for k, value in given.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    arrays += sorted(
        {"weight", "sample_weight", "grad_output", "linear_bias", "b"} & set(inspect.signature(function).parameters)
    )
    for argument in arrays:
        value = torch.tensor(np.asarray(given.get(argument, 1.0), np.float32))
        learned = value.clone().requires_grad_()
        with pytest.raises(TypeError, match=rf"^{argument} requires grad.*fastce\.torch.*{argument}\.detach\(\)"):
            function(**given | {argument: learned})
        if argument in given:
            function(**given | {argument: learned.detach()})


# ------------------------------------------------------------------------------------------------- outputs
@pytest.mark.parametrize("outputs", [0, None, [], "mean", ["max", 1], Missing()])
def test_outputs_of_row_stats_list_the_choices(outputs):
    with pytest.raises(ValueError, match=r"outputs must .*'logsumexp', 'max', 'entropy', 'target_log_prob', 'argmax'"):
        fastce.row_stats(LOGITS, outputs=outputs)


# ------------------------------------------------------------------------------- what signal handlers raise
class TimeLimit(Exception):
    pass


class Interrupted:
    """An object that a signal comes upon while it is asked."""

    ndim, shape = 0, ()

    def __index__(self):
        signal.raise_signal(signal.SIGINT)
        return 1

    __float__ = __array__ = __repr__ = __iter__ = __dlpack_device__ = lambda self, *args, **options: self.__index__()


@pytest.mark.parametrize("error", [TimeLimit("late"), RuntimeError("late"), ValueError("late")], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda odd: fastce.cross_entropy(LOGITS, LABELS, n_threads=odd),
        lambda odd: fastce.cross_entropy(LOGITS, LABELS, axis=odd),
        lambda odd: fastce.cross_entropy(LOGITS, LABELS, reduction=odd),
        lambda odd: fastce.cross_entropy(LOGITS, LABELS, logit_scale=odd),
        lambda odd: fastce.cross_entropy(odd, LABELS),
        lambda odd: fastce.row_stats(LOGITS, outputs=odd),
        lambda odd: fastce.set_num_threads(odd),
    ],
)
def test_what_a_signal_handler_raises_while_a_value_is_asked_comes_out(call, error):
    def handler(number, frame):
        raise error

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(type(error), match="late"):
            call(Interrupted())
    finally:
        signal.signal(signal.SIGINT, before)
