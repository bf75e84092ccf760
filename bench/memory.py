"""The extra memory of each job on a matrix of 512 MiB, as a Markdown table: python -m bench.memory"""

import argparse
from pathlib import Path

import fastce
from bench.jobs import ENGINES, contrastive, losses
from bench.report import write_between_markers
from bench.tiny import IS_TINY
from fastce.profile.jobs import Job
from fastce.profile.problem import Problem
from fastce.profile.work import called

ROWS = 33 if IS_TINY else 11585  # 11585 x 11585 float32 are 512 MiB
MIB = 1 << 20
MARKERS = ("<!-- memory:start -->\n", "<!-- memory:end -->")


def extra_mebibytes(engine: str, job: Job, problem: Problem) -> str:
    """How far resident memory rises during a call that is not the first."""
    if not ENGINES[engine].is_installed:
        return "not installed"
    if not ENGINES[engine].has(job):
        return ""
    *_, nbytes = called(ENGINES[engine].prepare(job, problem))
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
