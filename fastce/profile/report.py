"""What `fastce profile` has found, as text."""

from itertools import groupby

from fastce.profile.accuracy import EPS, Error
from fastce.profile.reference import SAMPLED_ROWS
from fastce.profile.run import JobRow, Report
from fastce.profile.text import (
    MIB,
    counted,
    duration,
    machine_line,
    memory,
    nan_line,
    number,
    summary,
    table,
    width,
    wrapped,
)

HEADER = ("", "time", "times faster", "x floor", "memory", "worst row", "mean")


def heading(report: Report) -> str:
    """The machine and the input, before anything is measured."""
    given = report.input
    shape = f"{given['rows']} x {given['classes']} {given['dtype']} ({given['nbytes'] / MIB:.4g} MiB)"
    matrix = f"input    {shape}, label smoothing {given['label_smoothing']:g}; {given['origin']}"
    lines = [machine_line(report.machine), wrapped(matrix, indent=9)]
    lines.append(nan_line(given["rows_with_nan"], given["rows"]))
    return "\n".join(filter(None, lines))


def tables(report: Report) -> str:
    """What was measured."""
    rows: list[tuple[str, ...]] = [HEADER]
    for name, group in groupby(report.jobs, key=lambda row: row.name):
        jobs = list(group)
        floor = jobs[0].floor
        title = f"{name} (floor: {floor})" if floor else name
        rows.append((title if len(title) <= width() else name,))
        rows += map(_cells, jobs)
        if jobs[0].floor_seconds is not None:
            rows.append(("  floor", duration(jobs[0].floor_seconds), "", "1", "", "", ""))
    return "\n\n".join(filter(None, [table(rows), _explanation(report), summary(report.jobs)]))


def _cells(row: JobRow) -> tuple[str, ...]:
    mark = "~" if row.extrapolated else ""
    return (
        f"  {row.engine}",
        mark + duration(row.seconds),
        "" if row.times_faster is None else number(row.times_faster),
        "-" if row.times_floor is None else number(row.times_floor),
        mark + memory(row.extra_bytes),
        _error(row.errors["rows"]),
        _error(row.errors["mean"]) if "mean" in row.errors else "",
    )


def _explanation(report: Report) -> str:
    dtype = report.input["dtype"]
    is_compared = any(row.times_faster for row in report.jobs)
    of_losses = "" if EPS[dtype] <= EPS["float32"] else ", of float32 for losses"
    lines = [
        f"Time: the median of {counted(report.rounds, 'round')} in turns; fewer for what takes a second.",
        "Times faster: how many times as fast as this library fastce is." if is_compared else "",
        "Floor: the time in which this machine merely moves the same memory. x floor: time over floor.",
        "Memory: what a call takes beyond its input and a given out.",
        f"Worst row: the largest error in {min(SAMPLED_ROWS, report.input['rows'])} rows, against SciPy in float64 or "
        f"wider; mean: that of the mean loss. ulp: units in the last place of "
        f"{dtype}{of_losses}; eps: {EPS[dtype]:.1e}, that of {dtype}, for gradients before the mean.",
    ]
    if any(row.extrapolated for row in report.jobs):
        lines.append("~ measured on a block of the matrix and scaled up to all of it.")
    notes = dict.fromkeys(f"{row.engine}: {row.note}" for row in report.jobs if row.note)
    return "\n".join(wrapped(line, indent=2) for line in [*lines, *notes, *report.notes] if line)


def _error(error: Error) -> str:
    return f"{number(error.units)} {error.unit}"
