"""fastce.jax beside JAX's own formulas, under its transformations."""

import numpy as np
import pytest
from scripts import run_script

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import fastce.jax  # noqa: E402
from fastce.jax.call import call  # noqa: E402
from fastce.losses import twins  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS, TARGETS = (
    RNG.normal(size=(6, 5)).astype(np.float32),
    RNG.integers(0, 5, 6, np.int32),
)  # as wide with x64 as without
FIRST, SECOND = RNG.normal(size=(2, 6, 4)).astype(np.float32)


def cross_entropy(logits, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1).mean()


def clip(first, second, scale):
    products, own = scale * first @ second.T, jnp.arange(len(first))
    return (cross_entropy(products, own) + cross_entropy(products.T, own)) / 2


def siglip(first, second, scale, bias):
    signs = 2 * jnp.eye(len(first)) - 1
    return -jax.nn.log_sigmoid(signs * (scale * first @ second.T + bias)).sum() / len(first)


CASES = {
    "cross_entropy": (fastce.jax.cross_entropy, cross_entropy, (LOGITS, TARGETS), (0,)),
    "linear_cross_entropy": (
        fastce.jax.linear_cross_entropy, lambda x, w, y: cross_entropy(x @ w.T, y),
        (FIRST, SECOND[:5], TARGETS), (0, 1),
    ),
    "clip_loss_from_features": (fastce.jax.clip_loss_from_features, clip, (FIRST, SECOND, 2.0), (0, 1, 2)),
    "siglip_loss": (fastce.jax.siglip_loss, siglip, (FIRST, SECOND, 2.0, -1.0), (0, 1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_under_jit(name):
    ours, theirs, given, of = CASES[name]
    value, gradients = jax.jit(jax.value_and_grad(lambda *given: 3 * ours(*given), of))(*given)
    expected, of_theirs = jax.value_and_grad(lambda *given: 3 * theirs(*given), of)(*given)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for one, other in zip(gradients, of_theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


LABELS = np.array([0, 1, 0, 2, 1, 2], np.int32)
TO_CHECK = {  # in float64: all that have gradients, as arguments
    "cross_entropy": lambda x: fastce.jax.cross_entropy(x, TARGETS[:6] % 4, label_smoothing=0.1, logit_scale=2.0),
    "binary_cross_entropy_with_logits": lambda x: fastce.jax.binary_cross_entropy_with_logits(
        x, jax.nn.sigmoid(-x.round()), pos_weight=jnp.arange(1.0, 5.0), reduction="sum"
    ),
    "linear_cross_entropy": lambda x, w, b: fastce.jax.linear_cross_entropy(x, w, TARGETS, linear_bias=b[:, 0]),
    "clip_loss": lambda x, s: fastce.jax.clip_loss(x @ x.T, logit_scale=jnp.exp(s)),
    "clip_loss_from_features": lambda x, y, s: fastce.jax.clip_loss_from_features(x, y, jnp.exp(s), normalize=True),
    "siglip_loss": lambda x, y, s, b: fastce.jax.siglip_loss(x, y, jnp.exp(s), b),
    "info_nce": lambda x, y, z, t: fastce.jax.info_nce(x, y, z, temperature=jnp.exp(t)),
    "nt_xent": lambda x, y, t: fastce.jax.nt_xent(x, y, temperature=jnp.exp(t)),
    "sup_con": lambda x, t: fastce.jax.sup_con(x, LABELS, temperature=jnp.exp(t)),
}
NUMBERS = {"clip_loss": 1, "clip_loss_from_features": 1, "siglip_loss": 2, "info_nce": 1, "nt_xent": 1, "sup_con": 1}


@pytest.mark.parametrize("name", TO_CHECK)
def test_gradients_are_differences_of_values(name):
    function, numbers = TO_CHECK[name], NUMBERS.get(name, 0)
    arrays = function.__code__.co_argcount - numbers
    with jax.enable_x64(True):
        given = [jnp.asarray(RNG.normal(size=(6, 4))) for _ in range(arrays)] + [jnp.asarray(0.3)] * numbers
        assert function(*given).dtype == jnp.float64
        check_grads(jax.jit(function), given, order=1, modes=["rev"], rtol=1e-6, atol=1e-7)


def of_unit_length(features):
    return features / jnp.linalg.norm(features, axis=1, keepdims=True)


def info_nce(query, key, temperature):
    return cross_entropy(of_unit_length(query) @ of_unit_length(key).T / temperature, jnp.arange(len(query)))


def nt_xent(first, second, temperature):
    views, n = of_unit_length(jnp.concatenate([first, second])), len(first)
    products = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, views @ views.T / temperature)
    return cross_entropy(products, jnp.roll(jnp.arange(2 * n), n))


def sup_con(features, temperature):
    views = of_unit_length(features)
    others = ~jnp.eye(len(views), dtype=bool)
    log_probs = views @ views.T / temperature
    log_probs -= jax.nn.logsumexp(log_probs, axis=1, where=others, keepdims=True)
    positives = others & (LABELS[:, None] == LABELS)
    return -(jnp.sum(log_probs, axis=1, where=positives) / positives.sum(axis=1)).mean()


@pytest.mark.parametrize(
    ("ours", "theirs", "given"),
    [
        (lambda x, y, t: fastce.jax.info_nce(x, y, temperature=t), info_nce, (FIRST, SECOND, 0.5)),
        (lambda x, y, t: fastce.jax.nt_xent(x, y, temperature=t), nt_xent, (FIRST, SECOND, 0.5)),
        (lambda x, t: fastce.jax.sup_con(x, LABELS, temperature=t), sup_con, (FIRST, 0.5)),
        (
            lambda x: fastce.jax.binary_cross_entropy_with_logits(x, SECOND > 0),
            lambda x: -jax.nn.log_sigmoid(jnp.where(SECOND > 0, x, -x)).mean(),
            (FIRST,),
        ),
    ],
    ids=["info_nce", "nt_xent", "sup_con", "binary"],
)
def test_values_and_gradients_are_the_formulas(ours, theirs, given):
    of = tuple(range(len(given)))
    (value, gradients), (expected, of_theirs) = (jax.value_and_grad(f, of)(*given) for f in (ours, theirs))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for one, other in zip(gradients, of_theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_gradients_of_two_views_are_fastces(name):
    gradients = jax.grad(lambda a, b, t: getattr(fastce.jax, name)(a, b, temperature=t), (0, 1, 2))(FIRST, SECOND, 0.5)
    expected = getattr(fastce, f"{name}_value_and_grad")(FIRST, SECOND, temperature=0.5)
    for one, other in zip(gradients, [expected[1], expected[2], expected[-1]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_vmap_of_gradients():
    batch = np.stack([LOGITS, LOGITS[::-1]])
    found = jax.jit(jax.vmap(jax.grad(fastce.jax.cross_entropy), (0, None)))(batch, TARGETS)
    np.testing.assert_allclose(found, jax.vmap(jax.grad(cross_entropy), (0, None))(batch, TARGETS), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_keep_their_dtype(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    value, grad = jax.value_and_grad(fastce.jax.cross_entropy)(logits, TARGETS)
    assert value.dtype == grad.dtype == dtype
    expected, of_theirs = jax.value_and_grad(cross_entropy)(logits.astype(jnp.float32), TARGETS)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(value), expected, rtol=eps)
    np.testing.assert_allclose(grad.astype(jnp.float32), of_theirs, rtol=eps, atol=1e-6)


def test_the_loss_has_the_dtype_of_the_first_argument():
    """Not of the scale, which comes first by its name."""
    given = jnp.eye(3, dtype=jnp.bfloat16), jnp.float32(2.0)
    value, gradients = jax.value_and_grad(lambda x, s: fastce.jax.clip_loss(x, logit_scale=s), (0, 1))(*given)
    assert [x.dtype for x in (value, *gradients)] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]


def test_other_derivatives_are_refused_by_jax():
    def loss(x):
        return fastce.jax.cross_entropy(x, TARGETS)

    with pytest.raises(ValueError, match="do not support JVP"):
        jax.hessian(loss)(LOGITS)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (LOGITS,), (LOGITS,))


def test_large_arrays_within_jit_do_not_wait_for_each_other():
    logits = jnp.ones((2048, 4096)) * 1.0
    step = jax.jit(lambda x: x - jax.grad(fastce.jax.cross_entropy)(x * 2, jnp.zeros(2048, int)))
    assert step(step(logits)).shape == logits.shape


ON_DEVICES = """
import jax, jax.numpy as jnp, fastce.jax
gradient = jax.jit(jax.grad(fastce.jax.cross_entropy))
logits, targets = jnp.ones((2048, 4096)), jnp.zeros(2048, int)
gradients = []
for _ in range(6):
    for device in jax.devices():
        x, y = jax.device_put(logits, device), jax.device_put(targets, device)
        gradients = gradients[-5:] + [gradient(x * 2, y) for _ in range(5)]
    jax.block_until_ready(gradients)  # of both devices: Python must not end while JAX calls it

mesh = jax.sharding.Mesh(jax.devices(), ("rows",))
parts = [jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))) for x in (x * 2, y)]
assert len(parts[0].addressable_shards) == 2
assert (jax.device_get(gradient(*parts)) == jax.device_get(gradients[0])).all()
"""


@pytest.mark.slow
def test_devices_of_the_cpu_do_not_wait_for_each_other(tmp_path):
    """By jax.pure_callback they did, forever: each thread of JAX in a callback that waited for a copy by another."""
    run_script(ON_DEVICES, tmp_path, timeout=240, XLA_FLAGS="--xla_force_host_platform_device_count=2")


@pytest.mark.parametrize("name", ["CROSS_ENTROPY", "BINARY", "CLIP"])
def test_gradients_are_written_where_jax_has_them(name):
    places, loss = [], getattr(twins, name)

    def spied(*args, out, **options):
        places.append(out.ctypes.data)
        return loss.value_and_grad(*args, out=out, **options)

    x = jax.nn.softmax(jnp.asarray(RNG.normal(size=(64, 64)), jnp.float32))
    others, spy = {"targets": None if name == "CLIP" else x}, loss._replace(value_and_grad=spied)
    found = jax.jit(jax.grad(lambda x: call(spy, {loss.of[0]: x}, others, reduction="mean")))(x)
    assert places == [found.unsafe_buffer_pointer()]


def test_donated_arrays():
    step = jax.jit(lambda x: x - jax.grad(fastce.jax.cross_entropy)(x, jnp.asarray(TARGETS)), donate_argnums=0)
    expected = LOGITS - fastce.cross_entropy_value_and_grad(LOGITS, TARGETS).grad
    np.testing.assert_allclose(step(jnp.array(LOGITS)), expected, atol=1e-6)


def test_arrays_of_other_devices_are_copied(monkeypatch):
    """As they would be there: no such device is needed to see what the callback gives."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays))
    value, grad = jax.jit(jax.value_and_grad(fastce.jax.cross_entropy))(LOGITS, TARGETS)
    expected = fastce.cross_entropy_value_and_grad(LOGITS, TARGETS)
    np.testing.assert_allclose(value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(grad, expected.grad, atol=1e-7)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad])
def test_wrong_arguments_are_told_in_fastces_words(transform):
    function = transform(lambda x: fastce.jax.cross_entropy(x, jnp.full(6, 7)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"IndexError: .*targets"):
        jax.block_until_ready(function(LOGITS))


def test_importing_fastce_does_not_import_jax(tmp_path):
    run_script("import fastce, sys; fastce.cross_entropy([0.0, 1.0], 0); assert 'jax' not in sys.modules", tmp_path)


def test_what_has_no_gradient_is_refused():
    weight = jnp.ones(5)
    with pytest.raises(TypeError, match=r"^fastce.jax.cross_entropy has no gradient for weight"):
        jax.grad(lambda w: fastce.jax.cross_entropy(LOGITS, TARGETS, weight=w))(weight)
    with pytest.raises(ValueError, match=r"^reduction must be"):
        fastce.jax.cross_entropy(LOGITS, TARGETS, reduction="median")
    for wrong in ([2.0], np.ones(2), jnp.ones(2)):
        with pytest.raises(TypeError, match=r"^z_loss of fastce.jax.cross_entropy must be a single Python value"):
            fastce.jax.cross_entropy(LOGITS, TARGETS, z_loss=wrong)
    with pytest.raises(TypeError, match=r"^z_loss of fastce.jax.cross_entropy must be .* JAX does not trace"):
        jax.jit(lambda z: fastce.jax.cross_entropy(LOGITS, TARGETS, z_loss=z))(2.0)
    with pytest.raises(TypeError, match=r"^logits of fastce.jax.cross_entropy must be floats, got int32"):
        fastce.jax.cross_entropy(jnp.ones((6, 5), int), TARGETS)
