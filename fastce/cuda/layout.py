"""Device arrays as rows of classes: where element c of row (outer, inner) is, and copies of what has no such form."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastce.cuda._kernels.copies import AXES, THREADS, copy_kernel, fill
from fastce.cuda._kernels.jobs import Cube
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.launching import launch
from fastce.cuda.libraries import Library

FLOATS = ("float16", "bfloat16", "float32", "float64")
MOST_BLOCKS = 1 << 12  # of kernels whose threads go round


@dataclass(frozen=True)
class Rows:
    """An array whose axes are (outer rows, classes, inner rows)."""

    array: DeviceArray
    outer: int
    classes: int
    inner: int
    cube: Cube

    @property
    def count(self) -> int:
        """All rows."""
        return self.outer * self.inner

    @property
    def is_matrix(self) -> bool:
        """Whether the classes of a row are adjacent, and its rows follow each other in one step."""
        cube = self.cube
        return (cube.class_step == 1 or self.classes == 1) and self.inner == 1 and cube.outer_step >= 0

    @property
    def step(self) -> int:
        """From row to row of a matrix."""
        return self.cube.outer_step if self.outer > 1 else self.classes

    def phase(self, lanes: int) -> int:
        """How many elements the first one is past a multiple of 16 bytes."""
        return self.array.pointer // self.array.itemsize % lanes


def rows_of(array: DeviceArray, axis: int) -> Rows | None:
    """The rows of an array, or None if the rows before or after the class axis have no single step."""
    outer, inner = (_merged(array, axes) for axes in (range(axis), range(axis + 1, array.ndim)))
    if outer is None or inner is None:
        return None
    cube = Cube(array.origin, outer[1], array.strides[axis], inner[1])
    return Rows(array, outer[0], array.shape[axis], inner[0], cube)


def rows_over(array: DeviceArray, axes: tuple[int, ...]) -> Rows | None:
    """The rows of an array whose classes are all its elements along these axes, in any order of the others."""
    kept = tuple(axis for axis in range(array.ndim) if axis not in axes)
    lead, classes = _merged(array, kept), _merged(array, axes)
    if lead is None or classes is None:
        return None
    return Rows(array, lead[0], classes[0], 1, Cube(array.origin, lead[1], classes[1] if classes[0] > 1 else 1, 0))


def _merged(array: DeviceArray, axes: Iterable[int]) -> tuple[int, int] | None:
    """(length, step) of several axes as one."""
    length, step = 1, 0
    for axis in axes:
        size, stride = array.shape[axis], array.strides[axis]
        if size == 1:
            continue
        if length > 1 and step != size * stride:
            return None
        length, step = length * size, stride
    return length, step


def is_contiguous(array: DeviceArray) -> bool:
    """Whether elements follow each other in C order."""
    merged = _merged(array, range(array.ndim))
    return array.size <= 1 or (merged is not None and merged[1] == 1)


def contiguous(array: DeviceArray, dtype_name: str | None = None) -> DeviceArray:
    """The array itself if it is contiguous and of this dtype, else a copy that is."""
    dtype_name = dtype_name or array.dtype_name
    if dtype_name == array.dtype_name and is_contiguous(array):
        return array
    result = empty(array.library, array.shape, dtype_name)
    copy(array, result)
    return result


def copy(source: DeviceArray, into: DeviceArray) -> None:
    """Copy all elements; both have the same shape."""
    if source.size == 0:
        return
    if source.ndim > AXES:
        raise ValueError(f"arrays on a GPU that are not contiguous may have up to {AXES} axes, got {source.ndim}")
    more = (1,) * (AXES - source.ndim)
    kernel = copy_kernel(source.dtype_name in FLOATS, into.dtype_name in FLOATS)
    launch(
        kernel, blocks_for(source.size), THREADS, source,
        source.flat(), source.origin, more + source.strides, into.flat(), into.origin, more + into.strides,
        more + source.shape, source.size,
    )  # fmt: skip


def filled(library: Library, shape: tuple[int, ...], number: float) -> DeviceArray:
    """A new array of this number in float64; the host neither copies nor waits."""
    result = empty(library, shape, "float64")
    if result.size:
        launch(fill, blocks_for(result.size), THREADS, result, result.flat(), number)
    return result


def blocks_for(items: int) -> int:
    """Blocks for a kernel whose threads go round."""
    return max(1, min(MOST_BLOCKS, -(-items // THREADS)))


def lanes_of(array: DeviceArray) -> int:
    """Elements of a chunk."""
    return 16 // array.itemsize
