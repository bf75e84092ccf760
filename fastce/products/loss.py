"""A loss from features: what it is to the tiles of products that go by, and how they go by."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastce.engine import Engine
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
        """Take what the value is made of; the tile is left as it is, but for pairs that are computed apart."""

    def turn(self, place: Place, tile: Any) -> None:
        """Overwrite the tile with the gradient of its products; with one sweep, `read` it first."""

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
        with self._reporting(1) as progress:
            self.products.sweep(self.loss.read, progress)
            return self.loss.value()

    def value_and_gradients(self) -> tuple[Any, list[Any], list[Any], float]:
        """(value, gradients of the arrays of the left side, of the right one, the sum of row * gradient)."""
        products, loss = self.products, self.loss

        def work(place: Place, tile: Any) -> None:
            loss.turn(place, tile)
            products.add_to_gradients(place, tile)

        with self._reporting(loss.sweeps) as progress:
            if loss.sweeps == 2:
                products.sweep(loss.read, progress, keep=True)
            products.sweep(work, progress)
            if self.complete is not None:
                self.complete()
            return loss.value(), *products.finished(self.range)

    def _reporting(self, sweeps: int) -> Progress:
        products = self.products
        return Progress(self.progress, sweeps * len(products.places), self.name, products.unit)
