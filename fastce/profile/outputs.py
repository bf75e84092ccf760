"""The files that were asked for, and the line of a terminal that tells what is being done."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from fastce.profile import figure
from fastce.profile.problem import InputError
from fastce.profile.text import width

_CLEAR_LINE = "\r\x1b[K"


def check_outputs(options: argparse.Namespace) -> None:
    """Find out before the measurements, not after them, whether their results can be written."""
    for option, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None:
            _check_writable(option, path)
    if options.plot and options.plot.suffix.lower() not in figure.FORMATS:
        raise InputError(f"--plot {options.plot} must end in one of {', '.join(figure.FORMATS)}")
    if options.plot and not figure.can_draw():
        raise InputError("--plot needs matplotlib: pip install matplotlib")


def _check_writable(option: str, path: Path) -> None:
    """Open a file for writing, and leave it as it was."""
    try:
        file = path.resolve()  # what a link points to
        is_new = not file.exists()
        file.open("ab").close()
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from None
    if is_new:
        file.unlink()


def progress_line() -> Callable[[str], None]:
    """Write what is being done over one line of a terminal; nowhere else."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"{_CLEAR_LINE}{text[: width() - 1]}", end="", file=sys.stderr, flush=True)


def write(options: argparse.Namespace, text: str, draw: Callable[[Path], None]) -> None:
    """The figures into the files that were asked for."""
    try:
        if options.json:
            options.json.write_text(text)
        if options.plot:
            draw(options.plot)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from None
