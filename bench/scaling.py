"""How the cost grows with rows and with classes: python -m bench.scaling FILE; redraw.py draws the picture.

Shapes from a thousand to a thousand million elements, as far as memory goes: square ones, more and more rows of 1000
classes, and 1000 rows of more and more classes. In turns: the loss, the loss with its gradient, and their floors, on
one thread and on all.
"""

import argparse
import json
from math import isqrt
from pathlib import Path
from statistics import median

import numpy as np

import fastce
from bench.pictures import COLOURS, GREY, new_figure, quiet, save
from bench.tiny import IS_TINY
from fastce.profile.floor import floor_of
from fastce.profile.jobs import Job
from fastce.profile.machine import available_memory, machine
from fastce.profile.measure import Turn, seconds, times_in_turns
from fastce.profile.peers import ENGINES
from fastce.profile.problem import Problem

FIXED = 1000
SWEEPS = {
    "square": lambda size: (isqrt(size), isqrt(size)),
    f"rows of {FIXED} classes": lambda size: (size // FIXED, FIXED),
    f"{FIXED} rows": lambda size: (FIXED, size // FIXED),
}
FUNCTIONS = {"loss": "cross_entropy", "gradient": "cross_entropy_value_and_grad"}
LARGEST = 10**4 if IS_TINY else 10**9  # elements
SHORTEST = 1e-3  # seconds that are timed together
SECONDS = 0.5  # for each point of a line
ROUNDS = (3, 15)


def sizes(largest):
    """Two for each power of ten."""
    return [round(10 ** (tenth / 2)) for tenth in range(6, 19) if 10 ** (tenth / 2) <= 1.001 * largest]


def buffers(largest):
    """Logits of the largest size and as much room for gradients; smaller problems take their first part."""
    logits = np.empty(largest, np.float32)
    some = 4 * np.random.default_rng(0).standard_normal(min(largest, 1 << 22), np.float32)
    for start in range(0, largest, len(some)):
        logits[start : start + len(some)] = some[: largest - start]
    return logits, np.zeros(largest, np.float32)


def lines_of(shape, logits, out):
    """(what, engine, threads) -> what is timed, and the bytes of its floor."""
    lines = {}
    size = shape[0] * shape[1]
    for threads in sorted({1, fastce.get_num_threads()}):
        problem = Problem(shape, "float32", 1, threads)
        problem.logits, problem.out = (flat[:size].reshape(shape) for flat in (logits, out))
        for what, function in FUNCTIONS.items():
            job = Job(function, shape, place="out" if what == "gradient" else "")
            floor = floor_of(job, problem)
            lines[what, "fastce", threads] = ENGINES["fastce"].prepare(job, problem).call, floor.nbytes
            lines[what, "floor", threads] = floor, floor.nbytes
    return lines


def timed_in_turns(calls):
    """The median time of each call, which is repeated where it is short."""
    repeats, rounds = [], ROUNDS[1]
    for call in calls:
        call()
        took = seconds(call)
        repeats.append(max(1, round(SHORTEST / took)))
        rounds = max(ROUNDS[0], min(rounds, round(SECONDS / took)))
    turns = [Turn(call, rounds, repeats=number) for call, number in zip(calls, repeats, strict=True)]
    return [median(times) for times in times_in_turns(turns)[0]]


def measure(largest):
    """One point for each sweep, size and line."""
    logits, out = buffers(largest)
    points = []
    for sweep, shape_of in SWEEPS.items():
        for size in sizes(largest):
            shape = shape_of(size)
            lines = lines_of(shape, logits, out)
            times = timed_in_turns([call for call, _ in lines.values()])
            for ((what, engine, threads), (_, nbytes)), took in zip(lines.items(), times, strict=True):
                points.append(
                    {
                        "sweep": sweep,
                        "rows": shape[0],
                        "classes": shape[1],
                        "what": what,
                        "engine": engine,
                        "threads": threads,
                        "seconds": took,
                        "gb_per_s": nbytes / took / 1e9,
                    }
                )
            print(f"{sweep}: {shape[0]:,} x {shape[1]:,}", flush=True)
    return points


def draw(record, path):
    """Multiples of the floor against the size: a column for each sweep, a line for each number of threads."""
    found = {_key(point): point for point in record["points"]}
    all_threads = sorted({point["threads"] for point in record["points"]})
    figure = new_figure(11, 6)
    panels = figure.subplots(len(FUNCTIONS), len(SWEEPS), sharex=True, sharey="row", squeeze=False)
    for row, what in zip(panels, FUNCTIONS, strict=True):
        for axes, sweep in zip(row, SWEEPS, strict=True):
            for threads, colour in zip(all_threads, (GREY, COLOURS["fastce"]), strict=False):
                line = [point for point in record["points"] if _key(point)[:4] == (sweep, what, "fastce", threads)]
                elements = [point["rows"] * point["classes"] for point in line]
                floors = [found[sweep, what, "floor", threads, *_key(point)[4:]]["seconds"] for point in line]
                multiples = [point["seconds"] / floor for point, floor in zip(line, floors, strict=True)]
                label = f"{threads} thread{'s' if threads > 1 else ''}"
                axes.plot(elements, multiples, "-o", color=colour, markersize=3.5, linewidth=1.5, label=label)
            axes.axhline(1, color="black", linewidth=1)
            axes.set_title(f"{FUNCTIONS[what]}\n{sweep}", fontsize=9, loc="left")
            axes.set_xscale("log")
            quiet(axes, "y")
        row[0].set_ylim(bottom=0)
        row[0].set_ylabel("time over the floor (1)", fontsize=8.5)
    for axes in panels[-1]:
        axes.set_xlabel("elements of the logits", fontsize=8.5)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=9)
    about = record["machine"]
    figure.supxlabel(f"float32, label smoothing 0.1; {about['cpu']}, {about['cores']} cores", fontsize=8.5)
    save(figure, path)


def _key(point):
    return tuple(point[name] for name in ("sweep", "what", "engine", "threads", "rows", "classes"))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    parser.add_argument(
        "--memory", type=float, help="GiB that logits and gradient may take (default: half of what is free)"
    )
    options = parser.parse_args(argv)
    room = options.memory * 2**30 if options.memory else (available_memory() or 2**32) / 2
    largest = sizes(min(LARGEST, room / 8))[-1]  # four bytes for the logit, four for its gradient
    record = {"machine": machine(fastce.get_num_threads()), "points": measure(largest)}
    options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
