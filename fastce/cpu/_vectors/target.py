"""What LLVM compiles for, as it says itself: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are heeded as it heeds them."""

import functools
import logging

from llvmlite import binding
from numba.core.registry import cpu_target

# A list of features does not tell: a CPU's name implies some that no list has. What is made of vectors does.
_PROBE = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)

define void @probe(ptr %floats, ptr %halves, ptr %sum, ptr %wide, ptr %fused, ptr %short) "prefer-vector-width"="512" {
  %x = load <16 x float>, ptr %floats, align 4
  %y = fadd <16 x float> %x, %x
  store <16 x float> %y, ptr %sum, align 4
  %h = load <8 x half>, ptr %halves, align 2
  %w = fpext <8 x half> %h to <8 x float>
  store <8 x float> %w, ptr %wide, align 4
  %f = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %x, <16 x float> %y)
  store <16 x float> %f, ptr %fused, align 4
  %b = fptrunc <16 x float> %x to <16 x bfloat>
  store <16 x bfloat> %b, ptr %short, align 2
  ret void
}
"""


@functools.cache
def _assembly() -> str:
    return str(cpu_target.target_context.codegen()._tm.emit_assembly(binding.parse_assembly(_PROBE)))


def vector_bits() -> int:
    """The width of the widest vector registers that kernels are compiled for."""
    return 512 if "%zmm" in _assembly() else 256 if "%ymm" in _assembly() else 128


def has_avx512() -> bool:
    """Whether kernels are compiled for a CPU with AVX-512F."""
    return vector_bits() == 512


def has_half() -> bool:
    """Whether there are instructions for float16; without, LLVM calls functions that are not there."""
    return "hfsf" not in _assembly() and "h2f" not in _assembly()


def has_bfloat() -> bool:
    """Whether there is an instruction that rounds sixteen numbers to bfloat16."""
    return has_avx512() and "vcvtneps2bf16" in _assembly()


def has_fma() -> bool:
    """Whether there are instructions for a * b + c, rounded once; without, LLVM calls the C library for each."""
    return "fmaf" not in _assembly()


@functools.cache
def is_zen() -> bool:
    """Whether kernels are compiled for an AMD CPU of these days."""
    return bool(cpu_target.target_context.codegen().magic_tuple()[1].startswith("znver"))


def bytes_ahead() -> int:
    """How far before it is read memory is asked for: farther than the hardware looks, which stops at a page's end.

    On Intel's CPUs half a page, that no two lines on their way share a set of the first-level cache: logsumexp on a
    Xeon takes 17 cycles for 64 bytes of memory then, 20 with a whole page, 25 with two. AMD's have been measured with
    a whole one.
    """
    return 4096 if is_zen() else 2048


@functools.cache
def tell_without_fma() -> None:
    """Say once that kernels will be slow where they are compiled for a CPU without FMA."""
    if not has_fma():
        logging.getLogger("fastce").warning(
            "fastce compiles for a CPU without FMA (this, or NUMBA_CPU_NAME's): 5 to 20 times slower, in float64 more"
        )
