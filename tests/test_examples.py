"""The examples in bench/examples: each keeps what it promises, and draws its picture."""

import pytest

pytestmark = pytest.mark.slow


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
