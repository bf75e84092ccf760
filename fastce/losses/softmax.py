"""logsumexp, softmax and log_softmax with SciPy's signatures and results."""

from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype, plain_array, real_array, reduced_axes
from fastce.arguments.numbers import checked_num_threads, flag
from fastce.arguments.out import checked_out, handed_over
from fastce.cpu.plain_softmax import plain_logsumexp, plain_softmax
from fastce.cpu.signed_logsumexp import signed_logsumexp
from fastce.cpu.softmax import logsumexp_over, softmax_over
from fastce.engine import by_device
from fastce.typing import AnyArray, Axes, Float, FloatArray, RealArray, SoftmaxOptions, Threads


def _is_scipys(array: Array) -> bool:
    """Whether this dtype is left to SciPy: complex and longdouble."""
    return bool(array.dtype.kind == "c" or (array.dtype.kind == "f" and array.dtype.itemsize > 8))


def _readable(value: Any, name: str) -> Array:
    """``value`` as an array of numbers, complex ones and those of longdouble too."""
    array = plain_array(value, name)
    return array if _is_scipys(array) else real_array(array, name)


# fmt: off
@overload
def logsumexp(
    a: RealArray, axis: None = None, b: RealArray | None = None, keepdims: Literal[False] = False,
    return_sign: Literal[False] = False, **options: Unpack[Threads]
) -> np.floating[Any]: ...
@overload
def logsumexp(
    a: RealArray, axis: Axes, b: RealArray | None = None, keepdims: bool = False,
    return_sign: Literal[False] = False, **options: Unpack[Threads]
) -> FloatArray: ...
@overload
def logsumexp(
    a: AnyArray, axis: Axes | None = None, b: AnyArray | None = None, keepdims: bool = False,
    *, return_sign: Literal[True], **options: Unpack[Threads]
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    a: AnyArray, axis: Axes | None = None, b: AnyArray | None = None, keepdims: bool = False,
    return_sign: bool = False, **options: Unpack[Threads]
) -> Any: ...
# fmt: on
@by_device
def logsumexp(
    a: Any,
    axis: Axes | None = None,
    b: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    n_threads: int | None = None,
) -> Any:
    """Logarithm of the sum of exponentials, as `scipy.special.logsumexp`.

    Parameters
    ----------
    a : array_like
        float32 and float64 are computed in their own dtype, float16 and bfloat16 in float32, integers and booleans
        in float64; complex and longdouble are handed to SciPy.
    axis : int or tuple of int, optional
        Axes that are summed over; all by default.
    b : array_like, optional
        Factors of the exponentials, broadcast with `a`; may be negative. A factor 0 removes its element. A number of
        Python adapts to the dtype of `a`; arrays and NumPy's numbers take part in the dtype of the result.
    keepdims : bool, default: False
        Keep the reduced axes with length 1.
    return_sign : bool, default: False
        Return the logarithm of the absolute sum, and its sign. Without it, a negative sum gives NaN.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`. It changes no bit of the result.

    Returns
    -------
    ndarray or scalar
        Of the dtype of `a` (float64 for integers); with `return_sign` a pair.

    Notes
    -----
    At most 1 ulp from exact in float32 for rows of any length; near 0 the absolute error is at most 2 eps. A search
    (bench/accuracy.py) over rows whose roundings do not average out finds 0.89 ulp. float64: at most 2.4 ulp
    found, or 2.4 eps of results below 1, in 250,000 rows; there is no wider dtype for the sum. Empty and all -inf:
    -inf. +inf wins. NaN affects its own row only.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions",
       IMA Journal of Numerical Analysis 41(4), 2021.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> float(fastce.logsumexp([0.0, -40.0]))
    4.248354255291589e-18
    >>> fastce.logsumexp(np.zeros((2, 4), np.float32), axis=1)
    array([1.3862944, 1.3862944], dtype=float32)
    """
    keepdims, return_sign = flag(keepdims, "keepdims"), flag(return_sign, "return_sign")
    if b is None and not return_sign:
        plain = plain_logsumexp(a, axis, keepdims, n_threads)
        if plain is not None:
            return plain
    array, factors = _readable(a, "a"), None if b is None else _readable(b, "b")
    array = array if array.ndim else array[None]  # as SciPy does
    if n_threads is not None:
        checked_num_threads(n_threads)
    if factors is not None:
        array, factors = _broadcast(array, factors)
    axes = reduced_axes(array, axis)
    if _is_scipys(array) or (factors is not None and _is_scipys(factors)):
        from scipy.special import logsumexp as scipys

        return scipys(array, axis=axes, b=factors, keepdims=keepdims, return_sign=return_sign)
    if factors is not None or return_sign:
        dtype = _common_dtype((a, array), (b, factors))
        results, signs = signed_logsumexp(array, axes, factors, dtype, n_threads)
        if return_sign:
            return tuple(_as_scipy_shapes(part, array, axes, keepdims) for part in (results, signs))
        return _as_scipy_shapes(_where_not_negative(results, signs), array, axes, keepdims)
    result = logsumexp_over(array, axes, n_threads, kernel_dtype(array.dtype))
    return _as_scipy_shapes(result, array, axes, keepdims)


def _broadcast(array: Array, factors: Array) -> tuple[Array, Array]:
    dimensions = max(array.ndim, factors.ndim)  # np.broadcast takes 32 at most
    shapes = [(1,) * (dimensions - a.ndim) + a.shape for a in (array, factors)]
    shape = tuple(m if n == 1 else n for n, m in zip(*shapes, strict=True))
    try:
        return np.broadcast_to(array, shape), np.broadcast_to(factors, shape)
    except ValueError:
        raise ValueError(f"b of shape {factors.shape} does not broadcast with a of shape {array.shape}") from None


def _as_scipy_shapes(result: Array, array: Array, axes: tuple[int, ...], keepdims: bool) -> Any:
    if keepdims:
        return result.reshape([1 if k in axes else n for k, n in enumerate(array.shape)])
    return result.reshape([n for k, n in enumerate(array.shape) if k not in axes])[()]


def _where_not_negative(results: Array, signs: Array) -> Array:
    """Logarithms of sums, NaN where the sum is negative."""
    with np.errstate(invalid="ignore"):  # a sign that is NaN
        negative = (signs < 0) & (results > -np.inf)  # SciPy calls the sum of nothing negative
    return np.where(negative, results.dtype.type(np.nan), results)


def _common_dtype(*given: tuple[Any, Array | None]) -> np.dtype[Any]:
    """The dtype of the result: numbers of Python adapt to the arrays' dtype, as in SciPy."""
    dtypes = [
        array.dtype
        for value, array in given
        if array is not None and (isinstance(value, np.generic) or not isinstance(value, (bool, int, float)))
    ]
    if not dtypes:
        return np.dtype(np.float64)
    try:
        return kernel_dtype(np.result_type(*dtypes))
    except TypeError:  # bfloat16 has nothing in common with float16, nor with wide integers
        return np.result_type(*(compute_dtype(kernel_dtype(dtype)) for dtype in dtypes))


@overload
def softmax(x: RealArray[Float], axis: Axes | None = None, **options: Unpack[SoftmaxOptions]) -> NDArray[Float]: ...
@overload
def softmax(x: AnyArray, axis: Axes | None = None, **options: Unpack[SoftmaxOptions]) -> Any: ...
@by_device
def softmax(
    x: Any,
    axis: Axes | None = None,
    *,
    out: Any = None,
    n_threads: int | None = None,
) -> Any:
    """Softmax along one axis or several, as `scipy.special.softmax`.

    Parameters
    ----------
    x : array_like
        Dtypes as in `logsumexp`.
    axis : int or tuple of int, optional
        The axes that sum to 1; all by default.
    out : ndarray, optional
        Receives the result; of its shape and dtype, writable. May be `x` itself, which is then replaced.
    n_threads : int, optional
        As in `logsumexp`.

    Returns
    -------
    ndarray or scalar
        Of the shape and dtype of `x` (float64 for integers), at most 1; ``out`` if that was given.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.softmax(np.array([[0.0, np.log(3.0)]]), axis=1)
    array([[0.25, 0.75]])
    """
    return _softmax(x, axis, out, n_threads, logarithm=False)


@overload
def log_softmax(x: RealArray[Float], axis: Axes | None = None, **options: Unpack[SoftmaxOptions]) -> NDArray[Float]: ...
@overload
def log_softmax(x: AnyArray, axis: Axes | None = None, **options: Unpack[SoftmaxOptions]) -> Any: ...
@by_device
def log_softmax(
    x: Any,
    axis: Axes | None = None,
    *,
    out: Any = None,
    n_threads: int | None = None,
) -> Any:
    """Logarithm of softmax, as `scipy.special.log_softmax`; exact near 0, where the others lose every digit.

    Parameters
    ----------
    x, axis, out, n_threads
        As in `softmax`.

    Returns
    -------
    ndarray or scalar
        As `softmax`.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.log_softmax(np.array([1000.0, 1.0]))
    array([   0., -999.])
    """
    return _softmax(x, axis, out, n_threads, logarithm=True)


def _softmax(x: Any, axis: Any, out: Array | None, n_threads: int | None, *, logarithm: bool) -> Any:
    plain = plain_softmax(x, axis, out, n_threads, logarithm=logarithm)
    if plain is not None:
        return handed_over(plain, out, x, [])
    array = _readable(x, "x")
    if n_threads is not None:
        checked_num_threads(n_threads)
    axes = reduced_axes(array, axis)
    if _is_scipys(array):
        return _scipys_softmax(array, axes, out, logarithm)
    dtype = kernel_dtype(array.dtype)
    result = checked_out(out, array.shape, dtype, array, [])
    if array.size:
        # an axis tuple that is empty makes every element a row of its own
        source, target = (a.reshape(1) if a.ndim == 0 else a for a in (array, result))
        softmax_over(source, axes if array.ndim else (0,), target, n_threads, logarithm=logarithm)
    return result if out is not None else result[()]


def _scipys_softmax(array: Array, axis: Any, out: Array | None, logarithm: bool) -> Any:
    from scipy import special

    result = (special.log_softmax if logarithm else special.softmax)(array, axis=axis)
    if out is None:
        return result
    out = checked_out(out, array.shape, result.dtype, array, [])
    out[...] = result
    return out
