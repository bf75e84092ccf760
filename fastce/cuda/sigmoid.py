"""The losses of pairs that are questions of their own, by rows of a tile; SigLIP's."""

from typing import Any

from fastce.arguments.positives import Positives
from fastce.cuda._kernels.jobs import options_of
from fastce.cuda._kernels.states import WARP
from fastce.cuda._kernels.tiles import THREADS, add_points, sigmoid_rows
from fastce.cuda.launching import launch
from fastce.cuda.layout import lanes_of
from fastce.cuda.libraries import Library
from fastce.cuda.products import array_module, of_numbers


def sigmoid_losses(
    tile: Any, scale: float, bias: float, factor: float, writes: bool, library: Library
) -> tuple[Any, Any]:
    """(sum of the losses, sum of their derivatives) of every row, of pairs that do not belong together.

    If it ``writes``, products become their gradient, times the factor.
    """
    xp, real = array_module(), tile.dtype.type
    losses, slopes = xp.zeros(len(tile)), xp.zeros(len(tile))
    panel, columns, threads = of_numbers(tile, library), tile.shape[1], WARP
    while threads < THREADS and threads * lanes_of(panel) < columns:
        threads *= 2
    if tile.size:
        launch(
            sigmoid_rows, len(tile), threads, panel,
            panel.flat(), columns, real(bias), real(factor), writes,
            options_of(tile.dtype)._replace(logit_scale=real(scale)),
            of_numbers(losses, library).flat(), of_numbers(slopes, library).flat(),
        )  # fmt: skip
    return losses, slopes


def sums_of_points(points: Positives, values: Any, library: Library) -> Any:
    """The sum of the values of the points of each row, in their order."""
    xp = array_module()
    totals = xp.zeros(points.first_points.size - 1)
    if totals.size:
        of_points, first, sums = (
            of_numbers(numbers, library) for numbers in (values, xp.asarray(points.first_points), totals)
        )
        launch(
            add_points, -(-totals.size // THREADS), THREADS, sums,
            of_points.flat(), first.flat(), totals.size, sums.flat(),
        )  # fmt: skip
    return totals
