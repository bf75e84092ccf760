"""nt_xent and sup_con: rows to be told from each other, where nobody is compared with itself."""

import dense
import mpmath
import numpy as np
import pytest
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering

import fastce
import fastce.cpu.mates
from fastce.profile.pairs import load_pairs

SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 50]  # tiles have 16 rows and columns at most
TEMPERATURES = [1.0, 0.5, 0.1, 0.07, 0.01]
NAN = np.nan


def views(rng, n, dtype=np.float32, width=12):
    first = rng.normal(size=(n, width))
    return first.astype(dtype), (first + rng.normal(size=(n, width))).astype(dtype)


def real_pairs(n, dtype):
    return [side[:n].astype(dtype) for side in load_pairs()]


# -------------------------------------------------------------------------------------------- nt_xent
@covering({"dtype": [np.float32, np.float64], "n": SIZES}, strength=1)
def test_nt_xent_is_the_dense_formula(small_tiles, rng, n, dtype):
    first, second = views(rng, n, dtype)
    dense.check("nt_xent", first, second)
    dense.check("nt_xent", first / 4, second / 4, temperature=1.0, normalize=False)


@covering({"dtype": [np.float32, np.float64], "temperature": TEMPERATURES}, strength=1)
def test_nt_xent_of_real_pairs_at_every_temperature(small_tiles, temperature, dtype):
    for n in (1, 2, 45):
        dense.check("nt_xent", *real_pairs(n, dtype), temperature=temperature)
        dense.check("nt_xent", *real_pairs(n, dtype), temperature=temperature, normalize=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nt_xent_of_real_pairs_in_tiles_of_their_usual_size(dtype):
    for budget in (1, 1 << 28):
        dense.check("nt_xent", *real_pairs(150, dtype), reductions=["mean"], memory_budget=budget)


@covering({"normalize": [False, True], "temperature": [0.3, 2.0]}, quick=1)
def test_gradients_of_nt_xent_are_the_slopes_of_the_value(rng, temperature, normalize):
    first, second = views(rng, 3, np.float64, width=4)
    options = dict(temperature=temperature, normalize=normalize)
    ours = fastce.nt_xent_value_and_grad(first, second, **options)
    for at, gradient in zip([0, 1, "temperature"], ours[1:], strict=True):
        slope = dense.differences("nt_xent", first, second, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


def test_nt_xent_is_the_same_when_the_views_change_places(small_tiles, rng):
    first, second = views(rng, 20, np.float64)
    ours, other = fastce.nt_xent_value_and_grad(first, second), fastce.nt_xent_value_and_grad(second, first)
    assert ours.value == pytest.approx(other.value, rel=1e-13)
    np.testing.assert_allclose(ours.grad_first_views, other.grad_second_views, rtol=1e-12, atol=1e-16)
    losses = fastce.nt_xent(first, second, reduction="none")
    np.testing.assert_allclose(losses, np.roll(fastce.nt_xent(second, first, reduction="none"), 20), rtol=1e-13)


def test_one_pair_of_views_has_nobody_to_be_told_from(rng):
    value, of_first, of_second, of_temperature = fastce.nt_xent_value_and_grad(*views(rng, 1))
    assert (value, of_temperature) == (0.0, 0.0)
    assert not of_first.any()
    assert not of_second.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_views_keep_their_digits(small_tiles, margin, dtype):
    n, bound = 20, 8 * float(np.finfo(dtype).eps)
    features = np.eye(n, dtype=dtype)  # 1 / temperature with the partner, 0 with all others
    rest = (2 * n - 2) * mpmath.exp(-margin)
    exact, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest))
    ours = fastce.nt_xent_value_and_grad(features, features, temperature=1 / margin, normalize=False)
    assert ours.value == pytest.approx(exact, rel=bound)
    np.testing.assert_allclose(
        fastce.nt_xent(features, features, temperature=1 / margin, reduction="none").astype(float), exact, rtol=bound
    )
    # each of the 2n losses contains the product of the pair once
    np.testing.assert_allclose(np.diag(ours.grad_first_views).astype(float), margin * slope / n, rtol=bound)
    assert ours.grad_temperature == pytest.approx(-(margin**2) * slope, rel=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_couples_of_sup_con_keep_their_digits(small_tiles, margin, dtype):
    n, bound = 20, 8 * float(np.finfo(dtype).eps)
    features, labels = np.eye(n, dtype=dtype)[np.arange(2 * n) // 2], np.arange(2 * n) // 2
    rest = (2 * n - 2) * mpmath.exp(-margin)
    exact, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest))
    losses = fastce.sup_con(features, labels, temperature=1 / margin, reduction="none")
    np.testing.assert_allclose(losses.astype(float), exact, rtol=bound)
    ours = fastce.sup_con_value_and_grad(features, labels, temperature=1 / margin, normalize=False)
    assert ours.value == pytest.approx(exact, rel=bound)
    np.testing.assert_allclose(np.max(-ours.grad_features, axis=1).astype(float), -margin * slope / n, rtol=bound)
    assert ours.grad_temperature == pytest.approx(-(margin**2) * slope, rel=bound)


@covering({"first": NAMES, "second": NAMES}, quick=1)
def test_each_view_has_the_gradient_of_its_own_dtype(small_tiles, rng, first, second):
    views_of_two = (x.astype(dtype_of(name)) for x, name in zip(views(rng, 19), (first, second), strict=True))
    dense.check("nt_xent", *views_of_two)


def test_integer_views_count_as_float64(rng):
    first, second = (rng.integers(0, 3, (20, 5)) for _ in range(2))
    dense.check("nt_xent", first, second, temperature=2.0, normalize=False)


def test_views_that_are_there_twice_share_their_probability(small_tiles, rng):
    first, second = (x.repeat(2, 0) for x in views(rng, 11))
    dense.check("nt_xent", first, second)
    same = np.ones((18, 4))
    ours = fastce.nt_xent_value_and_grad(same, same, temperature=0.1)
    assert ours.value == pytest.approx(np.log(35), rel=1e-13)
    np.testing.assert_allclose(ours.grad_first_views, 0, atol=1e-14)


# -------------------------------------------------------------------------------------------- sup_con
LABELS = {
    "pairs": lambda rng, n: np.arange(n) % max(n // 2, 1),
    "few classes": lambda rng, n: rng.integers(0, 3, n),
    "one class": lambda rng, n: np.full(n, 7),
    "many singletons": lambda rng, n: rng.integers(-n, n, n),
    "negative and far apart": lambda rng, n: rng.choice([-(2**62), -1, 0, 2**62], n),
}


@covering({"dtype": [np.float32, np.float64], "labels": LABELS, "n": [1, 2, 3, 15, 16, 17, 33, 64, 70]}, quick=1)
def test_sup_con_is_the_dense_formula(small_tiles, rng, n, labels, dtype):
    features, labels = views(rng, n, dtype)[0], LABELS[labels](rng, n)
    dense.check("sup_con", features, labels, temperature=0.2)
    dense.check("sup_con", features / 4, labels, temperature=1.0, normalize=False)


@covering({"dtype": [np.float32, np.float64], "temperature": TEMPERATURES}, strength=1)
def test_sup_con_of_real_pairs_at_every_temperature(small_tiles, rng, temperature, dtype):
    features = np.concatenate(real_pairs(45, dtype))
    dense.check("sup_con", features, np.tile(np.arange(45), 2), temperature=temperature)
    dense.check("sup_con", features, rng.integers(0, 9, 90), temperature=temperature, normalize=False)


def test_sup_con_of_real_pairs_in_tiles_of_their_usual_size():
    features = np.concatenate(real_pairs(180, np.float32))
    for budget in (1, 1 << 28):
        dense.check("sup_con", features, np.arange(360) % 7, reductions=["mean"], memory_budget=budget)


@covering({"normalize": [False, True], "labels": [[0, 1, 0, 1, 0], [3, 3, 3, 3, 3], [-1, 5, -1, 2, 5]]}, quick=1)
def test_gradients_of_sup_con_are_the_slopes_of_the_value(rng, labels, normalize):
    features, options = views(rng, 5, np.float64, width=3)[0], dict(temperature=0.7, normalize=normalize)
    ours = fastce.sup_con_value_and_grad(features, labels, **options)
    for at, gradient in zip([0, "temperature"], ours[1:], strict=True):
        slope = dense.differences("sup_con", features, labels, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_rows_that_are_all_alone_cost_nothing_and_have_no_mean(small_tiles, rng, n):
    features = views(rng, n)[0]
    for reduction in REDUCTIONS:
        value, of_features, of_temperature = fastce.sup_con_value_and_grad(features, np.arange(n), reduction=reduction)
        assert not of_features.any()
        assert of_temperature == 0
        if reduction == "mean":
            assert np.isnan(value)
        else:
            np.testing.assert_array_equal(value, np.zeros(n, np.float32) if reduction == "none" else 0.0)


def test_a_row_that_is_alone_costs_nothing_but_pushes_others_away(rng):
    features = views(rng, 5, np.float64)[0]
    losses = fastce.sup_con(features, [0, 0, 1, 2, 2], reduction="none")
    assert losses[2] == 0
    assert np.all(np.delete(losses, 2) > 0)
    assert fastce.sup_con(features, [0, 0, 1, 2, 2]) == pytest.approx(losses.sum() / 4, rel=1e-14)
    assert fastce.sup_con_value_and_grad(features, [0, 0, 1, 2, 2]).grad_features[2].any()


def test_sup_con_with_two_of_each_label_is_nt_xent(small_tiles, rng):
    first, second = views(rng, 21, np.float64)
    ours = fastce.sup_con_value_and_grad(np.concatenate([first, second]), np.tile(np.arange(21), 2), temperature=0.5)
    other = fastce.nt_xent_value_and_grad(first, second, temperature=0.5)
    assert ours.value == pytest.approx(other.value, rel=1e-13)
    assert ours.grad_temperature == pytest.approx(other.grad_temperature, rel=1e-11)
    both = np.concatenate([other.grad_first_views, other.grad_second_views])
    np.testing.assert_allclose(ours.grad_features, both, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i4", "int64", "uint64"])
def test_labels_of_any_integer_type_and_layout(rng, dtype):
    features, labels = views(rng, 30)[0], rng.integers(0, 4, 30)
    plain = fastce.sup_con_value_and_grad(features, labels)
    assert dense.bits(fastce.sup_con_value_and_grad(features, labels.astype(dtype))) == dense.bits(plain)
    strided = labels.repeat(2)[::2].astype(dtype)[::-1][::-1]
    assert dense.bits(fastce.sup_con_value_and_grad(features, strided)) == dense.bits(plain)
    assert dense.bits(fastce.sup_con_value_and_grad(features, list(map(int, labels)))) == dense.bits(plain)


def test_names_of_the_labels_do_not_matter(rng):
    features, labels = views(rng, 30)[0], rng.integers(0, 4, 30)
    renamed = np.array([2**62, -5, 17, 0])[labels]
    ours, plain = fastce.sup_con_value_and_grad(features, renamed), fastce.sup_con_value_and_grad(features, labels)
    assert ours.value == pytest.approx(plain.value, rel=1e-14)
    np.testing.assert_allclose(ours.grad_features, plain.grad_features, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_gradient_of_their_own_dtype(small_tiles, rng, name):
    features = views(rng, 25)[0].astype(dtype_of(name))
    dense.check("sup_con", features, rng.integers(0, 4, 25), temperature=0.3)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integer_features_count_as_float64(rng, dtype):
    features = rng.integers(0, 3, (20, 5)).astype(dtype)
    dense.check("sup_con", features, rng.integers(0, 4, 20), temperature=2.0, normalize=False)


CLASSES = [np.zeros(64, int), np.arange(64) // 32, np.arange(64) % 7, np.maximum(np.arange(64) - 40, 0)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", CLASSES)
def test_many_rows_of_one_class_are_summed_in_several_blocks(rng, monkeypatch, labels, name):
    monkeypatch.setattr(fastce.cpu.mates, "BLOCK_BYTES", 8 * 12 * 10)  # ten rows
    features = views(rng, 64, np.float64)[0].astype(dtype_of(name))
    dense.check("sup_con", features, labels)
    plain, *others = (
        fastce.sup_con_value_and_grad(make(features), labels, n_threads=n_threads)
        for make in (np.ascontiguousarray, np.asfortranarray)
        for n_threads in (1, 2)
    )
    for found in others:
        assert found.value == plain.value
        assert found.grad_features.tobytes() == plain.grad_features.tobytes()


# ----------------------------------------------------------------------------------------- hard numbers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_hundred_thousands(small_tiles, rng, dtype):
    features = rng.integers(-3, 4, (38, 8)).astype(dtype)  # products are exact
    dense.check("nt_xent", features[:19], features[19:], temperature=2.0**-13, normalize=False)
    dense.check("sup_con", features, np.arange(38) % 3, temperature=2.0**-13, normalize=False)


@pytest.mark.parametrize("at", [0, 5, 19])
def test_one_nan_reaches_everyone_but_those_who_count_for_nothing(rng, at):
    first, second = views(rng, 20)
    first[at, 3] = NAN
    assert np.isnan(fastce.nt_xent(first, second))
    assert np.isnan(fastce.nt_xent(first, second, reduction="none")).all()
    labels = np.arange(20) // 2
    assert np.isnan(fastce.sup_con(first, labels))
    losses = fastce.sup_con(first, np.where(np.arange(20) < 17, labels, 100 + np.arange(20)), reduction="none")
    assert np.isnan(losses[:16]).all()
    np.testing.assert_array_equal(losses[16:], 0)


def test_the_results_are_named(rng):
    first, second = views(rng, 3)
    names = ("value", "grad_first_views", "grad_second_views", "grad_temperature")
    assert fastce.nt_xent_value_and_grad(first, second)._fields == names
    assert fastce.sup_con_value_and_grad(first, [0, 0, 1])._fields == ("value", "grad_features", "grad_temperature")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nobody_at_all(reduction):
    nobody = np.empty((0, 4), np.float32)
    for ours in (
        fastce.nt_xent_value_and_grad(nobody, nobody, reduction=reduction),
        fastce.sup_con_value_and_grad(nobody, np.empty(0, int), reduction=reduction),
    ):
        assert all(gradient.shape == (0, 4) for gradient in ours[1:-1])
        assert ours[-1] == 0
        if reduction == "none":
            assert ours.value.shape == (0,)
        else:
            assert np.isnan(ours.value) if reduction == "mean" else ours.value == 0


def test_a_loss_beyond_float32_does_not_warn():
    features = np.full((3, 2), 1.5e19, np.float32)
    features[0] = -features[0]
    losses = fastce.sup_con(features, [0, 0, 0], normalize=False, temperature=0.1, reduction="none")
    assert losses.shape == (3,)


def test_labels_are_integers_even_if_there_are_none():
    with pytest.raises(TypeError, match="labels must be integers"):
        fastce.sup_con(np.zeros((0, 3)), [])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [None, 1])
def test_sup_con_keeps_what_a_large_row_has_to_do_with_small_ones(dtype, block, monkeypatch):
    if block is not None:
        monkeypatch.setattr("fastce.cpu.mates.BLOCK_BYTES", block)
    features, scale = np.array([[1e20], [1.0], [2.0]], dtype), 1e-20
    ours = fastce.sup_con_value_and_grad(features, [0, 0, 0], temperature=1 / scale, normalize=False, reduction="none")
    x = features.astype(np.longdouble)
    z = scale * x @ x.T
    np.fill_diagonal(z, -np.inf)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    sums = p.sum(axis=1)
    losses = [np.log(s) + row.max() - np.delete(row, i).mean() for i, (s, row) in enumerate(zip(sums, z, strict=True))]
    slopes = p / sums[:, None] - (1 - np.eye(3)) / 2
    expected = scale * (slopes + slopes.T) @ x
    bound = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(ours.value, np.array(losses, float), rtol=bound)
    terms = scale * (np.abs(slopes) + np.abs(slopes.T)) @ x
    assert np.all(np.abs(ours.grad_features - expected) <= bound * terms)
