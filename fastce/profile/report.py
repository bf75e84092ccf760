"""A report as text and as JSON."""

import json
import math
from collections.abc import Sequence
from itertools import groupby
from textwrap import fill
from typing import Any

from fastce.profile.accuracy import EPS, Error, worst
from fastce.profile.run import JobRow, Report

MIB = 1 << 20
WIDTH = 110
HEADER = ("job", "time", "GB/s", "x floor", "floor", "extra memory", "largest error")


def heading(report: Report) -> str:
    """The machine and the input, before anything is measured."""
    about, given = report.machine, report.input
    shape = f"{given['rows']} x {given['classes']} {given['dtype']} ({given['nbytes'] / MIB:.4g} MiB)"
    matrix = f"input    {shape}, label smoothing {given['label_smoothing']:g}; {given['origin']}"
    return f"{machine_line(about)}\n{wrapped(matrix)}"


def machine_line(about: dict[str, Any]) -> str:
    """What the figures depend on besides the input."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    size = f"{counted(about['cores'], 'core')}, vectors of {about['vector_bits']} bits"
    return wrapped(f"machine  {about['cpu']}, {size}, {counted(about['threads'], 'thread')}; {versions}")


def tables(report: Report) -> str:
    """What was measured."""
    floors = [("floor", "time", "GB/s")]
    floors += [(row.name, duration(row.seconds), f"{row.gb_per_s:.1f}") for row in report.floors]
    jobs: list[tuple[str, ...]] = [HEADER]
    for engine, rows in groupby(report.jobs, key=lambda row: row.engine):
        jobs.append((engine, *[""] * (len(HEADER) - 1)))
        jobs += map(_cells, rows)
    tables = aligned(floors, right=(1, 2)), aligned(jobs, right=(1, 2, 3, 5))
    return "\n\n".join([*tables, _explanation(report)])


def as_json(report: Any) -> str:
    """The whole report; NaN and infinity, which JSON does not have, as null."""
    return json.dumps(_without_non_finite(report.as_dict()), indent=2, allow_nan=False) + "\n"


def _cells(row: JobRow) -> tuple[str, ...]:
    mark = "~" if row.extrapolated else ""
    name = f"{row.function} ({row.place})" if row.place else row.function
    memory = "-" if row.extra_bytes is None else f"{mark}{row.extra_bytes / MIB:.1f} MiB"
    return (
        f"  {name}",
        mark + duration(row.seconds),
        f"{row.gb_per_s:.1f}",
        f"{row.times_floor:.2f}",
        row.floor,
        memory,
        _error(worst(row.errors)) + (f"  [{row.note}]" if row.note else ""),
    )


def _explanation(report: Report) -> str:
    eps = EPS[report.input["dtype"]]
    lines = [
        "Time: the fastest of the rounds, in which the job and its floor take turns; x floor: the median of their "
        "ratios. Floor: one read of "
        "the logits, one copy of them (a read and a write) or one scaling in place; for clip_loss with "
        "gradient a read and a copy. GB/s: the bytes of the floor over the time.",
        "Extra memory: how far resident memory rose during a call, beyond the input and a given out.",
        "Largest error: against SciPy in float64 or wider. Losses: of sampled rows and of the mean, in units "
        "of the last place (ulp). Gradients: in sampled rows, before the mean, in units of "
        f"eps = {eps:.1e}.",
        f"Rounds: {report.rounds}; fewer for peers that take longer than a second.",
    ]
    if any(row.extrapolated for row in report.jobs):
        lines.append("~ measured on a block of the matrix and scaled up to all of it.")
    return "\n".join(fill(line, WIDTH) for line in lines + report.notes)


def _error(error: Error | None) -> str:
    if error is None:
        return "-"
    return f"{error.absolute:.1e} ({error.units:.2g} {error.unit})"


def duration(seconds: float) -> str:
    """A duration with three digits and a fitting unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.3g} us"


def wrapped(text: str) -> str:
    """Text in lines, aligned under the word after its label."""
    return fill(text, WIDTH, subsequent_indent=" " * 9)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """Columns of equal width; those numbered in `right` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
