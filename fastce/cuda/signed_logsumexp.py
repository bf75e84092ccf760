"""logsumexp with factors, or with signs, for arrays on a GPU."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import kernel_dtype, real_array, reduced_axes
from fastce.arguments.places import is_on_device
from fastce.cuda._kernels.jobs import Cube
from fastce.cuda._kernels.signed_logsumexp import signed_rows
from fastce.cuda.arrays import DeviceArray, device_array, empty
from fastce.cuda.axes import reduced_shape, rows_along, with_an_axis
from fastce.cuda.broadcasting import broadcast_to
from fastce.cuda.cross_entropy import float_array
from fastce.cuda.groups import group_for
from fastce.cuda.launching import launch

NARROW = "bool", "int8", "uint8"  # integers that bfloat16 has room for


def signed_logsumexp(given: dict[str, Any], *, keepdims: bool, return_sign: bool) -> Any:
    """Logarithms of sums of b exp(a), and their signs if asked for; NaN is that of a negative sum otherwise."""
    plain = with_an_axis(device_array(given["a"], "a"))
    array, factors, factor, dtypes = float_array(plain, "a"), None, 1.0, [plain.dtype_name]
    if is_on_device(given["b"]):
        of_factors = device_array(given["b"], "b", array.library)
        dtypes.append(of_factors.dtype_name)
        array, factors = _broadcast(array, float_array(of_factors, "b"))
    elif given["b"] is not None:
        number = real_array(given["b"], "b")
        factor = float(number)
        if not isinstance(given["b"], (bool, int, float)):  # numbers of Python adapt to the dtype of the array
            dtypes.append(number.dtype.name)
    axes = reduced_axes(array, given["axis"])  # type: ignore[arg-type]  # it has ndim
    shape, dtype_name = reduced_shape(array, axes, keepdims), _common_dtype(dtypes)
    results, signs = (empty(array.library, shape, dtype_name) for _ in range(2))
    if results.size:
        rows, _ = rows_along(array, axes)
        beside = None if factors is None else rows_along(factors, axes)[0]
        blocks, threads = group_for(rows)
        launch(
            signed_rows, blocks, threads, array,
            rows.array.flat(), rows.array.flat()[:0] if beside is None else beside.array.flat(), factor,
            rows.count, rows.classes, rows.inner, rows.cube,
            Cube(0, 0, 0, 0) if beside is None else beside.cube,
            results.flat(), signs.flat() if return_sign else signs.flat()[:0],
        )  # fmt: skip
    return (results.given, signs.given) if return_sign else results.given


def _broadcast(array: DeviceArray, factors: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    words = f"b of shape {factors.shape} does not broadcast with a of shape {array.shape}"
    try:
        shape = np.broadcast_shapes(array.shape, factors.shape)
    except ValueError:
        raise ValueError(words) from None
    both = tuple(repeated for one in (array, factors) if (repeated := broadcast_to(one, shape)) is not None)
    return both[0], both[1]


def _common_dtype(names: list[str]) -> str:
    """The dtype that results have: a float's, of the kind that NumPy finds for all; float32 for both kinds of half."""
    if "bfloat16" in names:
        others = {name for name in names if name not in ("bfloat16", *NARROW)}
        if not others:
            return "bfloat16"
        names = ["float32" if name in ("bfloat16", "float16") else name for name in names]
        names = [name if name.startswith("float") or name in NARROW else "float64" for name in names]
    return kernel_dtype(np.result_type(*map(np.dtype, names))).name
