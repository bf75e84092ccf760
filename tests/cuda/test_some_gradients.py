"""Some of a loss's gradients on a GPU: those that are asked for, as from the CPU, and None for the others."""

import numpy as np
import pytest

from fastce.losses import twins

pytest.importorskip("numba_cuda")

RNG = np.random.default_rng(0)
LEFT, RIGHT, BIAS = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5, 4), (5,)))
PAIRS = {"image_features": LEFT, "text_features": RIGHT, "logit_scale": 3.0}
CASES = [
    (twins.LINEAR, {"features": LEFT, "linear_weight": RIGHT, "linear_bias": BIAS, "targets": np.arange(5)}),
    (twins.CLIP_FROM_FEATURES, PAIRS),
    (twins.SIGLIP, PAIRS | {"logit_bias": -1.0}),
    (twins.INFO_NCE, {"query": LEFT, "positive_key": RIGHT}),
    (twins.INFO_NCE, {"query": LEFT, "positive_key": RIGHT, "negative_keys": RNG.normal(size=(7, 4)).astype("f4")}),
]


def host(gradient):
    return gradient.copy_to_host() if hasattr(gradient, "copy_to_host") else gradient


@pytest.mark.parametrize(("loss", "given"), CASES, ids=[loss.name for loss, _ in CASES])
def test_each_gradient_may_be_the_only_one(device, loss, given):
    on_device = {name: device.to_device(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    for name, expected in zip(loss.of, loss.value_and_grad(**given)[1:], strict=True):
        if isinstance(given.get(name), np.ndarray):
            of_one = loss.giving([name])
            assert of_one.of == (name,)
            (gradient,) = of_one.value_and_grad(**on_device)[1:]
            np.testing.assert_allclose(host(gradient), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("loss", [twins.LINEAR_AND_SCALE, twins.CROSS_ENTROPY_AND_SCALE], ids=lambda loss: loss.name)
def test_the_scale_of_cross_entropy_has_one_alone_and_beside_others(device, loss, dtype):
    layer = {"features": LEFT, "linear_weight": RIGHT, "linear_bias": BIAS}
    arrays = {"logits": LEFT} if "logits" in loss.of else layer
    arrays = {name: (3 * array).astype(dtype) for name, array in arrays.items()} | {"targets": np.arange(5) % 4}
    given = {name: device.to_device(array) for name, array in arrays.items()}
    for names in (["logit_scale"], loss.of):
        some = loss.giving(names)
        ours, expected = (some.value_and_grad(**of, logit_scale=1.5) for of in (given, arrays))
        for gradient, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(host(gradient), other, rtol=1e-5, atol=1e-6)
