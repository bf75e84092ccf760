"""A loss from features: what it is to the tiles of products that go by, and how they go by."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastce.products.engine import Engine
from fastce.products.progress import Progress
from fastce.products.ranges import Range
from fastce.products.tiles import Place, Products


class Loss(Protocol):
    """What a loss from features makes of the products, a tile (or a panel: a tile of all columns) at a time.

    ``sweeps`` says how often the gradient needs to see each tile: once if it is known as soon as the tile is, twice if
    all tiles must be read before.
    """

    sweeps: int

    def read(self, place: Place, tile: Any) -> None:
        """Take what the value is made of; with two sweeps, leave the tile as it is but for pairs computed apart."""

    def turn(self, place: Place, tile: Any) -> None:
        """Overwrite the tile with its gradient, times `Range.factor`; with one sweep, `read` it first."""

    def value(self) -> Any:
        """What the reduction asks for, once all tiles are read (or turned, with one sweep)."""


class LossCall(NamedTuple):
    """A checked call of a loss from features."""

    name: str
    engine: Engine
    range: Range
    products: Products
    loss: Loss
    progress: Any
    complete: Callable[[], None] | None = None  # adds to the gradients what is not of single tiles

    def value(self) -> Any:
        """The value alone: one sweep."""
        return swept(self.name, self.products, self.loss, self.progress, writes=False)

    def value_and_gradients(self) -> tuple[Any, list[Any], list[Any], float]:
        """(value, gradients of the arrays of the left side, of the right one, the sum of row * gradient)."""
        value = swept(self.name, self.products, self.loss, self.progress, writes=True)
        if self.complete is not None:
            self.complete()
        return value, *self.products.finished(self.range)


def swept(name: str, products: Products, loss: Loss, progress: Any, writes: bool) -> Any:
    """The value of a loss; the gradients are added up if it ``writes``."""

    def turn(place: Place, tile: Any) -> None:
        loss.turn(place, tile)
        products.add_to_gradients(place, tile)

    sweeps = loss.sweeps if writes else 1
    reporter = Progress(progress, sweeps * len(products.places), name, products.unit)
    with reporter:
        if not writes or loss.sweeps == 2:
            products.sweep(loss.read, reporter, keep=writes)
        if writes:
            products.sweep(turn, reporter)
        return loss.value()
