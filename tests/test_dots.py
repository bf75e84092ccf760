"""Products of rows in float64, and sums of rows, against long double; the same bits in any layout, on any threads."""

import numpy as np
import pytest
from checks import NAMES, dtype_of
from test_layouts import LAYOUTS

from fastce.cpu.dots import largest_square_of, products_of_rows, products_with, sum_of_rows

LAYOUTS = {"in place": np.ascontiguousarray, **LAYOUTS}
SHAPES = [(1, 1), (5, 0), (7, 5), (40, 16), (33, 37), (3000, 130)]


def results(left, right, n_threads=None):
    """By name: of pairs, with a vector and of sums, each with factors and without."""
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, len(left), (2, 50))
    of_left, of_right = rng.normal(size=len(left)), rng.normal(size=len(right))
    vector = rng.normal(size=left.shape[1])
    return {
        "pairs": products_of_rows(left, rows, right, columns, None, None, n_threads),
        "pairs with factors": products_of_rows(left, rows, right, columns, of_left, of_right, n_threads),
        "pairs with one factor": products_of_rows(left, rows, right, columns, None, of_right, n_threads),
        "vector": products_with(left, vector, None, n_threads),
        "vector with factors": products_with(left, vector, of_left, n_threads),
        "sum": sum_of_rows(left, None, n_threads),
        "sum with factors": sum_of_rows(left, of_left, n_threads),
    }


def exact_results(left, right):
    rng = np.random.default_rng(5)
    rows, columns = rng.integers(0, len(left), (2, 50))
    of_left, of_right = rng.normal(size=len(left)), rng.normal(size=len(right))
    vector = rng.normal(size=left.shape[1])
    a, b = left.astype(np.longdouble), right.astype(np.longdouble)
    times_a, times_b = a * of_left[:, None], b * of_right[:, None]
    return {
        "pairs": (a[rows], b[columns], 1),
        "pairs with factors": (times_a[rows], times_b[columns], 1),
        "pairs with one factor": (a[rows], times_b[columns], 1),
        "vector": (a, vector, 1),
        "vector with factors": (times_a, vector, 1),
        "sum": (a, 1.0, 0),
        "sum with factors": (times_a, 1.0, 0),
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("names", [*((name, name) for name in NAMES), ("float16", "bfloat16"), ("float32", "float64")])
def test_results_are_those_of_float64(rng, shape, names):
    left, right = (rng.normal(size=shape).astype(dtype_of(name)) for name in names)
    found = results(left, right)
    for what, (a, b, axis) in exact_results(left, right).items():
        terms = a * b
        bound = 2.0**-52 * (4 + terms.shape[axis]) * np.abs(terms).sum(axis)
        assert (np.abs(found[what] - terms.sum(axis)) <= bound).all(), what


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_neither_layout_nor_threads_change_a_bit(rng, layout, name):
    if "swapped" in layout and name == "bfloat16":
        pytest.skip("bfloat16 has no byte order")
    plain = [rng.normal(size=(3000, 130)).astype(dtype_of(name)) for _ in range(2)]
    expected = results(*plain, n_threads=1)
    for n_threads in (1, 3):
        found = results(*map(LAYOUTS[layout], plain), n_threads=n_threads)
        for what, right in expected.items():
            assert found[what].tobytes() == right.tobytes(), what


def test_a_product_is_that_with_the_sum_of_a_single_row(rng):
    # else the loss of a batch of one, smoothed, were not 0
    for name in NAMES:
        left, right = rng.normal(size=(2, 1, 37)).astype(dtype_of(name))
        factors = rng.normal(size=(2, 1))
        one = np.zeros(1, np.int64)
        product = products_of_rows(left, one, right, one, factors[0], factors[1], None)
        assert product == products_with(left, sum_of_rows(right, factors[1], None), factors[0], None)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [0, -10, -50, -70, 35, 70, 120])
def test_the_largest_square_is_that_of_float64_but_for_roundings(rng, name, shape, power):
    x = rng.normal(size=shape)
    x = np.ldexp(x, power if name != "float16" else power // 10).astype(dtype_of(name))
    x[0, : shape[1] // 9] = np.nan
    x[-1, : shape[1] // 9] = np.inf
    squares = (x.astype(np.float64) ** 2).sum(axis=1)
    exact = squares[np.isfinite(squares)].max(initial=0.0)
    layouts = [change for layout, change in LAYOUTS.items() if name != "bfloat16" or "swapped" not in layout]
    found = {largest_square_of(change(x), n_threads) for change in layouts for n_threads in (1, 3)}
    assert len(found) == 1
    assert found.pop() == pytest.approx(exact, rel=1e-6, abs=0.0)
