"""What the figures of a run depend on besides the code: the processor and the versions."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import fastce
from fastce.configuration import cpu_name, vector_bits

_MEMORY_FILE = "/proc/meminfo"


def machine(n_threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The processor, its cores, the threads in use, and the versions, also of these packages."""
    return {
        "cpu": cpu_name(),
        "vector_bits": vector_bits(),
        "cores": cores(),
        "threads": n_threads,
        "system": platform.system(),
        "versions": {
            "fastce": fastce.__version__,
            "Python": platform.python_version(),
            **{name: installed_version(name.lower()) for name in ("NumPy", "SciPy", "Numba")},
            **{name: installed_version(name) for name in packages if name != "scipy"},
        },
    }


def busy() -> list[str]:
    """What to say of a machine that others work on, too: one note, or none."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < cores():
        return []
    return [f"The machine was busy: a load of {load:.1f}, {cores()} cores. An idle one gives other times."]


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(distribution: str) -> str:
    """The version of an installed package."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    try:
        with open(_MEMORY_FILE) as file:
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
