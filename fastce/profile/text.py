"""Figures as text that fits the terminal."""

import json
import math
import shutil
from collections.abc import Sequence
from textwrap import fill
from typing import Any

MIB = 1 << 20
_NARROWEST = 40


def width() -> int:
    """Columns of the terminal, but at least 40; 80 where the output goes into a file."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def wrapped(text: str, indent: int = 0) -> str:
    """Text in lines that fit, the second and later ones indented."""
    return fill(text, width(), subsequent_indent=" " * indent)


def machine_line(about: dict[str, Any]) -> str:
    """What the figures depend on besides the input."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    size = f"{counted(about['cores'], 'core')}, vectors of {about['vector_bits']} bits"
    return wrapped(f"machine  {about['cpu']}, {size}, {counted(about['threads'], 'thread')}; {versions}", indent=9)


def nan_line(count: int, rows: int) -> str:
    """What NaN in the input makes of the results; "" if there is none."""
    if count == rows:
        return wrapped("         Every row holds NaN: so does every result, and errors say nothing.", indent=9)
    if count == 0:
        return ""
    return wrapped(f"         NaN in {counted(count, 'row')} of {rows}: their results are NaN.", indent=9)


def summary(rows: Sequence[Any]) -> str:
    """One line for each library: how many times as fast fastce was, from rows with `engine` and `times_faster`."""
    lines = []
    for engine in dict.fromkeys(row.engine for row in rows):
        factors = sorted(row.times_faster for row in rows if row.engine == engine and row.times_faster)
        if factors:
            span = " to ".join(dict.fromkeys(number(factor) for factor in (factors[0], factors[-1])))
            lines.append(wrapped(f"fastce is {span} times as fast as {engine} here.", indent=2))
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns under the first row, set to the right but for the first; a row of one cell stands alone as a heading.

    Empty columns are left out, and so are the last ones where the terminal is too narrow, which is said.
    """
    columns = list(zip(*(row for row in rows if len(row) > 1), strict=True))
    kept = [number for number, column in enumerate(columns) if any(column[1:])]
    rows = [tuple(row[number] for number in kept) if len(row) > 1 else row for row in rows]
    header, widths = rows[0], [max(map(len, columns[number])) for number in kept]
    shown = len(header)
    while shown > 2 and sum(widths[:shown]) + 2 * (shown - 1) > width():
        shown -= 1
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(wrapped(row[0], indent=2))
            continue
        first, others = row[0], [cell.rjust(size) for cell, size in zip(row[1:shown], widths[1:shown], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *others]).rstrip())
    if shown < len(header):
        lines.append(wrapped(f"(the terminal is too narrow for: {', '.join(header[shown:])})"))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A duration with three digits and a fitting unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 0.9995:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds * 1e6)} us"


def number(value: float) -> str:
    """Three digits, two of them behind the point below 1, and no exponent below 100000."""
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 1e5 else f"{value:.1e}"


def memory(nbytes: int | None) -> str:
    return "-" if nbytes is None else f"{nbytes / MIB:.1f} MiB" if nbytes < 100 * MIB else f"{nbytes / MIB:.0f} MiB"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_json(report: Any) -> str:
    """The whole of a report; NaN and infinity, which JSON does not have, as null."""
    return json.dumps(_without_non_finite(report.as_dict()), indent=2, allow_nan=False) + "\n"


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
