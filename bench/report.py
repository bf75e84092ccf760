"""A benchmark JSON as the table and the figure of the README.

pytest bench --benchmark-enable --benchmark-only --benchmark-json bench.json
python bench/report.py bench.json --figure bench.png
"""

import argparse
import json
import sys
from pathlib import Path

ENGINES = ("fastce", "torch.compile", "jax", "torch", "sklearn", "numpy/scipy")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def read_cases(path):
    """What the table needs of each benchmark, in the order of the file."""
    with open(path) as file:
        content = json.load(file)
    cases = []
    for benchmark in content["benchmarks"]:
        info = benchmark["extra_info"]
        block = info["rows"] / info["block_rows"] if info["block_rows"] else 1
        cases.append({**info, "seconds": benchmark["stats"]["min"] * block, "is_block": block != 1})
    return content, cases


def problem_of(case):
    return case["rows"], case["classes"], case["dtype"]


def problem_name(problem):
    rows, classes, dtype = problem
    return f"{rows:,} x {classes:,} {dtype}"


def markdown(cases):
    """Jobs by problems; the time of fastce, and the multiple of the floor for every engine."""
    engines = [engine for engine in ENGINES if any(case["engine"] == engine for case in cases)]
    lines = [
        "| logits | job | fastce, ms | GB/s | " + " | ".join(engines) + " |",
        "|---|---|--:|--:|" + "--:|" * len(engines),
    ]
    for (problem, job), row in _table(cases).items():
        own = row.get("fastce")
        time = "" if own is None else f"{1e3 * own['seconds']:.3g}"
        rate = "" if own is None else f"{own['gb_per_s']:.1f}"
        multiples = [_multiple(row.get(engine)) for engine in engines]
        lines.append(f"| {problem_name(problem)} | {job} | {time} | {rate} | {' | '.join(multiples)} |")
    return "\n".join(lines)


def footnote(content, cases):
    """What the figures depend on, and what the marks mean."""
    cpu = content["machine_info"].get("cpu", {})
    threads = sorted({case["n_threads"] for case in cases})
    name, cores = cpu.get("brand_raw", "an unknown CPU"), cpu.get("count", "?")
    lines = [
        "Columns of engines: time as a multiple of the floor, the median over the rounds; ms is the fastest. "
        f"Measured on {name}, {cores} cores, {'/'.join(map(str, threads))} threads."
    ]
    notes = sorted({f"{case['engine']}: {case['note']}" for case in cases if case["note"]})
    if any(case["is_block"] for case in cases):
        notes.append("~: measured on a block of rows, where the whole matrix takes too long")
    return "\n".join([*lines, *(f"{note}." for note in notes)])


def draw(cases, path):
    """One panel for each problem, one group of bars for each job."""
    from matplotlib.figure import Figure

    table = _table(cases)
    panels = {}
    for key in table:
        panels.setdefault(key[0], []).append(key)
    heights = [1 + len(keys) for keys in panels.values()]
    figure = Figure(figsize=(9, 0.55 * sum(heights) + 1), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    engines = [engine for engine in ENGINES if any(case["engine"] == engine for case in cases)]
    thickness = 0.85 / len(engines)
    for axes, (problem, keys) in zip(all_axes, panels.items(), strict=True):
        for number, engine in enumerate(engines):
            found = [(place, table[key][engine]) for place, key in enumerate(keys) if engine in table[key]]
            places = [place + number * thickness for place, _ in found]
            multiples = [case["times_floor"] for _, case in found]
            bars = axes.barh(places, multiples, thickness, label=engine, color=f"C{number}")
            axes.bar_label(bars, [f"{multiple:.2f}" for multiple in multiples], padding=2, fontsize=6)
        axes.set_yticks([place + 0.85 / 2 - thickness / 2 for place in range(len(keys))])
        axes.set_yticklabels([job for _, job in keys], fontsize=8)
        axes.set_title(problem_name(problem), fontsize=9)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(left=0.8)
        axes.margins(x=0.1)
        axes.set_ylim(len(keys) - 0.05, -thickness)  # the first job on top, room for every engine
    figure.legend(*_legend(all_axes), loc="outside upper center", ncols=len(engines), fontsize=8)
    all_axes[-1].set_xlabel("time, as a multiple of what the machine needs to move the same bytes")
    figure.savefig(path, dpi=150)


def _legend(all_axes):
    """One entry for each engine, whichever panel it is in."""
    entries = {}
    for axes in all_axes:
        entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(entries.values()), list(entries)


def _table(cases):
    """(problem, job) -> {engine: case}, sorted by dtype and otherwise as in the file."""
    table = {}
    for case in sorted(cases, key=lambda case: DTYPES.index(case["dtype"])):
        table.setdefault((problem_of(case), case["job"]), {})[case["engine"]] = case
    return table


def _multiple(case):
    if case is None:
        return ""
    return f"{'~' if case['is_block'] else ''}{case['times_floor']:.2f}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written by pytest --benchmark-json")
    parser.add_argument("--figure", type=Path, help="draw the multiples of the floor (needs matplotlib)")
    options = parser.parse_args(argv)
    content, cases = read_cases(options.json)
    if not cases:
        sys.exit(f"{options.json} holds no benchmarks")
    print(f"{markdown(cases)}\n\n{footnote(content, cases)}")
    if options.figure:
        draw(cases, options.figure)


if __name__ == "__main__":
    main()
