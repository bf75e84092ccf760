"""Compiled kernels on disk, so that a fresh process starts in milliseconds.

Numba's own cache watches only the file of the compiled function; ours is keyed by the contents of every kernel file,
so that editing any of them makes all of them new. It lies in a folder of the user's (FASTCE_CACHE_DIR, or the
system's place for caches), one folder a dtype, so that two processes never write different things to one name.
Whatever goes wrong with it (no folder, no space, a damaged file) costs a compilation and one line in the log.
"""

import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.misc.appdirs import user_cache_dir

_log = logging.getLogger("fastce")


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None if FASTCE_CACHE=0 turned the cache off."""
    if os.environ.get("FASTCE_CACHE") == "0":
        return None
    return Path(os.environ.get("FASTCE_CACHE_DIR") or user_cache_dir("fastce", appauthor=False))


@functools.cache
def source_stamp() -> str:
    """A digest of every kernel file, and of the Numba that compiles them."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _log_once(problem: str) -> None:
    _log.warning("fastce compiles its kernels anew in every process: %s", problem)


def report(error: Exception, folder: Path) -> None:
    if _log_once.cache_info().currsize == 0:
        _log_once(f"the cache in {folder} cannot be used ({type(error).__name__}: {error})")


def _refuse_the_folder_of_another_user(folder: Path) -> None:
    """Compiled code is read from there, so it must be ours."""
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")


class KernelCache(FunctionCache):
    """Numba's cache of one function, in our folder, which never raises."""

    def __init__(self, function: Any, folder: Path) -> None:
        class Locator(_CacheLocator):
            def get_cache_path(self) -> str:
                return str(folder)

            def get_source_stamp(self) -> str:
                return source_stamp()

            def get_disambiguator(self) -> str:
                return str(function.__code__.co_firstlineno)

            @classmethod
            def from_function(cls, py_func: Any, py_file: Any) -> Any:
                return cls()

        class Implementation(CompileResultCacheImpl):
            _locator_classes = [Locator]  # noqa: RUF012

        self._impl_class = Implementation
        self.folder = folder
        super().__init__(function)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged file can fail in any way
            report(error, self.folder)
            self._start_afresh()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            report(error, self.folder)

    def _start_afresh(self) -> None:
        try:
            self.flush()
        except Exception as error:
            report(error, self.folder)


def attach(dispatcher: Any, dtype_name: str) -> None:
    """Give a dispatcher its cache, unless it is turned off or cannot be used."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder = folder / source_stamp() / dtype_name
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_the_folder_of_another_user(folder)
        dispatcher._cache = KernelCache(dispatcher.py_func, folder)
    except OSError as error:
        report(error, folder)
