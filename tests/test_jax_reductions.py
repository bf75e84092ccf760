"""Losses of fastce.jax that are not reduced, and the learned scale of cross entropy, beside JAX's own formulas."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import fastce.jax  # noqa: E402
from fastce.jax import call as machinery  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS, FIRST, SECOND = RNG.normal(size=(6, 5)), *RNG.normal(size=(2, 6, 4))
TARGETS = np.array([0, 4, 1, 1, -100, 3], np.int32)
CLASS_WEIGHTS, COTANGENT = RNG.normal(size=5), RNG.normal(size=6)
EPSILON, Z = 0.1, 0.01


def rows(logits, targets=TARGETS):
    """Cross entropy of each row with smoothing and z-loss; ignored rows have none."""
    log_probs, counted = jax.nn.log_softmax(logits, 1), targets != -100
    own = jnp.take_along_axis(log_probs, jnp.where(counted, targets, 0)[:, None], 1)[:, 0]
    losses = -(1 - EPSILON) * own - EPSILON * log_probs.mean(1) + Z * jax.nn.logsumexp(logits, 1) ** 2
    return jnp.where(counted, losses, 0.0)


def ours(logits, **options):
    return fastce.jax.cross_entropy(
        logits, TARGETS, label_smoothing=EPSILON, z_loss=Z, **{"reduction": "none", **options}
    )


NOT_REDUCED = {  # function, formula, arguments
    "cross_entropy": (ours, rows, (LOGITS,)),
    "linear_cross_entropy": (
        lambda x, w, b: fastce.jax.linear_cross_entropy(
            x, w, TARGETS, linear_bias=b, label_smoothing=EPSILON, z_loss=Z, reduction="none"
        ),
        lambda x, w, b: rows(x @ w.T + b),
        (FIRST, SECOND[:5], CLASS_WEIGHTS),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: fastce.jax.binary_cross_entropy_with_logits(x, LOGITS > 0, reduction="none"),
        lambda x: -jax.nn.log_sigmoid(jnp.where(LOGITS > 0, x, -x)),
        (LOGITS + 1,),
    ),
}


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", NOT_REDUCED)
def test_losses_and_their_weighted_sums(name, transform, wide):
    function, formula, given = NOT_REDUCED[name]
    given = [jnp.asarray(array) for array in given]
    (value, back), (expected, back_of_theirs) = (jax.vjp(transform(f), *given) for f in (function, formula))
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)
    cotangent = jnp.asarray(RNG.normal(size=value.shape))
    for one, other in zip(back(cotangent), back_of_theirs(cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_dimensions_after_the_classes(wide):
    logits, targets = RNG.normal(size=(2, 5, 3)), np.array([[0, 1, 2], [4, 3, 2]], np.int32)

    def formula(x):
        return -jnp.take_along_axis(jax.nn.log_softmax(x, 1), targets[:, None], 1)[:, 0]

    def function(x):
        return fastce.jax.cross_entropy(x, targets, reduction="none")

    (value, back), (expected, back_of_theirs) = (jax.vjp(f, logits) for f in (function, formula))
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(back(expected)[0], back_of_theirs(expected)[0], rtol=1e-12, atol=1e-14)
    one = fastce.jax.cross_entropy(logits[0, :, 0], 2, reduction="none")
    np.testing.assert_allclose(one, -jax.nn.log_softmax(logits[0, :, 0])[2], rtol=1e-13)


def test_jacobian_of_rows_by_vmap(wide):
    """JAX's jacrev maps the backward pass over cotangents."""
    np.testing.assert_allclose(jax.jacrev(ours)(LOGITS), jax.jacrev(rows)(LOGITS), rtol=1e-11, atol=1e-13)


def test_rows_by_vmap(wide):
    batch, labels = RNG.normal(size=(3, 6, 5)), np.stack([TARGETS, TARGETS[::-1], np.zeros(6, np.int32)])

    def total(function):
        return jax.jit(jax.vmap(jax.grad(lambda x, y: (COTANGENT * function(x, y)).sum())))

    mine = total(
        lambda x, y: fastce.jax.cross_entropy(x, y, label_smoothing=EPSILON, z_loss=Z, reduction="none")
    )(batch, labels)  # fmt: skip
    np.testing.assert_allclose(mine, total(rows)(batch, labels), rtol=1e-11, atol=1e-13)


CONTRASTIVE = {  # function of two views, and how many losses it has
    "clip_loss": (lambda x, y, **more: fastce.jax.clip_loss(x @ y.T, **more), 6),
    "clip_loss_from_features": (lambda x, y, **more: fastce.jax.clip_loss_from_features(x, y, 2.0, **more), 6),
    "siglip_loss": (lambda x, y, **more: fastce.jax.siglip_loss(x, y, 2.0, -1.0, **more), 6),
    "info_nce": (fastce.jax.info_nce, 6),
    "nt_xent": (fastce.jax.nt_xent, 12),
    "sup_con": (lambda x, y, **more: fastce.jax.sup_con(x * y, np.array([0, 0, 1, 1, 2, 2]), **more), 6),
}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_losses_have_the_gradient_of_their_sum(name, wide):
    function, count = CONTRASTIVE[name]
    losses = function(FIRST, SECOND, reduction="none")
    assert losses.shape == (count,)
    gradient = jax.jit(jax.grad(lambda x: 3 * function(x, SECOND, reduction="none").sum()))(FIRST)
    expected = jax.grad(lambda x: 3 * function(x, SECOND, reduction="sum"))(FIRST)
    np.testing.assert_allclose(losses.sum(), function(FIRST, SECOND, reduction="sum"), rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=rf"fastce.jax.{name} with reduction=\"none\" has the gradient"
    ):
        jax.block_until_ready(jax.grad(lambda x: function(x, SECOND, reduction="none")[0])(FIRST))


def test_gradients_of_float16_are_computed_when_their_factor_is_known():
    """A mean's divided by its rows would round to 0 before a loss scale brings it back."""
    logits = jnp.asarray(RNG.normal(size=(4096, 3)), jnp.float16)
    targets = jnp.zeros(4096, int)
    grad = jax.grad(lambda x: fastce.jax.cross_entropy(x, targets) * 1024)(logits)
    expected = jax.grad(lambda x: -jax.nn.log_softmax(x)[:, 0].mean() * 1024)(logits.astype(jnp.float32))
    np.testing.assert_allclose(grad.astype(jnp.float32), expected, rtol=2e-3)


# ---------------------------------------------------------------------------------------------- the learned scale
@pytest.mark.parametrize("of", [2, (0, 2), (0, 1), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("is_linear", [False, True])
def test_the_scale_has_its_gradient(is_linear, reduction, of, wide):
    """With the others, alone, and not at all."""
    weights = COTANGENT if reduction == "none" else 2.0

    def loss(function):
        return lambda x, w, s: (weights * function(x, w, jnp.exp(s))).sum()

    def mine(x, w, scale):
        options = dict(logit_scale=scale, label_smoothing=EPSILON, z_loss=Z, reduction=reduction)
        if is_linear:
            return fastce.jax.linear_cross_entropy(x, w, TARGETS, **options)
        return fastce.jax.cross_entropy(x @ w.T, TARGETS, **options)

    given = FIRST, SECOND[:5], 0.7
    functions = mine, lambda x, w, s: rows(s * x @ w.T)
    found, expected = (jax.jit(jax.value_and_grad(loss(f), of))(*given) for f in functions)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_no_matrix_of_gradients_is_computed_for_the_scale_alone(monkeypatch):
    names, gradients = [], machinery._gradients

    def spied(loss, options, wanted, *arrays, **more):
        names.append(loss.giving(wanted).of)
        return gradients(loss, options, wanted, *arrays, **more)

    monkeypatch.setattr(machinery, "_gradients", spied)

    def loss(x, s):
        return fastce.jax.cross_entropy(x, TARGETS, logit_scale=s, softcap=7.0)

    for of in (1, 0, (0, 1)):
        jax.grad(loss, of)(jnp.asarray(LOGITS, jnp.float32), jnp.float32(2.0))
    assert names == [("logit_scale",), ("logits",), ("logits", "logit_scale")]


def test_a_mapped_scale_and_one_that_is_an_array():
    scales = jnp.array([0.5, 1.0, 2.0])
    x = jnp.asarray(LOGITS, jnp.float32)

    def of(function):
        return jax.vmap(jax.value_and_grad(lambda s: function(x, s).sum()))(scales)

    for one, other in zip(of(lambda x, s: ours(x, logit_scale=s)), of(lambda x, s: rows(s * x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for scale in (np.float32(2.0), np.asarray(2.0)):  # values, as 2.0 is one
        np.testing.assert_array_equal(ours(x, logit_scale=scale), ours(x, logit_scale=2.0))


def test_second_derivatives_are_refused_in_words():
    x = jnp.asarray(LOGITS, jnp.float32)
    for function in (lambda s: ours(x, logit_scale=s).sum(), lambda s: ours(x * s).sum()):
        with pytest.raises(ValueError, match="do not support JVP"):
            jax.grad(jax.grad(function))(2.0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_batches_of_no_rows(reduction):
    value, back = jax.vjp(
        lambda x: fastce.jax.cross_entropy(x, jnp.zeros(0, int), reduction=reduction), jnp.ones((0, 3))
    )
    assert value.shape == ((0,) if reduction == "none" else ())
    assert back(value)[0].shape == (0, 3)
