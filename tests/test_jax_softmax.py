"""logsumexp, softmax and log_softmax of fastce.jax beside those of jax.nn, under its transformations."""

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import fastce.jax  # noqa: E402
from fastce.jax.softmax import _FUNCTIONS  # noqa: E402

NAMES = ["logsumexp", "softmax", "log_softmax"]
X = np.random.default_rng(0).normal(size=(4, 5, 3))
AXES = [-1, 0, (0, 2), None]


def pair(name):
    return getattr(fastce.jax, name), getattr(jax.nn, name)


def of_sines(function, **options):
    """A number in which every element of the result weighs something else."""

    def total(x):
        result = function(x, **options)
        return (jnp.cos(jnp.arange(result.size, dtype=x.dtype)).reshape(result.shape) * jnp.sin(result)).sum()

    return total


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", NAMES)
def test_results_and_gradients_are_jaxs(name, axis, wide):
    ours, theirs = pair(name)
    np.testing.assert_allclose(ours(X, axis=axis), theirs(X, axis=axis), rtol=1e-13, atol=1e-15)
    of_ours, of_theirs = (jax.jit(jax.grad(of_sines(f, axis=axis)))(X) for f in (ours, theirs))
    assert of_ours.dtype == jnp.float64
    np.testing.assert_allclose(of_ours, of_theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_second_order_and_forward(name, wide):
    ours, theirs = pair(name)
    check_grads(lambda x: ours(x, axis=1), [X], order=2, rtol=1e-5, atol=1e-6)
    hessians = (jax.hessian(of_sines(f, axis=0))(X[:, :, 0]) for f in (ours, theirs))
    np.testing.assert_allclose(*hessians, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_fastces(name):
    x = X.astype(np.float32)
    np.testing.assert_array_equal(pair(name)[0](x, axis=0), getattr(fastce, name)(x, axis=0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", NAMES)
def test_halves_keep_their_dtype(name, dtype):
    ours, theirs = (functools.partial(f, axis=1) for f in pair(name))
    x = jnp.asarray(X, dtype)
    (result, back), (exact, back_of_theirs) = jax.vjp(ours, x), jax.vjp(theirs, x.astype(jnp.float32))
    (grad,), (of_exact,) = (b(jnp.cos(r)) for b, r in ((back, result), (back_of_theirs, exact)))
    assert result.dtype == grad.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(result.astype(jnp.float32), exact, rtol=eps)
    np.testing.assert_allclose(grad.astype(jnp.float32), of_exact, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize(("axis", "mapped"), [(-1, 0), (0, 1), ((0, -1), 2), (None, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_one_call(name, axis, mapped, monkeypatch):
    ours, theirs = pair(name)
    shapes, function = [], _FUNCTIONS[name]

    def spied(x, **options):
        shapes.append(x.shape)
        return function(x, **options)

    monkeypatch.setitem(_FUNCTIONS, name, spied)
    batch = np.stack([X, 2 * X, -X], mapped).astype(np.float32)
    found, expected = (
        jax.jit(jax.vmap(jax.grad(of_sines(f, axis=axis)), mapped, mapped))(batch) for f in (ours, theirs)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert shapes == [(3, *X.shape)]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES)
def test_shapes_of_logsumexp(axis, keepdims):
    found = fastce.jax.logsumexp(X, axis, keepdims=keepdims)
    assert found.shape == jax.nn.logsumexp(X, axis, keepdims=keepdims).shape


def test_infinities_have_the_gradients_of_their_exponentials():
    x = jnp.array([[-jnp.inf, 0.0], [-jnp.inf, -jnp.inf]])
    np.testing.assert_array_equal(jax.grad(lambda x: fastce.jax.logsumexp(x, 1)[0])(x), [[0, 1], [0, 0]])
    np.testing.assert_array_equal(jax.grad(lambda x: fastce.jax.logsumexp(x, 1)[1])(x), np.zeros((2, 2)))
    np.testing.assert_array_equal(jax.grad(lambda x: fastce.jax.softmax(x)[0, 1])(x[:1]), np.zeros((1, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name):
    function, _ = pair(name)
    with pytest.raises(ValueError, match="out of bounds"):
        function(X, axis=3)
    with pytest.raises(TypeError, match=rf"of fastce.jax.{name} must be floats, got int32"):
        function(jnp.arange(3, dtype=jnp.int32))
    with pytest.raises(ValueError, match="same dimension twice"):
        jax.jit(lambda x: function(x, axis=(0, -3)))(X)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_without_elements(name):
    ours, theirs = pair(name)
    assert ours(jnp.zeros((0, 3)), axis=1).shape == theirs(jnp.zeros((0, 3)), axis=1).shape
    assert jax.grad(of_sines(ours, axis=1))(jnp.zeros((0, 3))).shape == (0, 3)
