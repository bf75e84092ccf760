"""The plan past these machines, from bench/results/cluster.json: the model beside what was measured, then alone."""

from bench.cluster_model import GIBI, Call, Constants, best_grid, cost, grid_cost
from bench.pictures import COLOURS, GREY, new_figure, quiet, save

MARKERS = ("<!-- cluster:start -->\n", "<!-- cluster:end -->")
PICTURE = "![Time against workers, measured here and by the model](results/cluster.png)"
NETWORKS = {"10": 1.25e9, "100": 12.5e9}  # Gbit/s: bytes per second
WORKERS = tuple(2**k for k in range(11))
STRIPES = 4  # for each worker
BATCH, WIDTH = 1_000_000, 512
TOKENS, VOCABULARY, HIDDEN = 65_536, 1_000_000, 4_096
PRODUCTS = {"clip_loss_from_features": (1, 4), "linear_cross_entropy": (1, 3), "cross_entropy": (0, 0)}


def call_of(record, name, rows, columns, width, at="together") -> Call:
    """A call of these sizes, with what was measured of the function."""
    loss = name.removesuffix("_value_and_grad")
    fixed, per_stripe = record["tasks"][name]
    of_columns = record["bytes_per_column"] if loss == "clip_loss_from_features" else 0
    products = PRODUCTS[loss][name != loss]
    return Call(name, rows, columns, width, products, record[at][name], of_columns, fixed, per_stripe)


def constants_of(record, at="together", bytes_per_second=None) -> Constants:
    return Constants(
        record[at]["operations_per_second"],
        record[at]["seconds_per_added_byte"],
        bytes_per_second or record["bytes_per_second"],
        record["seconds_per_task"],
    )


def planned(record) -> list[Call]:
    """The calls that no machine here could do."""
    sizes = {"clip_loss_from_features": (BATCH, BATCH, WIDTH), "linear_cross_entropy": (TOKENS, VOCABULARY, HIDDEN)}
    return [
        call_of(record, name + ending, *of_call)
        for name, of_call in sizes.items()
        for ending in ("", "_value_and_grad")
    ]


def checked(record):
    """(measured row, seconds by the model) of each call that was measured."""
    cores = record["machine"]["cores"]
    for row in record["calls"]:
        workers, function = row["workers"], row["function"]
        at = "alone" if workers == 1 else "together"
        sizes = (record["rows"], record["rows"], record["width"])
        if function == "cross_entropy":
            sizes = (record["rows"], record["classes"], 0)
        call = call_of(record, function, *sizes, at)
        yield row, cost(call, constants_of(record, at), workers, record["stripes"], cores=cores).total


def text(record) -> str:
    """The section of bench/README.md."""
    parts = [
        PICTURE,
        _constants(record),
        _check(record),
        *(_plan(record, call) for call in planned(record)),
        _ways_out(record),
    ]
    return "\n\n".join(parts)


def _constants(record) -> str:
    about, versions = record["machine"], record["machine"]["versions"]
    alone, together = (record[at]["operations_per_second"] / 1e9 for at in ("alone", "together"))
    return (
        f"Constants, on {about['cpu']}, {about['cores']} cores, Dask {versions['distributed']}: a worker's thread "
        f"multiplies at {together:.0f} GFLOP/s while all cores are busy ({alone:.0f} alone), adds "
        f"{1e-9 / record['together']['seconds_per_added_byte']:.1f} GB/s to a sum, and needs, beside the products, "
        f"{_per_element(record, 'clip_loss_from_features')} and {_per_element(record, 'linear_cross_entropy')} for an "
        f"element, {1e9 * record['together']['cross_entropy']:.2f} ns for one of given logits; "
        f"the loopback carries {record['bytes_per_second'] / 1e9:.2f} GB/s from worker to worker; a task costs "
        f"{1e3 * record['seconds_per_task']:.2f} ms."
    )


def _per_element(record, name) -> str:
    value, both = (1e9 * record["together"][name + ending] for ending in ("", "_value_and_grad"))
    return f"{value:.2f} ns ({name}; with gradients {both:.2f})"


def _check(record) -> str:
    lines = [
        f"| {record['rows']:,} rows, width {record['width']} or {record['classes']:,} logits | workers | Dask, s | "
        "model, s | one process, as many threads, s | Dask over it |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row, predicted in checked(record):
        lines.append(
            f"| {row['function']} | {row['workers']} | {row['fastest']:.3g} | {predicted:.3g} | "
            f"{row['fastest_plain']:.3g} | {row['fastest'] / row['fastest_plain']:.2f} |"
        )
    return "\n".join(lines)


def _plan(record, call: Call) -> str:
    sizes = f"{call.rows:,} x {call.columns:,}, width {call.width:,}, float32"
    lines = [
        f"**{call.name}, {sizes}**: {call.operations:.2g} operations.",
        "",
        "| workers | held, GiB | received, GiB | computing | network, 10 Gbit/s | 100 Gbit/s | scheduler | "
        "total, 10 Gbit/s | 100 Gbit/s |",
        f"|--:|{'--:|' * 8}",
    ]
    for workers in WORKERS:
        slow, fast = (_cost(record, call, workers, network) for network in NETWORKS)
        lines.append(
            f"| {workers:,} | {slow.held_bytes / GIBI:.1f} | {slow.network_bytes / GIBI:.1f} "
            f"| {time(slow.computing)} | {time(slow.network)} | {time(fast.network)} | {time(slow.scheduler)} "
            f"| {time(slow.total)} | {time(fast.total)} |"
        )
    return "\n".join([*lines, "", _limits(record, call)])


def _cost(record, call, workers, network, **options):
    stripes = options.pop("stripes", STRIPES * workers)
    return cost(call, constants_of(record, bytes_per_second=NETWORKS[network]), workers, stripes, **options)


def _limits(record, call: Call) -> str:
    """From how many workers on something else than computing takes longest."""
    said = []
    for network in NETWORKS:
        limits = {workers: _cost(record, call, workers, network).limit for workers in WORKERS}
        other = [(workers, limit) for workers, limit in limits.items() if limit != "computing"]
        which = f"the {other[0][1]} does from {other[0][0]:,} workers on" if other else "computing always does"
        best = min(WORKERS, key=lambda workers: _cost(record, call, workers, network).total)
        said.append(f"at {network} Gbit/s {which}, and {best:,} workers are fastest")
    return f"What takes longest: {'; '.join(said)}."


def _ways_out(record) -> str:
    """What would change at 1,024 workers."""
    most = WORKERS[-1]
    lines = [
        f"| at {most:,} workers, 10 Gbit/s | held, GiB | received, GiB | computing | network | scheduler | total |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    constants = constants_of(record, bytes_per_second=NETWORKS["10"])
    for call in planned(record):
        if call.has_gradients:
            down, across = best_grid(call, most)
            ways = {
                f"as it is, {STRIPES} stripes for each worker": cost(call, constants, most, STRIPES * most),
                "one stripe for each worker": cost(call, constants, most, most),
                "and the right side in pieces that are passed on": cost(call, constants, most, most, is_spread=True),
                f"both sides cut, {down} x {across} parts": grid_cost(call, constants, most),
            }
            for way, found in ways.items():
                lines.append(
                    f"| {call.name}: {way} | {found.held_bytes / GIBI:.1f} | {found.network_bytes / GIBI:.1f} | "
                    f"{time(found.computing)} | {time(found.network)} | {time(found.scheduler)} | {time(found.total)} |"
                )
    return "\n".join(lines)


def time(seconds: float) -> str:
    """Three digits and a fitting unit."""
    for unit, factor in (("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.3g} s"


def draw(record, path) -> None:
    """The model beside what was measured, and the terms of what is planned against the workers."""
    figure = new_figure(11, 3.9)
    check, *panels = figure.subplots(1, 3)
    functions = dict.fromkeys(row["function"] for row in record["calls"])
    colours = dict(zip(functions, ("#d1495b", "#30638e", "#66a182"), strict=True))
    for row, predicted in checked(record):
        colour, workers = colours[row["function"]], row["workers"]
        check.plot(workers, row["fastest"], "o", color=colour)
        check.plot(workers, predicted, "_", color=colour, markersize=18, markeredgewidth=2)
    for function, colour in colours.items():
        check.plot([], [], "o", color=colour, label=function)
    check.plot([], [], "_", color=GREY, markersize=12, label="by the model")
    check.set_yscale("log")
    check.set_xticks(sorted({row["workers"] for row in record["calls"]}))
    check.set_xlim(0.5, 0.5 + max(row["workers"] for row in record["calls"]))
    check.set_title("measured here, seconds", fontsize=9, loc="left")
    check.set_ylim(top=20 * max(row["fastest"] for row in record["calls"]))  # room for the legend
    check.legend(fontsize=7, frameon=False, loc="upper left")
    for axes, call in zip(panels, (call for call in planned(record) if call.has_gradients), strict=True):
        slow, fast = ([_cost(record, call, workers, network) for workers in WORKERS] for network in NETWORKS)
        lines = {
            "total at 10 Gbit/s": ([found.total for found in slow], COLOURS["fastce"], "-"),
            "total at 100 Gbit/s": ([found.total for found in fast], COLOURS["fastce"], "--"),
            "computing": ([found.computing for found in slow], GREY, "-"),
            "network, 10 Gbit/s": ([found.network for found in slow], COLOURS["torch"], "-"),
            "network, 100 Gbit/s": ([found.network for found in fast], COLOURS["torch"], "--"),
            "scheduler": ([found.scheduler for found in slow], COLOURS["torch.compile"], "-"),
        }
        for label, (heights, colour, style) in lines.items():
            shown = [(workers, height) for workers, height in zip(WORKERS, heights, strict=True) if height > 0]
            axes.plot(*zip(*shown, strict=True), style, color=colour, label=label, linewidth=1.4)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{call.name}\n{call.rows:,} x {call.columns:,}, seconds", fontsize=8, loc="left")
    for axes in (check, *panels):
        quiet(axes, "y")
        axes.set_xlabel("workers", fontsize=8.5)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    save(figure, path)
