"""A report as a picture; needs matplotlib, imported here when it is asked for."""

from importlib.util import find_spec
from pathlib import Path

from fastce.profile.run import Report

FORMATS = (".png", ".pdf", ".svg")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def save_figure(report: Report, path: Path) -> None:
    """Draw the multiples of the floor, one group of bars for each job and one colour for each engine."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(_job_name(row.function, row.place) for row in report.jobs))
    engines = list(dict.fromkeys(row.engine for row in report.jobs))
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(report.jobs) + 0.1 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.8 / max(1, len(engines))
    for number, engine in enumerate(engines):
        rows = [row for row in report.jobs if row.engine == engine]
        heights = [names.index(_job_name(row.function, row.place)) + number * thickness for row in rows]
        multiples = [row.times_floor for row in rows]
        bars = axes.barh(heights, multiples, thickness, label=engine)
        axes.bar_label(bars, [f"{multiple:.2f}" for multiple in multiples], padding=2, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.02)
    axes.set_xlim(left=0.7)
    axes.set_yticks([place + 0.4 - thickness / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    given, about = report.input, report.machine
    axes.set_xlabel("time, as a multiple of what the machine needs to move the same bytes")
    axes.set_title(
        f"{given['rows']} x {given['classes']} {given['dtype']}, {about['threads']} threads, {about['cpu']}",
        fontsize=10,
    )
    figure.legend(loc="outside upper center", ncols=max(1, len(engines)), fontsize=8)
    figure.savefig(path, dpi=150)


def _job_name(function: str, place: str) -> str:
    return f"{function} in place" if place == "in place" else function
