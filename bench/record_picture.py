"""The record as a picture: a group of lines for each function, a dot for each library."""

from itertools import groupby

from bench.pictures import COLOURS, GREY, multiple, name_of, new_figure, quiet, save

LINE = 0.21  # inches
GAP = 1.6  # lines before the name of a function
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(table, engines, path):
    """Multiples of the floor of `table`, (problem, job) -> {engine: case}, in two columns."""
    columns = _halves(_groups(table))
    height = max(_lines(column) for column in columns)
    figure = new_figure(14, 1.3 + LINE * height)
    most = max(case["times_floor"] for row in table.values() for case in row.values())
    for axes, column in zip(figure.subplots(1, len(columns), sharex=True, squeeze=False)[0], columns, strict=True):
        _draw_column(axes, column, engines)
        axes.set_xscale("log")
        axes.set_xlim(0.9, 1.3 * most)
        axes.set_ylim(height, -1.2)
        axes.set_xticks([tick for tick in TICKS if tick <= 1.3 * most], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.text(1, -0.7, "the floor", ha="center", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    handles, labels = [*handles[-1:], *handles[:-1]], [*labels[-1:], *labels[:-1]]  # fastce, drawn last, is named first
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    figure.supxlabel(
        "time over the floor, which is 1: what this machine needs to read the same inputs and to write the same "
        "outputs once (float32 unless it says otherwise; the numbers are fastce's)",
        fontsize=9,
    )
    save(figure, path)


def _groups(table):
    """(function, [(label of a line, its cases)]), in the order in which functions first come."""
    functions = list(dict.fromkeys(_function(job) for _, job in table))
    lines = sorted(table.items(), key=lambda item: functions.index(_function(item[0][1])))
    return [(name, [(_label(*key), row) for key, row in found]) for name, found in groupby(lines, _function_of_line)]


def _function(job):
    return job.split(",")[0].removesuffix(" in place")


def _function_of_line(line):
    return _function(line[0][1])


def _label(problem, job):
    place = "in place" if job.split(",")[0].endswith(" in place") else ""
    return ", ".join(filter(None, [problem.removesuffix(" float32"), place, *map(str.strip, job.split(",")[1:])]))


def _lines(groups):
    return sum(len(lines) + GAP for _, lines in groups)


def _halves(groups):
    """Two columns of about the same height: the largest groups first, each to the shorter one."""
    columns = [], []
    for group in sorted(groups, key=lambda group: -len(group[1])):
        min(columns, key=_lines).append(group)
    return [sorted(column, key=groups.index) for column in columns if column]


def _draw_column(axes, groups, engines):
    places, labels, dots, place = [], [], {}, 0.0
    for name, lines in groups:
        axes.text(-0.01, place, name, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold")
        for label, row in lines:
            place += 1
            places.append(place)
            labels.append(label)
            multiples = {engine: case["times_floor"] for engine, case in row.items()}
            axes.plot([min(multiples.values()), max(multiples.values())], [place, place], color="#e5e7eb", zorder=1)
            for engine, value in multiples.items():
                dots.setdefault(engine, []).append((value, place))
        place += GAP
    for engine in [engine for engine in engines if engine != "fastce"] + ["fastce"]:  # on top
        values, heights = zip(*dots.get(engine, [(float("nan"), 0)]), strict=True)
        size = 46 if engine == "fastce" else 26
        axes.scatter(values, heights, size, color=COLOURS[engine], label=name_of(engine), zorder=2)
    for value, height in dots.get("fastce", []):
        axes.annotate(
            multiple(value), (value, height), (0, 5), textcoords="offset points", ha="center", fontsize=6, color=GREY
        )
    axes.axvline(1, color="black", linewidth=1, zorder=0)
    quiet(axes)
    axes.set_yticks(places, labels, fontsize=8)
