"""Logits in chunks of rows and of classes: a stripe is a chunk of rows, a tile one of its chunks of classes."""

import itertools
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from fastce.arguments.arrays import class_axis, compute_dtype, kernel_dtype, plain_array
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.numbers import is_one_number
from fastce.arguments.sparse import is_sparse, masses_of, sparse_rows
from fastce.dask.features import dask_array
from fastce.dask.tasks import Key, Stripe, stripes_of


class Tile(NamedTuple):
    """Some classes of a stripe: chunk ``number`` of them, from ``first`` on."""

    number: int
    first: int
    end: int


class Matrix:
    """Logits, with the axis of classes last."""

    def __init__(self, logits: Any, axis: Any) -> None:
        array = dask_array(logits, "logits")
        if array.ndim != 2:
            raise ValueError(
                f"logits must have two dimensions, rows and classes, got shape {array.shape}: reshape them"
            )
        self.is_transposed: bool = class_axis(array, axis, "logits") == 0
        self.array: Any = array.T if self.is_transposed else array
        self.rows: int = self.array.shape[0]
        self.classes: int = self.array.shape[1]
        self.dtype: np.dtype[Any] = kernel_dtype(array.dtype)
        self.of_losses: np.dtype[Any] = compute_dtype(self.dtype)
        self.stripes: list[Stripe] = stripes_of(self.array.chunks[0])
        self.is_whole: bool = self.array.numblocks[1] == 1

    @property
    def tiles(self) -> list[Tile]:
        """The chunks of classes, in their order."""
        ends = np.cumsum([0, *self.array.chunks[1]]).tolist()
        return [Tile(k, *pair) for k, pair in enumerate(itertools.pairwise(ends))]

    def key(self, stripe: Stripe, tile: Tile | None = None) -> Key:
        """A chunk of logits."""
        return self.array.name, stripe.number, 0 if tile is None else tile.number

    def given(self, array: Any) -> Any:
        """A result of the shape of the logits, with their axes as they were."""
        return array.T if self.is_transposed else array


class PerRow:
    """An argument with one number for each row, or one for each class of it.

    An array of Dask is cut as the logits are; parts of any other are in the tasks that they belong to.
    """

    def __init__(self, value: Any, name: str, matrix: Matrix, *, may_be_matrix: bool = False) -> None:
        self.value: Any = value
        self.array: Any = None
        if value is None:
            return
        if is_sparse(value):
            self.value = sparse_rows(value, (matrix.rows, matrix.classes))
            masses_of(self.value)
            return
        array = value if isinstance(value, da.Array) else plain_array(as_numpy(value, name), name)
        if is_one_number(array.shape) and not may_be_matrix:
            self.value = array.reshape(())  # for all rows
            self.array = self.value if isinstance(array, da.Array) else None
            return
        if array.ndim == 2 and may_be_matrix:
            array = array.T if matrix.is_transposed else array
            shape: tuple[int, ...] = (matrix.rows, matrix.classes)
            chunks: tuple[Any, ...] = matrix.array.chunks
        else:
            shape, chunks = (matrix.rows,), matrix.array.chunks[:1]
        if array.shape != shape:
            raise ValueError(f"{name} have shape {array.shape}, expected {shape}")
        if isinstance(array, da.Array):
            self.value, self.array = array, array.rechunk(chunks)
        else:
            self.value = np.array(array)  # tasks are computed later, and go by what was given

    @property
    def is_here(self) -> bool:
        """Whether its values are known at once."""
        return self.array is None

    @property
    def is_matrix(self) -> bool:
        """Whether each class has a number."""
        return getattr(self.value, "ndim", 0) == 2

    @property
    def arrays(self) -> list[Any]:
        """What tasks depend on."""
        return [] if self.array is None else [self.array]

    def key(self, stripe: Stripe, columns: Tile | None = None) -> Any:
        """What belongs to a stripe, or to a tile of it: the key of a chunk, or what is the same for all rows."""
        if self.array is not None:
            place = stripe.number, 0 if columns is None else columns.number
            return self.array.name, *place[: self.array.ndim]
        if getattr(self.value, "ndim", 0) == 0:
            return self.value
        part = self.value[stripe.rows]
        if columns is not None:
            part = part[:, columns.first : columns.end]
        return part.toarray() if columns is not None and is_sparse(part) else part
