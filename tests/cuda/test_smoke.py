"""The smoke cases of bench: in the simulator with small sizes, and on a GPU what is to be asked first.

python -m pytest -m gpu tests/cuda/test_smoke.py
"""

import pytest

from bench.cuda import smoke as cuda_smoke

pytest.importorskip("numba_cuda")


def passes(name):
    try:
        cuda_smoke.CASES[name]()
    except cuda_smoke.Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", cuda_smoke.CASES)
def test_in_the_simulator(name):
    passes(name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", cuda_smoke.CASES)
def test_smoke(name):
    passes(name)


def test_a_case_that_is_wrong_fails_the_script(monkeypatch, capsys):
    off = lambda by: lambda: cuda_smoke.compare("softmax", [1.0 + by], [1.0], "float32", False)  # noqa: E731
    monkeypatch.setitem(cuda_smoke.CASES, "softmax", off(0.5))
    assert cuda_smoke.main(["softmax"]) == 1
    assert "softmax: FAILED: AssertionError: softmax is off by " in capsys.readouterr().out
    monkeypatch.setitem(cuda_smoke.CASES, "softmax", off(0.0))
    assert cuda_smoke.main(["softmax"]) == 0
    with pytest.raises(SystemExit):
        cuda_smoke.main(["no such case"])
