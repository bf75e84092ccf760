"""What `fastce profile --from-features` has found, as text and as a picture."""

from pathlib import Path

from fastce.profile.features import FeaturesReport, FeaturesRow
from fastce.profile.text import MIB, duration, machine_line, memory, number, table, wrapped

HEADER = ("batch", "engine", "time", "GFLOP/s", "x products", "extra memory", "differs by")


def heading(report: FeaturesReport) -> str:
    """The machine and the input, before anything is measured."""
    given = report.input
    pairs = f"pairs of {given['width']} {given['dtype']}, batches up to {given['batch']}; {given['origin']}"
    return f"{machine_line(report.machine)}\n{wrapped('input    ' + pairs, indent=9)}"


def tables(report: FeaturesReport) -> str:
    """What was measured."""
    lines = [
        "clip_loss_from_features_value_and_grad beside the dense way, with the matrix of all products.",
        "Time: the fastest of the rounds. x products: over the time that NumPy's matrix products take alone, 8 N N D "
        "operations, of tiles as large as fastce's. Extra memory: how far resident memory rose during a call, the "
        f"gradients included. The dense ways may use {report.input['memory_limit'] / 2**30:.3g} GiB. Differs by: the "
        "largest difference of a gradient from fastce's, relative to its largest element.",
    ]
    text = "\n".join(wrapped(line, indent=2) for line in lines + report.notes)
    return f"{table([HEADER, *map(_cells, report.rows)])}\n\n{text}"


def _cells(row: FeaturesRow) -> tuple[str, ...]:
    return (
        f"{row.batch:,}",
        row.engine,
        duration(row.seconds),
        f"{row.gflop_per_s:.0f}",
        number(row.times_floor),
        memory(row.extra_bytes),
        "" if row.difference is None else f"{row.difference:.1e}",
    )


def save_figure(report: FeaturesReport, path: Path) -> None:
    """Draw memory and time against the size of the batch; needs matplotlib, imported here when it is asked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    memory, time = figure.subplots(1, 2)
    for engine in dict.fromkeys(row.engine for row in report.rows):
        rows = [row for row in report.rows if row.engine == engine]
        label = engine if engine == "fastce" else f"{engine}, dense"
        measured = [row for row in rows if row.extra_bytes]
        memory.plot(
            [row.batch for row in measured], [row.extra_bytes / MIB for row in measured if row.extra_bytes], "o-",
            label=label,
        )  # fmt: skip
        time.plot([row.batch for row in rows], [row.seconds for row in rows], "o-")
    for axes, title in ((memory, "extra memory, MiB"), (time, "time, seconds")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.set_xlabel("batch")
        axes.set_title(title, fontsize=10)
    given, about = report.input, report.machine
    figure.suptitle(
        f"CLIP's loss and all gradients from features, width {given['width']}, {given['dtype']}, "
        f"{about['threads']} threads, {about['cpu']}",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=150)
