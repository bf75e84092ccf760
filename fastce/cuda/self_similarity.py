"""NT-Xent and SupCon on a GPU: the rows of one set of features, each to be told its positives among all others.

The products of a row with itself are made -inf, by which they do not count. A product stands in the rows of both of
its features, so that a panel's gradient is added to both.
"""

import dataclasses
from typing import Any

import numpy as np

from fastce.arguments.labels import Classes
from fastce.arguments.reductions import factor_of_rows
from fastce.cuda._kernels.jobs import PROBABILITIES, options_of
from fastce.cuda.arrays import DeviceArray
from fastce.cuda.layout import rows_of
from fastce.cuda.libraries import Library
from fastce.cuda.panel_losses import PanelLosses, own_targets
from fastce.cuda.precision import check_plain
from fastce.cuda.products import array_module, of_numbers, on_device
from fastce.cuda.targets import DeviceTargets


class SelfLosses:
    """A loss of features with themselves (`fastce.products.loss.Loss`), by panels, of which one sweep does."""

    sweeps = 1

    def __init__(
        self, targets: DeviceTargets, within: Any, reduction: str, of_losses: np.dtype[Any], shape: tuple[int, int]
    ) -> None:
        check_plain(within)
        self.targets = targets
        self.library: Library = targets.library
        options = options_of(within.dtype, within.scale)
        self.losses: PanelLosses = PanelLosses(targets, options, shape, reduction, of_losses=of_losses)

    def read(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=False)

    def turn(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=True)

    def _take(self, rows: slice, panel: Any, writes: bool) -> None:
        _on_diagonal(panel, rows)[...] = -np.inf
        self.losses.take(rows, of_numbers(panel, self.library), writes, self._targets_of(rows))

    def _targets_of(self, rows: slice) -> DeviceTargets | None:
        """Those of a panel, if they are not just a part of all."""
        return None

    def value(self) -> Any:
        return self.losses.value()


class PartnerLosses(SelfLosses):
    """NT-Xent: row i of one half of the features and row i of the other are positives."""

    def __init__(self, products: Any, within: Any, reduction: str, of_losses: np.dtype[Any], library: Library) -> None:
        rows, xp = products.left.rows, array_module()
        partners = on_device(xp.roll(xp.arange(rows), rows // 2), library)
        targets = own_targets(library, within.dtype, (rows, rows), reduction, classes=partners)
        super().__init__(targets, within, reduction, of_losses, (rows, rows))


class LabelLosses(SelfLosses):
    """SupCon: all other rows with the same label are positives, of the same share."""

    def __init__(
        self, products: Any, classes: Classes, within: Any, reduction: str, of_losses: np.dtype[Any], library: Library
    ) -> None:
        xp, others, rows = array_module(), classes.others, products.left.rows
        has_positives = on_device((others > 0).astype(np.float64), library)
        targets = own_targets(library, within.dtype, (rows, rows), reduction, row_weight=has_positives)
        super().__init__(targets, within, reduction, of_losses, (rows, rows))
        counted = int((others > 0).sum())
        self.factor: float = within.scale * factor_of_rows(reduction, counted)
        mates = np.full(rows, -1)  # of the rows that have a single positive
        one, other = classes.couples()
        mates[one] = other
        self.mates: Any = xp.asarray(mates)
        self.class_of_row: Any = xp.asarray(classes.of_row)
        self.shares: Any = xp.asarray((1.0 / np.maximum(others, 1)).astype(within.dtype))[:, None]
        self.room: Any = products.engine.empty((0, rows), within.dtype)
        self.empty: Any = products.engine.empty

    def turn(self, place: Any, panel: Any) -> None:
        super().turn(place, panel)
        self.losses.sharpen(place.rows, of_numbers(panel, self.library), self.mates, self.factor)

    def _targets_of(self, rows: slice) -> DeviceTargets:
        """As probabilities."""
        count = rows.stop - rows.start
        if len(self.room) < count:
            self.room = self.empty((count, self.class_of_row.size), self.room.dtype)
        same = self.class_of_row[rows][:, None] == self.class_of_row
        _on_diagonal(same, rows)[...] = False
        masses = array_module().multiply(same, self.shares[rows], out=self.room[:count])
        return with_probabilities(self.targets, of_numbers(masses, self.library), rows)

    def complete(self) -> None:
        """All of the gradient is of panels."""


def with_probabilities(described: DeviceTargets, masses: DeviceArray, rows: slice) -> DeviceTargets:
    """The targets of these rows, with these masses of all classes."""
    arrays = described.arrays._replace(
        probabilities=masses.flat(), row_weight=described.arrays.row_weight[rows]
    )  # fmt: skip
    kept = [*described.kept, masses]
    return dataclasses.replace(described, dense=PROBABILITIES, arrays=arrays, mass_rows=rows_of(masses, 1), kept=kept)


def _on_diagonal(panel: Any, rows: slice) -> Any:
    """The elements of a panel of rows that belong to a row and itself: a view."""
    columns = panel.shape[1]
    flat = panel.reshape(-1)  # a view: panels are contiguous
    return flat[rows.start :: columns + 1][: len(panel)]
