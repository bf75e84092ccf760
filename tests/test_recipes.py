"""The recipes of the README, each as it is printed, and what it computes beside the library's own."""

import re

import numpy as np
import pytest
from scripts import ROOT

import fastce

README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="the README is not installed with the package")
HEADING = re.compile(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def recipes():
    """Heading -> code."""
    section = README.read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]
    return {name: "\n".join(BLOCK.findall(text)) for name, text in HEADING.findall(section)}


def cooked(name, **given):
    """The names that a recipe leaves behind."""
    names = {"np": np, "fastce": fastce, **given}
    exec(compile(recipes()[name], f"README.md, {name}", "exec"), names)
    return names


@pytest.fixture
def logits(rng):
    return 4 * rng.standard_normal((50, 7), np.float32)


@pytest.fixture
def targets(rng):
    return rng.integers(0, 7, 50)


@pytest.fixture
def classified(rng):
    """Features, and labels that they tell."""
    features = rng.standard_normal((300, 4))
    return features, (features @ rng.standard_normal((4, 3))).argmax(axis=1)


def test_every_recipe_has_code_and_a_test():
    tests = {name for name in globals() if name.startswith("test_")}
    assert {f"test_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}" for name in recipes()} <= tests
    assert all(recipes().values())


def test_numpy_a_training_loop():
    losses = cooked("NumPy: a training loop")["losses"]
    assert losses[0] == pytest.approx(np.log(5))
    assert losses[-1] < 0.4


def test_pytorch(logits, targets):
    torch = pytest.importorskip("torch")
    ours, theirs = (torch.tensor(logits, requires_grad=True) for _ in range(2))
    labels = torch.tensor(targets)
    expected = torch.nn.functional.cross_entropy(theirs, labels)
    expected.backward()
    value = cooked("PyTorch", torch=torch, logits=ours, targets=labels)["loss"]
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_pytorch_bfloat16(logits, targets):
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    scores, labels = torch.tensor(logits), torch.tensor(targets)
    names = cooked("PyTorch: bfloat16", torch=torch, scores=scores, targets=labels)
    half = names["logits"]
    wide = half.float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, labels)
    expected.backward()
    assert names["value"] == pytest.approx(expected.item())
    torch.testing.assert_close(names["grad"].float(), wide.grad, rtol=2**-8, atol=1e-6)
    (expression,) = re.findall(r"`(logits\.view\(.*)`", README.read_text())
    as_numpy = eval(expression, {"torch": torch, "ml_dtypes": ml_dtypes, "logits": half})
    np.testing.assert_array_equal(as_numpy.astype(np.float32), half.float().numpy())


def test_jax(logits, targets):
    jax = pytest.importorskip("jax")
    names = cooked("JAX", jax=jax, logits=logits, targets=targets)
    expected = fastce.cross_entropy_value_and_grad(logits, targets)
    assert float(names["value"]) == pytest.approx(expected.value)
    np.testing.assert_allclose(names["grad"], expected.grad, atol=1e-7)
    of_targets = (logits > np.take_along_axis(logits, targets[:, None], axis=1)).sum(axis=1)  # no two are equal
    np.testing.assert_array_equal(names["ranks"](logits, targets), of_targets)


def test_lightgbm(classified):
    lightgbm = pytest.importorskip("lightgbm")
    features, labels = classified
    names = cooked("LightGBM", lightgbm=lightgbm, features=features, labels=labels)
    assert_learned(names["probabilities"], labels)


def test_xgboost(classified):
    xgboost = pytest.importorskip("xgboost")
    features, labels = classified
    names = cooked("XGBoost", xgboost=xgboost, features=features, labels=labels)
    assert_learned(names["probabilities"], labels)


def assert_learned(probabilities, labels):
    assert probabilities.shape == (len(labels), 3)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9


def test_dask_map_blocks(logits, targets):
    array = pytest.importorskip("dask.array")
    import dask

    log_probs = fastce.log_softmax(logits, axis=1)
    chunked = array.from_array(log_probs, chunks=(20, 7)), array.from_array(targets, chunks=20)
    names = cooked("Dask: `map_blocks`", dask=dask, log_probs=chunked[0], targets=chunked[1])
    assert names["losses"].chunks == ((20, 20, 10),)
    assert names["mean"] == pytest.approx(fastce.cross_entropy(logits, targets))
