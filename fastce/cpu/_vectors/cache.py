"""Compiled kernels on disk, so that a fresh process starts in milliseconds.

Numba's own cache watches only the file of the compiled function; ours is keyed by the contents of every kernel file,
so that editing any of them makes all of them new. It lies in a folder of the user's (FASTCE_CACHE_DIR, or the
system's place for caches), one folder a dtype, so that two processes never write different things to one name.
What lies there is run, so nobody else may be able to write it: folders are made for their owner alone, and one that
others may write to is not used. Whatever goes wrong with it (no folder, no space, a damaged file) costs a compilation
and one line in the log.
"""

import functools
import hashlib
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys
from numba.misc.appdirs import user_cache_dir

from fastce.cpu._vectors import sources

_log = logging.getLogger("fastce")


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it is gone
        return None


_STARTED_IN = _current_folder()  # what a relative FASTCE_CACHE_DIR is relative to, wherever the process goes later


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None if FASTCE_CACHE=0 turned the cache off, or there is no place for one."""
    if os.environ.get("FASTCE_CACHE") == "0":
        return None
    chosen = os.environ.get("FASTCE_CACHE_DIR")
    if chosen:
        return _STARTED_IN / chosen if _STARTED_IN is not None else Path(chosen) if Path(chosen).is_absolute() else None
    if sys.platform in ("win32", "darwin"):
        return Path(user_cache_dir("fastce", appauthor=False))
    for base in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(base):  # the XDG specification: anything else is as if it were not set
            return Path(base) / "fastce"
    return None


def source_stamp() -> str:
    """A digest of the kernels that were imported, and of what compiles them.

    Raises
    ------
    OSError
        If they cannot be read, or are others now: some of the kernels imported may be old and some new.
    """
    if sources.AT_IMPORT is None:
        raise OSError("the source of the kernels cannot be read")
    if sources.digest() != sources.AT_IMPORT:
        raise OSError("the installed package has changed since it was imported")
    key = f"{sources.AT_IMPORT} {numba.__version__} {llvmlite.__version__}"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@functools.cache
def _log_once(problem: str) -> None:
    _log.warning("fastce compiles its kernels anew in every process: %s", problem)


def report(error: Exception, folder: Path) -> None:
    if _log_once.cache_info().currsize == 0:
        _log_once(f"the cache in {folder} cannot be used ({type(error).__name__}: {error})")


def _make(folder: Path) -> None:
    """Make a folder and those above it that are missing, for their owner alone whatever the umask is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def _refuse_what_others_may_write(folder: Path) -> None:
    """Compiled code is read from there, so it must be ours, and nobody else may replace it or a folder above it."""
    if not hasattr(os, "getuid"):
        return
    for path in (folder, *folder.parents):
        status = path.stat()
        if status.st_uid != os.getuid() and (path == folder or status.st_uid != 0):
            raise PermissionError(f"{path} belongs to another user")
        # In a sticky folder, as /tmp is, others can write but not replace what is ours.
        if status.st_mode & _written_by_others(status) and (path == folder or not status.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{path} can be written to by other users")


def _written_by_others(status: os.stat_result) -> int:
    """The permissions that matter: of a group too, but for the user's own, which has the user's number."""
    return stat.S_IWOTH | (stat.S_IWGRP if status.st_gid != status.st_uid else 0)


class KernelCache(FunctionCache):
    """Numba's cache of one function, in our folder, which never raises."""

    def __init__(self, function: Any, folder: Path, stamp: str) -> None:
        class Locator(_CacheLocator):
            def get_cache_path(self) -> str:
                return str(folder)

            def get_source_stamp(self) -> str:
                return stamp

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
        """Without importing what compiling takes, which is half of the time; a compilation does that anyway."""
        try:
            rtsys.initialize(target_context)  # what compiled code calls
            return self._load_overload(sig, target_context)
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
        stamp = source_stamp()
        folder = (folder / stamp / dtype_name).resolve()
        _make(folder)
        _refuse_what_others_may_write(folder)
        dispatcher._cache = KernelCache(dispatcher.py_func, folder, stamp)
    except (OSError, RuntimeError) as error:  # the latter of links that go round
        report(error, folder)
