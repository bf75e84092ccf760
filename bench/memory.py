"""The extra memory of each job on a matrix of 512 MiB, as a Markdown table: python bench/memory.py"""

import argparse

from common import ENGINES, MAKERS, PEERS, is_installed, make_bench

from fastce.profile.run import check

ROWS = 11585  # 11585 x 11585 float32 are 512 MiB
MIB = 1 << 20


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"and columns (default {ROWS})")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: fastce; repeatable")
    options = parser.parse_args(argv)
    bench = make_bench(options.rows, options.rows, options.dtype)
    size = bench.problem.logits.nbytes / MIB
    print(f"Logits: {options.rows} x {options.rows} {options.dtype}, {size:.0f} MiB\n")
    print("| engine | job | extra memory, MiB |\n|---|---|--:|")
    for engine in options.engine or ["fastce"]:
        package = engine.split(".")[0]
        if package in PEERS and not is_installed(package):
            print(f"| {engine} | not installed | |")
            continue
        for job in MAKERS[engine](bench.problem):
            extra_bytes = check(job, bench.reference_of(job), 1).extra_bytes
            block = "" if job.problem is bench.problem else f" of a block of {job.problem.rows} rows"
            size = "?" if extra_bytes is None else f"{extra_bytes / MIB:.1f}"
            print(f"| {engine} | {job.name}{block} | {size} |", flush=True)


if __name__ == "__main__":
    main()
