"""A report as a picture; needs matplotlib, imported here when it is asked for."""

from importlib.util import find_spec
from pathlib import Path

from fastce.profile.run import JobRow, Report
from fastce.profile.text import number

FORMATS = (".png", ".pdf", ".svg")
COLOURS = ("#d1495b", "#8d99ae", "#30638e", "#66a182", "#edae49", "#b8c0cc")  # the first is fastce's


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def save_figure(report: Report, path: Path) -> None:
    """Draw the multiples of the floor from 0 on, so that lengths compare: a group of bars for each job."""
    from matplotlib.figure import Figure

    held = [row for row in report.jobs if row.times_floor is not None]
    names, engines = (list(dict.fromkeys(getattr(row, kind) for row in held)) for kind in ("name", "engine"))
    figure = Figure(figsize=(9, 1.4 + len(names) * (0.15 + 0.22 * len(engines))), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.8 / max(1, len(engines))
    for place, engine in enumerate(engines):
        rows = [row for row in held if row.engine == engine]
        heights = [names.index(row.name) + place * thickness for row in rows]
        multiples = [row.times_floor or 0.0 for row in rows]
        bars = axes.barh(heights, multiples, thickness, label=engine, color=COLOURS[place % len(COLOURS)])
        axes.bar_label(bars, [_label(row) for row in rows], padding=2, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.02)
    axes.set_xlim(0, 1.3 * max((row.times_floor or 0.0 for row in held), default=1.0))  # room for the labels
    axes.set_yticks([place + 0.4 - thickness / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    given, about = report.input, report.machine
    axes.set_xlabel("time over the floor (the line at 1)")
    axes.set_title(
        f"{given['rows']} x {given['classes']} {given['dtype']}, {about['threads']} threads, {about['cpu']}",
        fontsize=10,
    )
    figure.legend(loc="outside upper center", ncols=max(1, len(engines)), fontsize=8)
    figure.savefig(path, dpi=150)


def _label(row: JobRow) -> str:
    beside = "" if row.times_faster is None else f", {number(row.times_faster)} x fastce"
    return f"{number(row.times_floor or 0.0)}{beside}"
