"""What fastce runs on, and compiling ahead of first use."""

import os
import platform
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import numpy as np

import fastce
from fastce.arguments.numbers import chosen
from fastce.arguments.words import is_of_handler
from fastce.cpu.threads import get_num_threads
from fastce.typing import FloatName


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def vector_bits() -> int:
    """The width of the widest vector registers that kernels are compiled for."""
    from fastce.cpu._vectors import target

    return target.vector_bits()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cuda_devices() -> str:
    """The GPUs that arrays can be on, in words; no context is created on them."""
    installed = _version("numba-cuda")  # numba.cuda alone says nothing: some versions of Numba bring it along
    if installed == "not installed":
        return "numba-cuda is not installed"
    try:
        from numba import cuda

        found = [
            f"{getattr(gpu, 'name', 'simulator')} (compute capability {'.'.join(map(str, gpu.compute_capability))})"
            for gpu in cuda.list_devices()
        ]
    except Exception as error:  # no driver, one that is too old, a broken installation: each has errors of its own
        if is_of_handler(error):
            raise
        found = []
    return f"numba-cuda {installed}, {', '.join(found) or 'no device'}"


def configuration() -> dict[str, Any]:
    """What `show_config` prints, by names, in the types of JSON."""
    from fastce.cpu._vectors import target
    from fastce.cpu._vectors.cache import cache_folder

    folder = cache_folder()
    return {
        "fastce": fastce.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in ("numba", "llvmlite", "numpy", "scipy")},
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "vector_bits": vector_bits(),
        "fma": target.has_fma(),
        "threads": get_num_threads(),
        "cache_folder": None if folder is None else str(folder),
        "cuda": cuda_devices(),
    }


def show_config() -> None:
    """Print versions, CPU, vector width, threads, cache folder and CUDA device.

    Notes
    -----
    Vectors, and whether there is FMA, are those that kernels are compiled for: of this CPU, or of ``NUMBA_CPU_NAME``
    and ``NUMBA_CPU_FEATURES``. Without FMA (x86-64 before 2013, and x86-64-v2) results are as right, but a * b + c,
    which must be rounded once, is computed in float64, or of float64 by the C library: 5 to 20 times slower, in float64
    more. A process that compiles kernels for such a CPU says so once, in the log ``fastce``.

    Examples
    --------
    >>> import fastce
    >>> fastce.show_config()  # doctest: +ELLIPSIS
    fastce ...
    """
    about = configuration()
    versions = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    fma = "" if about["fma"] else ", no FMA"
    print(f"fastce {about['fastce']} on Python {about['python']}, {about['platform']}")
    print(f"packages: {versions}")
    print(f"CPU: {about['cpu']}, {about['cores']} cores, vectors of {about['vector_bits']} bits{fma}")
    print(f"threads: {about['threads']}")
    print(f"cache of compiled kernels: {about['cache_folder'] or 'off (FASTCE_CACHE=0)'}")
    print(f"CUDA: {about['cuda']}")


_VARIANTS = "", "_value_and_grad", "_value_and_grad_logit_scale", "_grad_and_hess"


def _small_calls(dtype: str) -> dict[str, list[Callable[[], Any]]]:
    """Calls of every function that compile its kernels: those for few classes, and those that go along a row."""
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401  (gives NumPy the dtype)
    few, many, labels = np.zeros((2, 2), dtype), np.zeros((2, 1000), dtype), np.arange(2)
    along_rows: list[Callable[..., Any]] = [partial(_applied, x, axis=1) for x in (few, many)]
    of_logits: list[Callable[..., Any]] = [partial(_applied, x, labels) for x in (few, many)]
    calls: dict[str, list[Callable[..., Any]]] = {
        "logsumexp": along_rows,
        "softmax": along_rows,
        "log_softmax": along_rows,
        "cross_entropy": [
            partial(_applied, few, labels, label_smoothing=0.1),
            *of_logits,
            partial(_applied, few, labels, ignore_index=0),
        ],
        "calibrate_temperature": of_logits,
        "nll_loss": [partial(_applied, few, labels)],
        "row_stats": [partial(_applied, few, labels)],
        "binary_cross_entropy_with_logits": [partial(_applied, few, few)],
        "clip_loss": [partial(_applied, few)],
        # smoothing takes more kernels, and all others
        "clip_loss_from_features": [partial(_applied, few, few, label_smoothing=0.1)],
        "siglip_loss": [partial(_applied, few, few, 1.0, 0.0)],
        "info_nce": [partial(_applied, few, few), partial(_applied, few, few, np.zeros((1000, 2), dtype))],
        "nt_xent": [partial(_applied, few, few)],
        "sup_con": [partial(_applied, few, np.zeros(2, np.int64))],
        "linear_cross_entropy": [
            partial(_applied, few, np.zeros((classes, 2), dtype), labels) for classes in (2, 1000)
        ],
        "recall_at_k": [partial(_applied, few, few)],
    }
    return {
        function: [partial(call, function=getattr(fastce, function)) for call in of_name]
        for name, of_name in calls.items()
        for function in (name + variant for variant in _VARIANTS)
        if function in fastce.__all__
    }


def _applied(*arguments: Any, function: Callable[..., Any], **options: Any) -> Any:
    return function(*arguments, **options)


def warmup(dtypes: FloatName | Iterable[FloatName] = ("float32",), functions: Iterable[str] | None = None) -> None:
    """Compile the kernels ahead of their first use, or read them from the cache.

    Parameters
    ----------
    dtypes : iterable of str, default: ("float32",)
        Any of "float32", "float64", "float16", "bfloat16" (the last needs the package ml_dtypes).
    functions : iterable of str, optional
        Names of public functions; all by default.

    Raises
    ------
    ValueError
        For a dtype or a function that there is nothing to compile for.

    Examples
    --------
    >>> import fastce
    >>> fastce.warmup(functions=["logsumexp"])
    """
    for dtype in chosen(dtypes, "dtypes", get_args(FloatName)):
        calls = _small_calls(dtype)
        for function in calls if functions is None else chosen(functions, "functions", tuple(calls)):
            for call in calls[function]:
                call()
