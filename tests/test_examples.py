"""The examples in bench/examples: each keeps what it promises, and draws its picture."""

import ast
import re

import pytest
from scripts import ROOT

EXAMPLES = ROOT / "bench" / "examples"
NAMES = [path.stem for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "__init__"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_what_it_solves_and_has_its_picture_and_its_test(name):
    first, *_ = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())).splitlines()
    assert re.fullmatch(r"[A-Z].+\.", first)
    assert (EXAMPLES / f"{name}.png").is_file()
    assert f"test_{name}" in globals()


def test_boosting(tmp_path):
    for name in ("lightgbm", "sklearn", "matplotlib"):
        pytest.importorskip(name)
    import matplotlib

    matplotlib.use("agg")
    boosting = pytest.importorskip("bench.examples.boosting")
    own, same, better = boosting.main(tmp_path).values()
    assert same == pytest.approx(own, rel=0.01)
    assert better[-1] < 0.95 * own[-1]
    assert (tmp_path / "boosting.png").stat().st_size > 0


def test_retrieval(tmp_path):
    pytest.importorskip("matplotlib")
    figures = pytest.importorskip("bench.examples.retrieval").main(tmp_path)
    assert set(figures) == {"docstring of a signature", "signature of a docstring"}
    for recall in figures.values():
        assert 0.4 < recall[1] < recall[5] < recall[10] < 1.0
    assert (tmp_path / "retrieval.png").stat().st_size > 0


def test_numpy_clip(tmp_path):
    pytest.importorskip("matplotlib")
    figures = pytest.importorskip("bench.examples.numpy_clip").main(tmp_path)
    assert figures["last loss"] < figures["first loss"] / 10
    assert figures["last recall"] > figures["first recall"] + 0.2
    assert (tmp_path / "numpy_clip.png").stat().st_size > 0


def test_tiny_language_model(tmp_path):
    for name in ("torch", "matplotlib"):
        pytest.importorskip(name)
    model = pytest.importorskip("bench.examples.tiny_language_model")
    first, before, after = model.main(tmp_path).values()
    assert before < 0.75 * first
    assert after < 0.9 * before
    assert (tmp_path / "tiny_language_model.png").stat().st_size > 0


def test_simclr_digits(tmp_path):
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name)
    figures = pytest.importorskip("bench.examples.simclr_digits").main(tmp_path)
    assert figures["last loss"] < 0.75 * figures["first loss"]
    assert figures["accuracy trained"] > figures["accuracy untrained"] + 0.015
    assert (tmp_path / "simclr_digits.png").stat().st_size > 0


def test_distillation(tmp_path):
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name)
    hard, soft = pytest.importorskip("bench.examples.distillation").main(tmp_path).values()
    assert soft > hard + 0.03
    assert (tmp_path / "distillation.png").stat().st_size > 0


def test_policy_gradient(tmp_path):
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name)
    figures = pytest.importorskip("bench.examples.policy_gradient").main(tmp_path)
    assert figures["first mean return"] < 0.3
    assert figures["last mean return"] > 0.9
    assert (tmp_path / "policy_gradient.png").stat().st_size > 0


def test_calibration(tmp_path):
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name)
    figures = pytest.importorskip("bench.examples.calibration").main(tmp_path)
    assert figures["temperature"] > 2
    assert figures["loss after"] < 0.5 * figures["loss before"]
    assert figures["error after"] < 0.25 * figures["error before"]
    assert (tmp_path / "calibration.png").stat().st_size > 0


def test_perplexity(tmp_path):
    pytest.importorskip("matplotlib")
    figures = pytest.importorskip("bench.examples.perplexity").main(tmp_path)
    assert figures["perplexity, one word before"] < 0.7 * figures["perplexity, no word before"]
    assert figures["among five, one word before"] > figures["first of all, one word before"] > 0.15
    assert (tmp_path / "perplexity.png").stat().st_size > 0
