"""What a run on Dask has found, as text and as a picture."""

from pathlib import Path

from fastce.profile.figure import COLOURS
from fastce.profile.on_dask.problem import WIDTH
from fastce.profile.on_dask.run import DaskReport, DaskRow
from fastce.profile.text import MIB, counted, duration, machine_line, number, table, wrapped

HEADER = ("", "time", "one process", "times it", "tasks", "between", "to client", "error")


def heading(report: DaskReport) -> str:
    """The machine and the data, before anything is measured."""
    given = report.input
    logits = f"logits {given['rows']} x {given['classes']}, or pairs of features of width {WIDTH}"
    data = f"input    {logits}, {given['dtype']}, in {counted(given['stripes'], 'stripe')} of rows, made by the workers"
    return "\n".join([machine_line(report.machine), wrapped(data, indent=9)])


def tables(report: DaskReport) -> str:
    """What was measured."""
    rows: list[tuple[str, ...]] = [HEADER]
    for function in functions_of(report):
        rows += [(function,), *(_cells(row) for row in report.rows if row.function == function)]
    lines = [
        f"Time: the median of {counted(report.rounds, 'round')} in turns; workers hold the data and keep gradients.",
        "One process: the time of the plain function here, with as many threads as the workers have, or as there are "
        "cores. Times it: time over that time.",
        "Between: results that went from worker to worker; to client: those that came here.",
        "Error: the largest difference from the plain results, relative to their largest element.",
    ]
    text = "\n".join(wrapped(line, indent=2) for line in lines + report.notes)
    return f"{table(rows)}\n\n{text}"


def functions_of(report: DaskReport) -> list[str]:
    """Those that were measured, in turn."""
    return list(dict.fromkeys(row.function for row in report.rows))


def _cells(row: DaskRow) -> tuple[str, ...]:
    threads = "" if row.worker_threads == row.workers else f", {counted(row.worker_threads, 'thread')}"
    return (
        f"  {counted(row.workers, 'worker')}{threads}",
        duration(row.seconds),
        duration(row.plain_seconds),
        number(row.times_plain),
        str(row.tasks),
        _size(row.bytes_between_workers),
        _size(row.bytes_to_client),
        f"{row.difference:.1e}",
    )


def _size(nbytes: int) -> str:
    if nbytes < 1 << 10:
        return f"{nbytes} B"
    return f"{number(nbytes / MIB)} MiB" if nbytes > MIB else f"{number(nbytes / (1 << 10))} KiB"


def save_figure(report: DaskReport, path: Path) -> None:
    """Draw time against workers, a panel for each function; needs matplotlib, imported here when it is asked for."""
    from matplotlib.figure import Figure

    functions = functions_of(report)
    down, across = -(-len(functions) // 3), min(3, len(functions))
    figure = Figure(figsize=(9, 0.8 + 2.4 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(functions) :]:
        axes.set_visible(False)
    for axes, function in zip(panels, functions, strict=False):
        rows = sorted((row for row in report.rows if row.function == function), key=lambda row: row.workers)
        workers = [row.workers for row in rows]
        axes.plot(workers, [row.seconds for row in rows], "o-", color=COLOURS[0], label="Dask")
        axes.plot(
            workers, [row.plain_seconds for row in rows], "o--", color=COLOURS[1], label="one process, as many threads"
        )
        axes.set_ylim(bottom=0)
        axes.set_xticks(workers)
        axes.grid(color="#e5e7eb")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("workers", fontsize=8.5)
        axes.set_title(f"{function}, seconds", fontsize=8)
    given, about = report.input, report.machine
    figure.suptitle(
        f"{given['rows']} x {given['classes']} {given['dtype']}, {counted(about['cores'], 'core')}, {about['cpu']}",
        fontsize=10,
    )
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
