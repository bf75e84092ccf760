"""Kernels whose arguments, whatever these are, are one parameter: a struct, from which they are unpacked on entry.

Numba's own way is a parameter for each number, and seven for an array. Here an array is its address and its size.
"""

from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic, models, register_model
from numba.cuda.np.numpy_support import from_dtype

from fastce.cuda._kernels.emit import DOUBLE, FLOAT, INDEX, array_of

CODES = {  # of scalars, for the module struct
    types.boolean: "?",
    types.int32: "i",
    types.int64: "q",
    types.float32: "f",
    types.float64: "d",
}
FIELDS = {"?": ir.IntType(8), "i": ir.IntType(32), "q": INDEX, "f": FLOAT, "d": DOUBLE}
OF_ARRAY = "qq"


class Kernel:
    """A kernel for blocks of so many threads, of which so many are to fit a multiprocessor."""

    def __init__(self, function: Any, bounds: tuple[int, ...]) -> None:
        self.py_func = function
        self.bounds = bounds
        self.__name__ = function.__name__

    def ptx(self, kinds: tuple[Any, ...], capability: tuple[int, int]) -> str:
        """Compiled for arguments of these types of Numba."""
        body = cuda.jit(device=True, forceinline=True)(self.py_func)

        def entry(packed):
            body(*unpacked(packed))

        entry.__name__ = entry.__qualname__ = self.__name__
        signature = types.void(Packed(kinds))
        text, _ = cuda.compile(
            entry, signature, device=False, abi="numba", cc=capability, launch_bounds=self.bounds
        )  # fmt: skip
        return str(text)


class Packed(types.Type):
    """The struct of arguments of these types."""

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.kinds = kinds
        super().__init__(name=f"packed{kinds}")

    @property
    def mangling_args(self) -> tuple[str, tuple[()]]:
        return "packed", ()


@register_model(Packed)
class PackedModel(models.PrimitiveModel):
    """As one value, so that it is one parameter."""

    def __init__(self, dmm: Any, kind: Packed) -> None:
        super().__init__(dmm, kind, ir.LiteralStructType([FIELDS[code] for code in format_of(kind.kinds)]))


def format_of(kinds: Any) -> str:
    """The codes of all numbers of arguments of these types."""
    return "".join(
        OF_ARRAY if isinstance(k, types.Array) else format_of(k.types) if isinstance(k, types.BaseTuple) else CODES[k]
        for k in kinds
    )


def array_kind(dtype: Any) -> Any:
    """Numba's type of a flat array."""
    return types.Array(from_dtype(dtype), 1, "C")


def tuple_kind(kinds: tuple[Any, ...], of: type) -> Any:
    """Numba's type of a tuple, or of a named one."""
    return types.BaseTuple.from_types(kinds, None if of is tuple else of)


@intrinsic
def unpacked(typingctx, packed):
    """The arguments as a tuple."""
    whole = types.BaseTuple.from_types(packed.kinds)

    def generate(context, builder, signature, args):
        numbers = iter([builder.extract_value(args[0], k) for k in range(len(format_of(packed.kinds)))])

        def value(kind):
            if isinstance(kind, types.BaseTuple):
                return context.make_tuple(builder, kind, [value(part) for part in kind.types])
            number = next(numbers)
            if isinstance(kind, types.Array):
                data = builder.inttoptr(number, context.get_data_type(kind.dtype).as_pointer())
                return array_of(context, builder, kind, data, next(numbers))
            return builder.trunc(number, ir.IntType(1)) if kind == types.boolean else number

        return context.make_tuple(builder, whole, [value(kind) for kind in packed.kinds])

    return whole(packed), generate
