"""What LLVM compiles for, as it says itself: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are heeded as it heeds them."""

import functools

from llvmlite import binding
from numba.core.registry import cpu_target

# A list of features does not tell: a CPU's name implies some that no list has. A load of 64 bytes does.
_PROBE = """
define void @probe(ptr %from, ptr %to) "prefer-vector-width"="512" {
  %x = load <16 x i32>, ptr %from, align 4
  %y = add <16 x i32> %x, %x
  store <16 x i32> %y, ptr %to, align 4
  ret void
}
"""


@functools.cache
def vector_bits() -> int:
    """The width of the widest vector registers that kernels are compiled for."""
    machine = cpu_target.target_context.codegen()._tm
    assembly = machine.emit_assembly(binding.parse_assembly(_PROBE))
    return 512 if "%zmm" in assembly else 256 if "%ymm" in assembly else 128


def has_avx512() -> bool:
    """Whether kernels are compiled for a CPU with AVX-512F."""
    return vector_bits() == 512


_HALF_PROBE = """
define void @probe(ptr %from, ptr %to) {
  %x = load <8 x half>, ptr %from, align 2
  %y = fpext <8 x half> %x to <8 x float>
  store <8 x float> %y, ptr %to, align 4
  ret void
}
"""


@functools.cache
def has_half() -> bool:
    """Whether there are instructions for float16; without, LLVM calls functions that are not there."""
    machine = cpu_target.target_context.codegen()._tm
    assembly = machine.emit_assembly(binding.parse_assembly(_HALF_PROBE))
    return "hfsf" not in assembly and "h2f" not in assembly
