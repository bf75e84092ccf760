"""logsumexp with factors, or with signs: SciPy's, on blocks of rows whose factors are made ready for it."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.cpu.layout import Rows
from fastce.cpu.threads import cut_rows, for_each


def signed_logsumexp(
    array: Array,
    axes: tuple[int, ...],
    factors: Array | None,
    dtype: np.dtype[Any],
    n_threads: int | None,
) -> tuple[Array, Array]:
    """(log|sum|, sign) of every row over these axes: SciPy's own, on a bounded block of rows at a time."""
    from scipy.special import logsumexp as scipys

    wide = compute_dtype(dtype)
    if not axes:  # every element is a row of its own
        array, axes = array[..., None], (array.ndim,)
        factors = None if factors is None else factors[..., None]
    rows = Rows(array, axes, wide)
    of_factors = None if factors is None else Rows(factors, axes, wide)
    results, signs = np.empty(rows.rows, dtype), np.empty(rows.rows, dtype)

    @np.errstate(all="ignore")
    def work(start: int, stop: int) -> None:
        block = rows.copy(slice(start, stop))
        if of_factors is None:
            results[start:stop], signs[start:stop] = scipys(block, axis=1, return_sign=True)
            return
        of_block = of_factors.copy(slice(start, stop))
        block[of_block == 0] = -np.inf  # as SciPy does, but where all factors are 0 and exp(a) is infinite
        apart = np.flatnonzero(_are_far_apart(of_block))
        folded = _folded(block[apart], of_block[apart])
        powers = _moderated(of_block)
        of_rows, signs[start:stop] = scipys(block, axis=1, b=of_block, return_sign=True)
        results[start:stop] = of_rows + powers * np.log(2.0)
        if apart.size:
            a, b, tops = folded
            of_rows, signs[start + apart] = scipys(a, axis=1, b=b, return_sign=True)
            results[start + apart] = of_rows + tops

    for_each(cut_rows(rows.rows, rows.row_bytes), work, n_threads)
    return results, signs


def _are_far_apart(factors: Array) -> Any:
    """Whether the finite factors of a row are so different that the sum may be that of small ones, or have its digits.

    All are compared with the largest exp, beside which others are lost that a large factor would have brought back.
    """
    powers = np.frexp(factors)[1]
    there = np.isfinite(factors) & (factors != 0)
    high = powers.max(axis=1, initial=-9999, where=there)
    low = powers.min(axis=1, initial=9999, where=there)
    return high - low > np.finfo(factors.dtype).maxexp // 4


def _folded(block: Array, factors: Array) -> tuple[Array, Array, Array]:
    """(a, b, c) in float64: the sums are those of b exp(a + c), where a has the powers of two of the factors."""
    tops = block.astype(np.float64).max(axis=1, initial=-np.inf)
    tops[np.isinf(tops)] = 0.0
    fractions, powers = np.frexp(factors)
    return (block - tops[:, None]) + powers * np.log(2.0), fractions.astype(np.float64), tops


def _moderated(factors: Array) -> Any:
    """The powers of two that rows of factors are divided by here, lest sums overflow or products have no digits."""
    largest = np.abs(factors).max(axis=1, initial=0, where=np.isfinite(factors))
    powers = np.frexp(largest)[1]
    powers[np.abs(powers) <= np.finfo(factors.dtype).maxexp // 2] = 0
    if powers.any():
        factors[...] = np.ldexp(factors, -powers[:, None])
    return powers
