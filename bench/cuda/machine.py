"""The GPU that is measured on, and what is installed beside it."""

import shutil
import subprocess
from importlib.util import find_spec
from typing import Any

PACKAGES = ("torch", "numba", "numba-cuda", "cuda-core", "triton", "liger-kernel")
CUPYS = ("cupy", "cupy-cuda13x", "cupy-cuda12x")
QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
CACHE = 64 << 20  # bytes, where PyTorch does not tell


class UnavailableError(Exception):
    """Nothing can be measured here; the message is one sentence."""


def torch_with_device() -> Any:
    """PyTorch, if it finds a GPU and fastce's kernels can be compiled for one."""
    for package, name in (("torch", "PyTorch"), ("numba_cuda", "numba-cuda")):
        if find_spec(package) is None:
            raise UnavailableError(f"the CUDA record needs {name}, which is not installed.")
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError("the CUDA record needs an NVIDIA GPU, and PyTorch finds none here.")
    return torch


def described(torch: Any) -> dict[str, Any]:
    """What the figures depend on."""
    from fastce.profile.machine import installed_version, machine

    device = torch.cuda.get_device_properties(0)
    versions = machine(1)["versions"] | {name: installed_version(name) for name in PACKAGES}
    versions["cupy"] = next((v for name in CUPYS if (v := installed_version(name)) != "unknown"), "unknown")
    return {
        "device": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_bytes": device.total_memory,
        "cache_bytes": cache_bytes(torch),
        "cuda": torch.version.cuda,
        "versions": versions,
        "nvidia_smi": _nvidia_smi(),
    }


def cache_bytes(torch: Any) -> int:
    """The size of the L2 cache."""
    return int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or CACHE)


def _nvidia_smi() -> dict[str, str]:
    """The driver and the clocks, where the tool is installed and tells."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(QUERY.split(","), (part.strip() for part in line.split(",")), strict=False))
