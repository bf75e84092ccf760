"""The types of arguments; every choice of an option is listed here."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsFloat, SupportsIndex, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

Reduced: TypeAlias = Literal["mean", "sum"]  # to a float
Reduction: TypeAlias = Literal[Reduced, "none"]
SmoothingOver: TypeAlias = Literal["all", "others"]
Pieces: TypeAlias = Literal["rows", "classes"]  # that logits come in
Hessian: TypeAlias = Literal["exact", "xgboost", "lightgbm", "absolute"]
FloatStatistic: TypeAlias = Literal["logsumexp", "max", "entropy", "target_log_prob"]
IntegerStatistic: TypeAlias = Literal["argmax", "target_rank"]
BooleanStatistic: TypeAlias = Literal["in_top_k"]
Statistic: TypeAlias = Literal[FloatStatistic, IntegerStatistic, BooleanStatistic]  # what `row_stats` can give
FloatName: TypeAlias = Literal["float32", "float64", "float16", "bfloat16"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Python's own has no defaults before 3.13

    Float = TypeVar("Float", bound=np.floating[Any], default=np.floating[Any])
    Number: TypeAlias = SupportsFloat  # an array of one element, too
    Index: TypeAlias = SupportsIndex
else:
    from typing import TypeVar

    Float = TypeVar("Float")
    Number, Index = float, int  # what `help` says


class SupportsArray(Protocol):
    """What NumPy makes an array of: arrays, data frames, tensors."""

    def __array__(self) -> Any: ...


class SupportsDLPack(Protocol):
    """An array of any library, on any device."""

    def __dlpack__(self) -> Any: ...


class SupportsToCSR(Protocol):
    """A sparse matrix of SciPy or CuPy."""

    def tocsr(self) -> Any:
        """In compressed sparse rows."""


FloatArray: TypeAlias = NDArray[np.floating[Any]]
Nested: TypeAlias = Sequence[Union[float, SupportsArray, "Nested"]]
RealArray: TypeAlias = NDArray[Float] | NDArray[np.integer[Any] | np.bool] | float | Nested
AnyArray: TypeAlias = SupportsArray | SupportsDLPack | float | Nested
Targets: TypeAlias = AnyArray | SupportsToCSR
Axes: TypeAlias = Index | tuple[Index, ...]
ProgressOption: TypeAlias = bool | Callable[[int, int], object] | None
