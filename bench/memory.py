"""The extra memory of each job on a matrix of 512 MiB, as a Markdown table: python -m bench.memory"""

import argparse
from pathlib import Path

import fastce
from bench.engines import ENGINES
from bench.jobs import Job, contrastive, losses
from bench.problem import Problem
from bench.report import write_between_markers
from bench.tiny import IS_TINY
from fastce.profile.measure import extra_memory

ROWS = 33 if IS_TINY else 11585  # 11585 x 11585 float32 are 512 MiB
MIB = 1 << 20
MARKERS = ("<!-- memory:start -->\n", "<!-- memory:end -->")


def extra_mebibytes(engine: str, job: Job, problem: Problem) -> str:
    """How far resident memory rises during a call that is not the first."""
    if not ENGINES[engine].is_installed:
        return "not installed"
    if not ENGINES[engine].has(job):
        return ""
    work = ENGINES[engine].prepare(job, problem)
    work.call()  # compiles, and touches what is kept from one call to the next
    if work.before is not None:
        work.before()
    nbytes, _ = extra_memory(work.call)
    return "?" if nbytes is None else f"{nbytes / MIB:.1f}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"and columns (default {ROWS})")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: fastce; repeatable")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args(argv)
    engines = options.engine or ["fastce"]
    problem = Problem((options.rows, options.rows), options.dtype, 1, fastce.get_num_threads())
    size = problem.logits.nbytes / MIB
    lines = [
        f"Extra memory in MiB. Logits: {options.rows} x {options.rows} {options.dtype}, {size:.0f} MiB\n",
        f"| job | {' | '.join(engines)} |\n|---|{'--:|' * len(engines)}",
    ]
    for job in [*losses(problem.shape, dtype=options.dtype), *contrastive(problem.shape, dtype=options.dtype)]:
        lines.append(f"| {job.name} | {' | '.join(extra_mebibytes(engine, job, problem) for engine in engines)} |")
    print("\n".join(lines))
    if options.readme:
        write_between_markers(options.readme, "\n".join(lines), MARKERS)


if __name__ == "__main__":
    main()
