"""The first figure of the README: a few jobs of the record, as a picture and, where pictures are not shown, as text.

Bars are times as multiples of fastce's, on axes that begin at 0. Both times were measured in turns with the job's
floor, and their multiples of it are what is divided: the machine's speed may have changed between them.
"""

from pathlib import Path
from statistics import median

from bench.pictures import COLOURS, multiple, name_of, new_figure, quiet, save
from bench.report import table_of, versions_line, write_between_markers

MARKERS = ("<!-- headline:start -->\n", "<!-- headline:end -->")
SQUARE = "8,192 x 8,192 float32"
JOBS = (  # of the record, and what they are to a reader
    (SQUARE, "logsumexp"),
    (SQUARE, "softmax"),
    (SQUARE, "cross_entropy"),
    (SQUARE, "cross_entropy_value_and_grad"),
    (SQUARE, "clip_loss_value_and_grad"),
    ("1,024 x 151,936 float32", "cross_entropy_value_and_grad"),
    ("1,000,000 x 10 float32", "cross_entropy_value_and_grad, no smoothing, each row"),
    ("1,024 x 1,024 float32", "cross_entropy"),
)
ENGINES = ("torch.compile", "jax", "torch", "numpy", "scipy")  # NumPy where SciPy has nothing
LINES = {"scipy": 4, "numpy": 4}  # in a panel; the others have their own
COLUMNS = 60  # of the longest bar of the text


def chosen(cases):
    """(problem, job, seconds of fastce, {engine: times as long as fastce}) of each job."""
    table = table_of(cases)
    for problem, job in JOBS:
        row = table.get((problem, job), {})
        if "fastce" not in row:
            continue
        own = row["fastce"]
        times = {name: row[name]["times_floor"] / own["times_floor"] for name in ENGINES if name in row}
        if "scipy" in times:
            del times["numpy"]
        yield problem, job.split(",")[0], own["seconds"], times


def draw(cases, path):
    """A panel for each job, a bar for each library."""
    found = list(chosen(cases))
    figure = new_figure(11, 0.9 + 2.2 * -(-len(found) // 4))
    panels = figure.subplots(-(-len(found) // 4), 4, squeeze=False, sharey=True).ravel()
    for panel in panels[len(found) :]:
        panel.set_visible(False)
    engines = ("fastce", *ENGINES)
    for axes, (problem, job, seconds, times) in zip(panels, found, strict=False):
        lengths = {"fastce": 1.0, **times}
        for number, engine in enumerate(engines):
            if engine in lengths:
                place, length = LINES.get(engine, number), lengths[engine]
                axes.barh(place, length, 0.72, color=COLOURS["scipy" if engine == "numpy" else engine])
                label = f" {1e3 * seconds:.3g} ms" if engine == "fastce" else f" {multiple(length)}x"
                label += f" ({name_of(engine)})" if engine in LINES else ""
                axes.text(length, place, label, va="center", fontsize=8, color="#111827")
        axes.axvline(1, color=COLOURS["fastce"], linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xlim(0, 1.45 * max(lengths.values()))
        axes.set_yticks(range(5), [*map(name_of, engines[:4]), "SciPy / NumPy"], fontsize=8)
        axes.set_title(f"{_title(job)}\n{problem}", fontsize=8.5, loc="left", color="#111827")
        axes.locator_params(axis="x", integer=True, nbins=5)
        quiet(axes)
    panels[0].invert_yaxis()  # of all
    figure.supxlabel("time, as a multiple of fastce's (whose milliseconds are given); less is better", fontsize=8.5)
    save(figure, path)


def _title(job):
    loss = job.removesuffix("_value_and_grad")
    return loss if loss == job else f"{loss} + gradient"


def as_text(cases):
    """The same as bars of letters: each block is as much time in all of them."""
    found = list(chosen(cases))
    longest = max(max(times.values(), default=1) for *_, times in found)
    unit = max(1.0, longest / COLUMNS)
    lines = []
    for problem, job, seconds, times in found:
        lines.append(f"{job}, {problem}")
        for engine, length in {"fastce": 1.0, **times}.items():
            bar = "#" * max(1, round(length / unit))
            value = f"1 = {1e3 * seconds:.3g} ms" if engine == "fastce" else multiple(length)
            lines.append(f"  {name_of(engine):14} {bar} {value}")
    scale = f"One # is {multiple(unit)} times fastce's time (rounded up to one)."
    return "\n".join(["```text", *lines, "", scale, "```"]) + "\n"


def caption(machine_info, cases):
    """What the bars are, how far they reach, and what was measured."""
    found = [times for *_, times in chosen(cases)]
    ranges = []
    for engine in ENGINES:
        own = [times[engine] for times in found if engine in times]
        if own:
            ranges.append(f"{name_of(engine)} {multiple(min(own))} to {multiple(max(own))} ({multiple(median(own))})")
    return (
        "Bars: time of a call, warm and compiled, as a multiple of fastce's, which is 1 (below it, fastce is slower), "
        f"on axes from 0. Least to most, and the median, of these jobs: {'; '.join(ranges)}.\n"
        f"{versions_line(machine_info)}"
    )


def write(machine_info, cases, readme: Path, picture: Path, text: Path):
    if not any(chosen(cases)):  # a trial on few numbers
        return
    draw(cases, picture)
    text.write_text(as_text(cases))
    write_between_markers(readme, caption(machine_info, cases), MARKERS)
