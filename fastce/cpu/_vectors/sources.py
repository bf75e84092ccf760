"""A digest of the kernels' source, as it was imported: what compiled code on disk is filed under."""

import hashlib
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

PACKAGES = ("fastce.cpu._kernels", "fastce.cpu._vectors")  # what compiled code is made of


def digest() -> str | None:
    """Of every module of them as its loader reads it, from files, a zip or compiled files only; None if it cannot."""
    found = hashlib.sha256()
    try:
        for package in PACKAGES:
            _add(package, found)
    except (AttributeError, ImportError, OSError, EOFError, ValueError):  # no such loader, or files that come and go
        return None
    return found.hexdigest()


def _add(package: str, found: Any) -> None:
    """The modules of a package, which is not imported: it asks for the digest itself."""
    folders = find_spec(package).submodule_search_locations  # type: ignore[union-attr]
    names = sorted(f"{package}.{module.name}" for module in iter_modules(folders))
    if not names:
        raise ImportError(f"{package} has no modules")
    for name in names:
        spec = PathFinder.find_spec(name, folders)
        found.update(name.encode())
        found.update(spec.loader.get_data(spec.origin))  # type: ignore[union-attr]


# Kernel modules are imported when they are needed. If the package is replaced meanwhile, some are old and some new.
AT_IMPORT = digest()
