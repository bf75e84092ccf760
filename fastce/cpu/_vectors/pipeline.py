"""How Numba compiles the functions that kernels are made of: what kernels never use is left out.

A kernel is made of some hundred functions, and a first call waits for all of them. Numba does with each what any
function may need: it looks for closures, `with`, `raise` and array expressions, and works out the life of every
variable anew after each look. Half of the time it took was that, and making machine code that nobody runs.
"""

from typing import Any

from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import PassManager


class _Part(JITCodeLibrary):
    """The LLVM code of a function that exists only inside kernels: linked into its callers, and nothing more.

    Numba would optimise each in full, with all that it calls, and make machine code of it; then the kernel, into which
    all of them are linked, once more.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # as for any function without a wrapper for Python

    @property
    def codegen(self) -> Any:
        return self  # Numba asks only for set_env

    def set_env(self, name: str, environment: Any) -> None:
        pass  # where Python objects would be found; kernels have none


# What is left of Numba's own list, in its order.
_UNTYPED = "TranslateByteCode", "FixupArgs", "IRProcessing", "DeadBranchPrune", "GenericRewrites", "ReconstructSSA"
_TYPED = "NopythonTypeInference", "PreLowerStripPhis", "IRLegalization", "NativeLowering", "NoPythonBackend"


class PartCompiler(Compiler):
    """Numba's compiler with these passes, and a library of ours to compile into."""

    def define_pipelines(self) -> Any:
        state = self.state
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = PassManager("part of a kernel")
        for module, names in (untyped_passes, _UNTYPED), (typed_passes, _TYPED):
            for name in names:
                passes.add_pass(getattr(module, name), name)
        passes.finalize()
        return [passes]


_REPLACED = "_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals", "get_pointer_to_function"


def is_as_expected() -> bool:
    """Whether this Numba is built as `PartCompiler` takes it to be."""
    return (
        all(hasattr(JITCodeLibrary, name) for name in (*_REPLACED, "codegen", "_ensure_finalized"))
        and all(hasattr(untyped_passes, name) for name in _UNTYPED)
        and all(hasattr(typed_passes, name) for name in _TYPED)
    )
