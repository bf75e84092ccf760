"""What holds a job back, memory or arithmetic: python -m bench.limits FILE

On one thread, for 64 bytes of logits: what the machine takes merely to move the job's bytes (its floor), what the job
takes where all of them are in the second-level cache, and what it takes. A job that takes the larger of the two does
both at once; one that takes their sum does one after the other. In the cache, the growth from half of the rows to all
of them is measured: what a call costs is left out.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from bench.jobs import ENGINES, JOBS
from bench.tiny import IS_TINY
from fastce.profile.floor import floor_of
from fastce.profile.machine import machine
from fastce.profile.measure import Turn, seconds, times_in_turns
from fastce.profile.problem import Problem, as_dtype

MARKERS = ("<!-- limits:start -->\n", "<!-- limits:end -->")
LINE = 64  # bytes
CACHED = 1 << 18  # bytes of logits, with room for gradients
SHAPES = ((8192, 8192), (1_000_000, 10), (200_000, 100), (8, 21, 512, 512))
FUNCTIONS = ("logsumexp", "cross_entropy", "cross_entropy_value_and_grad")
ROUNDS, ROUNDS_IN_CACHE = (1, 3) if IS_TINY else (7, 60)
SHORTEST = 1e-3  # seconds that are timed together
ROWS_ACROSS = 64  # along axis 0, where it is classes that are left out


def jobs():
    """Those of the record with one class a row, gradients in a given array."""
    found = [job for job in JOBS if job.function in FUNCTIONS and job.targets == "classes"]
    found = [job for job in found if not job.weighted and job.place != "in place"]
    return found[:2] if IS_TINY else [job for job in found if job.shape in SHAPES]


def with_elements(job, elements):
    """The job on so few of its rows that its logits have about so many elements."""
    if job.axis == 0:
        return replace(job, shape=(elements // ROWS_ACROSS, ROWS_ACROSS))
    classes, *rest = job.shape[1:]
    if not rest:
        return replace(job, shape=(max(1, elements // classes), classes))
    return replace(job, shape=(1, classes, max(1, elements // (classes * rest[-1])), rest[-1]))


def calls_of(job):
    """(the job, its floor), each to be called, and how many lines of logits there are."""
    problem = Problem(job.shape, job.dtype, job.axis, 1)
    call = ENGINES["fastce"].prepare(job, problem).call
    call()
    return call, floor_of(job, problem), problem.logits.nbytes / LINE


def least(calls, rounds):
    """The least time of each in some rounds."""
    turns = [Turn(call, rounds, repeats=max(1, round(SHORTEST / seconds(call)))) for call in calls]
    return [min(times) for times in times_in_turns(turns)[0]]


def measured(job):
    """Seconds for a line of logits, by name."""
    call, floor, lines = calls_of(job)
    took, of_floor = least([call, floor], ROUNDS)
    elements = CACHED // as_dtype(job.dtype).itemsize
    (some, _, few), (all_of_them, _, many) = (calls_of(with_elements(job, n)) for n in (elements // 2, elements))
    short, long = least([some, all_of_them], ROUNDS_IN_CACHE)
    return {"floor": of_floor / lines, "cache": (long - short) / (many - few), "call": took / lines}


def text(record):
    """The record as the table of bench/README.md."""
    lines = [
        "| logits | job | floor, ns | in the cache, ns | the larger | their sum | the job, ns | over the larger |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in record["found"]:
        floor, cache, call = (1e9 * entry["seconds"][name] for name in ("floor", "cache", "call"))
        cells = [f"{ns:.2f}" for ns in (floor, cache, max(floor, cache), floor + cache, call)]
        lines.append(f"| {entry['problem']} | {entry['job']} | {' | '.join(cells)} | {call / max(floor, cache):.2f} |")
    return "\n".join([*lines, "", f"On {record['machine']['cpu']}, one thread, for 64 bytes of logits."])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    options = parser.parse_args(argv)
    found = [{"problem": job.problem, "job": job.name, "seconds": measured(job)} for job in jobs()]
    record = {"machine": machine(1), "found": found}
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(text(record))


if __name__ == "__main__":
    main()
