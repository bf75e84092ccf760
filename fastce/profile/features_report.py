"""What `fastce profile` of losses from features has found, as text and as a picture."""

import math
from itertools import groupby
from pathlib import Path

from fastce.profile.features import FeaturesReport, FeaturesRow
from fastce.profile.figure import COLOURS
from fastce.profile.text import MIB, counted, duration, machine_line, memory, nan_line, number, summary, table, wrapped

HEADER = ("", "time", "times faster", "x floor", "memory", "differs by")


def heading(report: FeaturesReport) -> str:
    """The machine and the input, before anything is measured."""
    given = report.input
    pairs = f"input    pairs of {given['width']} {given['dtype']}, batches up to {given['batch']}; {given['origin']}"
    lines = [machine_line(report.machine), wrapped(pairs, indent=9), nan_line(given["rows_with_nan"], given["batch"])]
    return "\n".join(filter(None, lines))


def tables(report: FeaturesReport) -> str:
    """What was measured."""
    rows: list[tuple[str, ...]] = [HEADER]
    for name, group in groupby(report.rows, key=lambda row: f"{row.function}, batch {row.batch:,}"):
        of_batch = list(group)
        floor = ("  floor", duration(of_batch[0].floor_seconds), "", "1", "", "")
        rows += [(name,), *map(_cells, of_batch), floor]
    is_compared = any(row.times_faster for row in report.rows)
    lines = [
        f"Time: the median of {counted(report.rounds, 'round')} in turns; one call of what takes two seconds.",
        "Times faster: how many times as fast as the dense way, with the matrix of all products, fastce is."
        if is_compared
        else "",
        "Floor: the time in which NumPy merely multiplies these matrices, in tiles. x floor: time over floor.",
        f"Memory: what a call takes beyond its input, the gradients included; the dense ways may use "
        f"{report.input['memory_limit'] / 2**30:.3g} GiB.",
        "Differs by: the largest difference of a gradient (or value) from fastce's, relative to the largest element."
        if is_compared
        else "",
    ]
    text = "\n".join(wrapped(line, indent=2) for line in lines + report.notes if line)
    return "\n\n".join(filter(None, [table(rows), text, summary(report.rows)]))


def _cells(row: FeaturesRow) -> tuple[str, ...]:
    return (
        f"  {row.engine}",
        duration(row.seconds),
        "" if row.times_faster is None else number(row.times_faster),
        number(row.times_floor),
        memory(row.extra_bytes),
        "" if row.difference is None else f"{row.difference:.1e}",
    )


def save_figure(report: FeaturesReport, path: Path) -> None:
    """Draw memory and time against the size of the batch; needs matplotlib, imported here when it is asked for."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")
    of_memory, of_time = figure.subplots(1, 2)
    of_time.set_prop_cycle(color=COLOURS)
    functions, ended = list(dict.fromkeys(row.function for row in report.rows)), False
    for function, engine in dict.fromkeys((row.function, row.engine) for row in report.rows):
        rows = [row for row in report.rows if (row.function, row.engine) == (function, engine)]
        way = engine if engine == "fastce" else f"{engine}, dense"
        label = way if len(functions) == 1 else f"{function}: {way}"
        batches = [row.batch for row in rows]
        colour = of_time.plot(batches, [row.seconds for row in rows], "o-", label=label)[0].get_color()
        taken = [(row.extra_bytes or math.nan) / MIB for row in rows]
        of_memory.plot(batches, taken, "o-", color=colour)
        if batches[-1] < report.input["batch"]:
            ended = True
            of_memory.plot(batches[-1], taken[-1], "X", color=colour, markersize=11)
            of_time.plot(batches[-1], rows[-1].seconds, "X", color=colour, markersize=11)
    if ended:
        limit = f"{report.input['memory_limit'] / 2**30:.3g} GiB"
        of_time.plot([], [], "X", color="gray", markersize=11, label=f"ends: the next would take more than {limit}")
    for axes, title in ((of_memory, "extra memory, MiB"), (of_time, "time, seconds")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.6g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="minor", length=0)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("batch")
        axes.set_title(title, fontsize=10)
    given, about = report.input, report.machine
    what = functions[0] if len(functions) == 1 else "losses from features"
    figure.suptitle(
        f"{what}, width {given['width']}, {given['dtype']}, {about['threads']} threads, {about['cpu']}", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=4 if len(functions) == 1 else 1, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)
