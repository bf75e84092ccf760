"""Plain calls of losses from features: the bits of the usual way, which everything that is not plain takes."""

import dense
import numpy as np
import pytest
from covering import covering

import fastce
from fastce.losses import plain_features
from fastce.products.gradients import MEMORY_BUDGET

LOSSES = {
    "clip_loss_from_features": ((3.0,), {"label_smoothing": 0.1}),
    "siglip_loss": ((10.0, -9.0), {}),
    "nt_xent": ((), {"temperature": 0.3, "normalize": False}),
    "info_nce": ((), {"temperature": 0.2, "normalize": False}),
    "linear_cross_entropy": ((), {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_scale": 3.0}),
}


@pytest.fixture
def plain_calls(monkeypatch):
    """Whether calls were taken for plain ones."""
    found, plain_pairs = [], plain_features.plain_pairs

    def watched(*args, **named):
        pairs = plain_pairs(*args, **named)
        found.append(pairs is not None)
        return pairs

    monkeypatch.setattr(plain_features, "plain_pairs", watched)
    return found


def sides(name, rng, n=12, width=24):
    a = (rng.normal(size=(n, width)) / np.sqrt(width)).astype(np.float32)
    if name == "linear_cross_entropy":
        classes = n // 2 + 2
        return a, rng.normal(size=(classes, width)).astype(np.float32), rng.integers(0, classes, n)
    return a, (a + 0.4 * rng.normal(size=(n, width)) / np.sqrt(width)).astype(np.float32)


def both(name, arrays, **options):
    """The value, and the twin's value and gradients."""
    numbers, usual = LOSSES[name]
    names = (name, f"{name}_value_and_grad")
    return [getattr(fastce, function)(*arrays, *numbers, **(usual | options)) for function in names]


@covering(
    {
        "name": [*LOSSES],
        "n": [2, 3, 17, 64, 130, 300, 362, 500, 724],
        "width": [1, 7, 64, 700],
        "reduction": ["mean", "sum", "none"],
        "n_threads": [None, 1, 2],
    }
)
def test_bits_are_those_of_the_usual_way(rng, plain_calls, name, n, width, reduction, n_threads):
    arrays = sides(name, rng, n, width)
    plain = both(name, arrays, reduction=reduction, n_threads=n_threads)
    assert plain_calls == [name != "nt_xent" or 2 * n <= 724] * 2
    usual = both(name, arrays, reduction=reduction, progress=lambda done, total: None)
    assert not any(plain_calls[2:])
    assert [dense.bits(result) for result in plain] == [dense.bits(result) for result in usual]
    assert list(map(type, plain)) == list(map(type, usual))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n", [2, 5, 40, 200])
def test_plain_calls_are_the_dense_formula(rng, plain_calls, name, n):
    numbers, options = LOSSES[name]
    dense.check(name, *sides(name, rng, n), *numbers, **options)
    assert plain_calls
    assert all(plain_calls)


def strided(array):
    return np.repeat(array, 2, axis=1)[:, ::2]


def with_one(value):
    def changed(array):
        array = array.copy()
        array[1, 2] = value
        return array

    return changed


CHANGES = {
    "float64": lambda array: array.astype(np.float64),
    "float16": lambda array: array.astype(np.float16),
    "big-endian": lambda array: array.astype(">f4"),
    "strided": strided,
    "Fortran": np.asfortranarray,
    "list": lambda array: array.tolist(),
    "nan": with_one(np.nan),
    "inf": with_one(np.inf),
    "large": lambda array: array * np.float32(1e15),
    "tiny": lambda array: array * np.float32(1e-15),
    "zeros": np.zeros_like,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", [0, 1])
def test_other_features_go_the_usual_way(rng, plain_calls, name, change, side):
    arrays = list(sides(name, rng))
    arrays[side] = CHANGES[change](arrays[side])
    found = both(name, arrays)
    assert plain_calls == [name == "nt_xent" and change in ("tiny", "zeros")] * 2  # the larger of both views tells
    usual = both(name, arrays, progress=lambda done, total: None)
    assert [dense.bits(result) for result in found] == [dense.bits(result) for result in usual]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "options", [{"memory_budget": 1 << 20}, {"memory_budget": np.int64(MEMORY_BUDGET)}, {"n_threads": np.int64(2)}]
)
def test_other_options_go_the_usual_way(rng, plain_calls, name, options):
    both(name, sides(name, rng), **options)
    assert not any(plain_calls)


@pytest.mark.parametrize(
    "wrong", [{"memory_budget": 0}, {"n_threads": 0}, {"reduction": "average"}, {"reduction": None}, {"progress": 3}]
)
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_wrong_is_told(rng, name, wrong):
    with pytest.raises((ValueError, TypeError)):
        both(name, sides(name, rng), **wrong)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("clip_loss_from_features", "label_smoothing", 1.5),
        ("clip_loss_from_features", "label_smoothing", "much"),
        ("nt_xent", "temperature", 0.0),
        ("info_nce", "temperature", -1.0),
        ("info_nce", "temperature", "0.1"),
        ("linear_cross_entropy", "logit_scale", -1.0),
        ("linear_cross_entropy", "ignore_index", 0.5),
        ("linear_cross_entropy", "smoothing_over", "some"),
    ],
)
def test_wrong_numbers_are_told(rng, name, option, value):
    with pytest.raises((ValueError, TypeError)):
        both(name, sides(name, rng), **{option: value})


def test_a_class_out_of_range_is_an_index_error(rng):
    features, weight, targets = sides("linear_cross_entropy", rng)
    targets[3] = len(weight)
    with pytest.raises(IndexError, match="row 3"):
        fastce.linear_cross_entropy(features, weight, targets)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "linear_cross_entropy"])
def test_sides_that_do_not_fit_are_told(rng, name):
    a, b = sides(name, rng)
    for bad in (b[:-1], b[:, :-1].copy()):
        with pytest.raises(ValueError, match=r"shape|width|as many"):
            both(name, (a, bad))


@pytest.mark.parametrize("name", LOSSES)
def test_features_stay_as_they_are_and_results_are_their_own(rng, name):
    arrays = sides(name, rng)
    before = [array.copy() for array in arrays]
    first = both(name, arrays)[1]
    kept = dense.bits(first)
    both(name, sides(name, rng))
    assert dense.bits(first) == kept
    assert all(map(np.array_equal, arrays, before))
