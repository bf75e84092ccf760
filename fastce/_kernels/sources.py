"""A digest of the kernels' source, as it was imported: what compiled code on disk is filed under."""

import hashlib
from importlib.util import find_spec
from pkgutil import iter_modules

import fastce


def digest() -> str | None:
    """Of every kernel module as its loader reads it, from files, a zip or compiled files only; None if it cannot."""
    package = find_spec("fastce._kernels")
    folders = package.submodule_search_locations if package is not None else None
    found = hashlib.sha256(fastce.__version__.encode())
    names = sorted(module.name for module in iter_modules(folders))
    try:
        for name in names:
            spec = find_spec(f"fastce._kernels.{name}")
            found.update(name.encode())
            found.update(spec.loader.get_data(spec.origin))  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError, EOFError, ValueError):  # no such loader, or files that come and go
        return None
    return found.hexdigest() if names else None


# Kernel modules are imported when they are needed. If the package is replaced meanwhile, some are old and some new.
AT_IMPORT = digest()
