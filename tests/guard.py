"""Arrays between pages that nobody may touch: who reads or writes one byte beyond them is ended by the system.

Memory between the elements of an array that has gaps cannot be closed off byte by byte: it holds NaN, or -1 in
integers, and must hold it afterwards.
"""

import contextlib
import ctypes
import math
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
POISON = 0xFF  # four bytes of it are NaN, and so are two and eight; as integers they are -1
NO_ACCESS = 0  # PROT_NONE
ENDS = ("before", "after")  # which end of the array touches a page without access


def _protector():
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return mprotect


_mprotect = _protector()


def _close(memory, starts):
    """Take away all access to the pages that start there."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    for start in starts:
        if _mprotect(address + start, PAGE, NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")


def c_strides(shape, itemsize):
    return tuple(itemsize * math.prod(shape[k + 1 :]) for k in range(len(shape)))


def strides_of(layout, shape, itemsize):
    """The strides of an array that lies in one piece."""
    along = c_strides(shape, itemsize)
    if layout == "Fortran":
        return c_strides(shape[::-1], itemsize)[::-1]
    if layout == "reversed":
        return tuple(-stride for stride in along)
    if layout == "Fortran, reversed":
        return tuple(-stride for stride in c_strides(shape[::-1], itemsize)[::-1])
    if layout == "strided":
        return tuple(2 * stride for stride in along)
    if layout == "padded":  # columns of a wider array
        return (*c_strides((*shape[:-1], shape[-1] + 3), itemsize)[:-1], itemsize)
    assert layout == "C"
    return along


MOST_PIECES = 600  # a process may have only so many mappings
IN_PIECES = {"rows apart": False, "columns apart": True}  # each row, or column, between pages of its own
LAYOUTS = ("C", "Fortran", "strided", "reversed", "Fortran, reversed", "padded", *IN_PIECES)


class Guarded:
    """A copy of ``values`` in memory of its own. ``array`` is it; ``check`` says whether the rest is untouched."""

    def __init__(self, values, layout, end, *, is_written=False, is_filled=True):
        self.is_written, self._values = is_written, values.copy() if is_written else None
        transposed = IN_PIECES.get(layout, False)
        if layout in IN_PIECES and values.size <= MOST_PIECES * values.shape[0 if transposed else -1]:
            self._lay_apart(values.T if transposed else values, end)
            self.array = self.array.T if transposed else self.array
        else:
            self._lay_together(values, {"rows apart": "C", "columns apart": "Fortran"}.get(layout, layout), end)
        if is_filled:
            self.array[...] = values
        self._before = self._bytes()

    def _lay_together(self, values, layout, end):
        strides = strides_of(layout, values.shape, values.itemsize)
        reach = [stride * (n - 1) for stride, n in zip(strides, values.shape, strict=True)]
        first = sum(min(0, r) for r in reach)
        size = sum(max(0, r) for r in reach) + values.itemsize - first
        self._open([-(-size // PAGE)])
        start, stop = self.regions[0]
        self._lay(values, (start if end == "before" else stop - size) - first, strides)

    def _lay_apart(self, rows, end):
        *lead, classes = rows.shape
        size = classes * rows.itemsize
        pages = -(-size // PAGE)
        self._open([pages] * math.prod(lead))
        start, stop = self.regions[0]
        between = c_strides(lead, (pages + 1) * PAGE)
        self._lay(rows, start if end == "before" else stop - size, (*between, rows.itemsize))

    def _open(self, pages):
        """As many regions as there are numbers of pages, a closed page before and after each."""
        self.memory = mmap.mmap(-1, (1 + sum(pages) + len(pages)) * PAGE)
        self.regions, place, all_bytes = [], PAGE, np.frombuffer(self.memory, np.uint8)
        for number in pages:
            stop = place + number * PAGE
            all_bytes[place:stop] = POISON
            self.regions.append((place, stop))
            place = stop + PAGE
        _close(self.memory, [0, *(stop for _, stop in self.regions)])

    def _lay(self, values, offset, strides):
        self.array = np.ndarray(values.shape, values.dtype, self.memory, offset, strides)

    def _bytes(self):
        return [self.memory[start:stop] for start, stop in self.regions]

    def check(self):
        """Nothing but the array may have been written to, and that only if it is there to be written."""
        result = self.array.copy()
        if self.is_written:
            self.array[...] = self._values
        assert self._bytes() == self._before, "written to memory that is not the result's"
        self.array[...] = result


NEW = ("empty", "zeros", "ones", "full", "array", "ascontiguousarray", "concatenate", "empty_like", "zeros_like")


def _guarding(function, end):
    """The same function of NumPy, whose results lie between closed pages, too."""

    def guarding(*args, **options):
        result = function(*args, **options)
        contiguous = {"C": result.flags.c_contiguous, "Fortran": result.flags.f_contiguous}
        layout = next((name for name, holds in contiguous.items() if holds), None)
        if type(result) is not np.ndarray or result.base is not None or result.dtype.hasobject or not result.size:
            return result
        if layout is None or any(result is value for value in args):
            return result
        return Guarded(result, layout, end, is_filled=not function.__name__.startswith("empty")).array

    return guarding


@contextlib.contextmanager
def new_arrays_guarded(end):
    """Whatever is made by NumPy's functions meanwhile, by other threads too, lies between closed pages."""
    originals = {name: getattr(np, name) for name in NEW}
    try:
        for name, function in originals.items():
            setattr(np, name, _guarding(function, end))
        yield
    finally:
        for name, function in originals.items():
            setattr(np, name, function)
