"""A matrix copied into the other order, rows to columns, in squares of as many elements as a vector has lanes."""

from fastce.kernels.jit import inline, kernel, matrix
from fastce.kernels.lanes import load_square, load_whole_square, store_square, store_whole_square, transposed
from fastce.kernels.memory import lanes_of, row_pointer


@inline
def transpose_square(rows, place, stride, out, out_place, out_stride, height, width):
    """One square, or what is left of one at an edge."""
    lanes = lanes_of(rows)
    if height == lanes and width == lanes:
        store_whole_square(out, out_place, out_stride, transposed(load_whole_square(rows, place, stride)))
    else:
        square = transposed(load_square(rows, place, stride, height, width))
        store_square(out, out_place, out_stride, width, height, square)


@kernel(lambda storage: (matrix(storage), matrix(storage)))
def transpose(source, out):
    """out[i, j] = source[j, i].

    Two squares side by side in ``out`` fill lines of the cache, which another row may push out before it comes back to
    them: rows a power of two apart share few places there.
    """
    rows, columns = source.shape
    from_row, to_row = row_pointer(source, 0), row_pointer(out, 0)
    stride, out_stride = source.strides[0] // source.itemsize, out.strides[0] // out.itemsize
    lanes = lanes_of(from_row)
    for first in range(0, rows, 2 * lanes):
        for i in range(0, columns, lanes):
            for j in range(first, min(first + 2 * lanes, rows), lanes):
                height, width = min(lanes, rows - j), min(lanes, columns - i)
                transpose_square(
                    from_row, j * stride + i, stride, to_row, i * out_stride + j, out_stride, height, width
                )
