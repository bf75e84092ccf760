"""The sigmoid loss of a tile of products, over blocks of its rows."""

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.tiles import sigmoid_tile
from fastce.cpu.threads import cut_rows, for_each


def sigmoid_losses(
    tile: Array, scale: float, bias: float, factor: float, writes: bool, n_threads: int | None
) -> tuple[Array, Array]:
    """(sum of the losses, sum of their derivatives) of every row, of pairs that do not belong together.

    If it ``writes``, products become their gradient, times the factor.
    """
    losses, slopes = np.empty(len(tile)), np.empty(len(tile))
    kernel = sigmoid_tile.compiled(tile.dtype)

    def work(start: int, stop: int) -> None:
        kernel(tile[start:stop], scale, bias, factor, writes, losses[start:stop], slopes[start:stop])

    for_each(cut_rows(len(tile), tile.shape[1] * tile.itemsize), work, n_threads)
    return losses, slopes
