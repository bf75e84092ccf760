"""How far a long sweep has come: a bar, a line on stderr, or whatever the caller does with the two numbers."""

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

from fastce.arguments.words import shown

SECONDS_BETWEEN_LINES = 0.5


class Progress:
    """Counts the tiles (or panels) of a call. ``wanted`` is None, True, or a callable(done, total).

    It is called from the thread that made the call, after every tile; what it raises stops the call.
    """

    def __init__(self, wanted: Any, total: int, name: str, unit: str = "tile") -> None:
        self.wanted: Any = checked_progress(wanted)
        self.done: int = 0
        self.total = total
        self.name = name
        self.unit = unit

    def step(self) -> None:
        """One more tile is done."""
        self.done += 1
        self._show(self.done, self.total)

    def __enter__(self) -> "Progress":
        self._show, self._close = _shown_by(self.wanted, self.total, self.name, self.unit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def checked_progress(value: Any) -> Any:
    """None, True or a callable; False is None."""
    if value is None or value is False:
        return None
    if value is not True and not callable(value):
        raise TypeError(f"progress must be True, None or a callable(done, total), got {shown(value)}")
    return value


def _nothing() -> None:
    pass


def _shown_by(wanted: Any, total: int, name: str, unit: str) -> tuple[Callable[[int, int], Any], Callable[[], Any]]:
    """(what shows the progress, what ends that)."""
    if wanted is None:
        return lambda done, total: None, _nothing
    if wanted is not True:
        return wanted, _nothing
    try:
        from tqdm.auto import tqdm
    except ImportError:
        line = _Line(name, unit)
        return line.show, line.close
    bar = tqdm(total=total, desc=name, unit=unit)
    return lambda done, total: bar.update(), bar.close


class _Line:
    """One line on stderr, written over now and then."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.start = self.last = monotonic()
        self.has_written = False

    def show(self, done: int, total: int) -> None:
        now = monotonic()
        if done < total and now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last, self.has_written = now, True
        text = f"\r{self.name}: {done} of {total} {self.unit}s, {now - self.start:.1f} s"
        print(text, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.has_written:
            print(file=sys.stderr, flush=True)
