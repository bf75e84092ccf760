"""The functions for arrays on a GPU take what fastce's own take, by the same names: nothing more, and all of it."""

import inspect
import math

import ml_dtypes
import numpy as np
import public_calls
import pytest

import fastce

pytest.importorskip("numba_cuda")

CHECKS = public_calls  # for the fixtures
NAMES = [
    name
    for name in fastce.__all__
    if inspect.isfunction(getattr(fastce, name)) and hasattr(getattr(fastce, name), "__wrapped__") and name != "threads"
]


def test_all_losses_are_among_them():
    assert {"cross_entropy", "logsumexp", "clip_loss", "info_nce_value_and_grad", "linear_cross_entropy"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_an_error(device, name):
    parameters = inspect.signature(getattr(fastce, name)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
    features = device.to_device(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
        getattr(fastce, name)(*[features for _ in needed], smoothing=0.1)


def arguments_of(name, device):
    """Arrays on the device, and numbers, for what has no default."""
    parameters = inspect.signature(getattr(fastce, name)).parameters.values()
    features = device.to_device(np.float32([[0.3, 0.4], [0.5, -0.1]]))
    known = {"logit_scale": 2.0, "logit_bias": -1.0} | dict.fromkeys(
        ("targets", "labels"), device.to_device(np.array([0, 1]))
    )
    if name.startswith("binary"):
        known["targets"] = features
    return {p.name: known.get(p.name, features) for p in parameters if p.default is p.empty}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_looked_at(device, name):
    """What nothing accepts is an error for every argument: none is passed over."""
    function = getattr(fastce, name)
    for option in inspect.signature(function).parameters:
        with pytest.raises((TypeError, ValueError)) as error:
            function(**arguments_of(name, device) | {option: object()})
        assert option in str(error.value)


# What options that are no arrays are given; some of it is right for some of them.
ODD = [
    "much", b"1", -1, 0, 7, 1.5, -0.5, math.nan, math.inf, 10**400, 1j, True, np.True_, {}, np.timedelta64(1), object()
]  # fmt: skip
LISTS = [[1], (0, 1), (1, 1)]
ARRAYS = {
    "b",
    "targets",
    "labels",
    "weight",
    "pos_weight",
    "positives",
    "sample_weight",
    "linear_bias",
    "negative_keys",
    "out",
}
OPTIONS = [
    pytest.param(name, option, marks=[pytest.mark.slow] * (name.endswith("_and_grad") and option != "grad_output"))
    for name in NAMES
    for option in inspect.signature(getattr(fastce, name)).parameters
    if option not in ARRAYS and not isinstance(public_calls.CALLS[name].get(option), np.ndarray)
]


def error_of(function, arguments):
    """(type, sentence) of what a call raises; None if it returns."""
    try:
        function(**arguments)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_what_the_cpu_does_not_accept_is_refused_in_the_same_words(on_device, name, option):
    arguments = public_calls.CALLS[name]
    seen = 0
    for value in ODD + LISTS * (option != "grad_output"):  # as a list, an array in the memory of the CPU
        expected = error_of(getattr(fastce, name), arguments | {option: value})
        if expected is not None:
            assert error_of(getattr(on_device, name), arguments | {option: value}) == expected
            seen += 1
    assert seen >= 5


def test_numbers_that_the_cpu_accepts_as_grad_output(on_device):
    arguments = public_calls.CALLS["cross_entropy_value_and_grad"]
    for value in (True, np.int8(3), np.float16(0.5), -2.0, np.array(2.0, ml_dtypes.bfloat16)):
        ours = on_device.cross_entropy_value_and_grad(**arguments, grad_output=value)
        expected = fastce.cross_entropy_value_and_grad(**arguments, grad_output=value)
        np.testing.assert_allclose(ours.grad, expected.grad, rtol=1e-14, atol=1e-16)
