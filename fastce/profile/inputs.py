"""What the user gives to `fastce profile`, as arrays; every mistake is an `InputError` of one line."""

from pathlib import Path
from typing import Any, get_args

import numpy as np

from fastce.profile import pairs
from fastce.profile.machine import available_memory
from fastce.profile.problem import Array, InputError, as_dtype
from fastce.typing import FloatName

_BEGINNINGS = (b"\x93NUMPY", b"PK")  # of a .npy, and of an archive
_ACCEPTED = {
    "--input": "give a .npy of a matrix of real numbers, or a .npz of two arrays of features",
    "--targets": "give a .npy of integers, one for each row",
}
_FROM_TEXT = "numpy.save('x.npy', numpy.loadtxt('x.csv', delimiter=',')) makes one of a text file"

DTYPES: tuple[FloatName, ...] = get_args(FloatName)


def from_pairs(rows: int, classes: int, dtype: str) -> tuple[Array, Array, str]:
    """Similarity, targets and origin of the shipped pairs, tiled to a shape."""
    kind = as_dtype(dtype)
    check_memory(rows, classes, kind)
    similarity, targets = pairs.similarity_matrix(rows, classes, kind)
    return similarity, targets, pairs.origin(rows, classes)


def features_from_pairs(batch: int, dtype: str) -> tuple[Array, Array, str]:
    """Two sides of features, and their origin, of the shipped pairs."""
    kind = as_dtype(dtype)
    image, text = pairs.paired_features(batch)
    copies = "" if batch <= pairs.PAIRS else f", tiled to {batch} with Gaussian noise and normalised again"
    origin = f"{pairs.PAIRS} real pairs (signatures and docstrings of Python functions){copies}"
    return image.astype(kind, copy=False), text.astype(kind, copy=False), origin


def features_from_file(path: Path, dtype: str | None) -> tuple[Array, Array, str]:
    """Two sides of features, normalised, and their origin, of an archive of two arrays of equal shape."""
    loaded = _load(path, "--input")
    if not isinstance(loaded, dict):
        raise InputError(f"--input {path} must be a .npz of two arrays of features for losses from features")
    first, second = _checked_features(path, loaded)
    if len(first) != len(second):
        raise InputError(f"--input {path} must hold pairs of features, not {first.shape} and {second.shape}")
    kind = as_dtype(dtype or "float32")
    image, text = (pairs.normalised(side.astype(np.float64)).astype(kind) for side in (first, second))
    return image, text, f"{path.name}: {' and '.join(map(repr, loaded))}, normalised"


def from_file(path: Path, dtype: str | None) -> tuple[Array, Array, str]:
    """Similarity, targets and origin of a file: a matrix, or two arrays of features.

    The targets are the diagonal where the matrix is square, and ``i % classes`` otherwise.
    """
    loaded = _load(path, "--input")
    if isinstance(loaded, dict):
        similarity = _from_features(path, loaded, dtype)
        first, second = loaded
        origin = f"{path.name}: similarity {pairs.LOGIT_SCALE:g} * A B^T of {first!r} and {second!r}, normalised"
    else:
        similarity = _from_matrix(path, loaded, dtype)
        origin = path.name
    rows, classes = similarity.shape
    return similarity, np.arange(rows, dtype=np.int64) % classes, origin


def targets_from_file(path: Path, rows: int, classes: int) -> Array:
    """The class of each row, from a file."""
    targets = _load(path, "--targets")
    if isinstance(targets, dict):
        raise InputError(f"--targets {path} must be a .npy file with one array, not an archive")
    if targets.dtype.kind not in "iu" or targets.shape != (rows,):
        raise InputError(
            f"--targets {path} must hold integers of shape ({rows},), one for each row, "
            f"not {targets.dtype} of shape {targets.shape}"
        )
    wrong = np.flatnonzero((targets < 0) | (targets >= classes))
    if wrong.size:
        raise InputError(f"--targets {path} must lie in 0..{classes - 1}, but row {wrong[0]} holds {targets[wrong[0]]}")
    return targets.astype(np.int64)


def check_memory(rows: int, classes: int, dtype: np.dtype[Any]) -> None:
    """Refuse what would not fit: the matrix, a gradient, a copy to work on, and as much for a peer."""
    needed, available = 5 * rows * classes * dtype.itemsize, available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"a {rows} x {classes} {dtype} matrix and its gradients need {needed / 2**30:.1f} GiB of memory, "
            f"and {available / 2**30:.1f} GiB are free"
        )


def _from_matrix(path: Path, matrix: Array, dtype: str | None) -> Array:
    _check_numbers(path, "the matrix", matrix)
    if matrix.size == 0:
        raise InputError(f"--input {path} holds an empty matrix of shape {matrix.shape}")
    kind = as_dtype(dtype) if dtype else matrix.dtype.newbyteorder("=")
    if kind.name not in DTYPES:
        kind = np.dtype(np.float64)  # integers and long doubles
    check_memory(len(matrix), matrix.shape[1], kind)
    return np.ascontiguousarray(matrix, dtype=kind)


def _from_features(path: Path, arrays: dict[str, Array], dtype: str | None) -> Array:
    first, second = _checked_features(path, arrays)
    kind = as_dtype(dtype or "float32")
    check_memory(len(first), len(second), kind)
    return pairs.similarity_of(first, second, kind)


def _checked_features(path: Path, arrays: dict[str, Array]) -> tuple[Array, Array]:
    if len(arrays) != 2:
        raise InputError(f"--input {path} must hold two arrays of features, not {len(arrays)}")
    for name, array in arrays.items():
        _check_numbers(path, name, array)
        if array.size == 0:
            raise InputError(f"--input {path} holds an empty array {name} of shape {array.shape}")
    first, second = arrays.values()
    if first.shape[1] != second.shape[1]:
        raise InputError(f"--input {path} must hold features of equal width, not {first.shape} and {second.shape}")
    return first, second


def _check_numbers(path: Path, name: str, array: Array) -> None:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(
            f"--input {path}: {name} must be two-dimensional and hold real numbers, "
            f"not {array.dtype} of shape {array.shape}"
        )


def _load(path: Path, option: str) -> Array | dict[str, Array]:
    """An array, or the arrays of an archive; nothing is unpickled."""
    loaded: Any = None
    try:
        with path.open("rb") as file:
            is_numpy = file.read(6).startswith(_BEGINNINGS)
            file.seek(0)
            if is_numpy:
                loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                loaded = {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputError(f"{option} {path}: no such file") from None
    except Exception as error:  # a broken file can fail in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{option} {path} cannot be read as a .npy or .npz file: {reason}") from None
    arrays = loaded.values() if isinstance(loaded, dict) else [loaded]
    if all(isinstance(array, np.ndarray) for array in arrays):
        found: Array | dict[str, Array] = loaded
        return found
    raise InputError(f"{option} {path} cannot be read as a .npy or .npz file: {_ACCEPTED[option]}; {_FROM_TEXT}")
