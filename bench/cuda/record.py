"""The record of the CUDA target: every job of every engine, checked, then timed in turns with copies of its bytes.

python -m bench.cuda.record                       all jobs, into bench/results/cuda.json
python -m bench.cuda.record --add                 those that the file does not hold yet
python -m bench.cuda.record --quick               a minute
python -m bench.cuda.record --jobs 16384x32768+bfloat16 softmax
python -m bench.cuda.record --sweep               launch parameters of fastce's rows kernel
"""

import argparse
import json
import sys
import time
from pathlib import Path

from bench.cuda import report, sweep
from bench.cuda.engines import ENGINES
from bench.cuda.jobs import JOBS, QUICK_JOBS, chosen
from bench.cuda.machine import UnavailableError
from bench.cuda.worker import Request, Worker, engines_of

OUTPUT = Path(__file__).resolve().parent.parent / "results" / "cuda.json"
REPEATS, QUICK_REPEATS = 30, 20
NO_DEVICE = 2  # exit status


def main(argv=None):
    options = _options(argv)
    try:
        return _sweep(options) if options.sweep else _record(options)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return NO_DEVICE


def _options(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("--jobs", nargs="+", default=[], metavar="WORD", help="parts of ids; a+b: both")
    parser.add_argument("--engines", nargs="+", default=[], choices=ENGINES, metavar="NAME", help=", ".join(ENGINES))
    parser.add_argument("--list", action="store_true", help="print the ids of the jobs, and do nothing")
    parser.add_argument("--quick", action="store_true", help="four jobs, without engines that compile for seconds")
    parser.add_argument("--sweep", action="store_true", help="try launch parameters, into sweep.json")
    parser.add_argument("--kernels", action="store_true", help="time each kernel of fastce by itself as well")
    parser.add_argument("--add", action="store_true", help="keep what the output holds, and measure what it does not")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: bench/results/cuda.json")
    parser.add_argument("--repeats", type=int, help=f"of each engine (default {REPEATS}, or {QUICK_REPEATS})")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for a job, compilation included (150)")
    parser.add_argument("--minutes", type=float, default=9.0, help="no job is begun after these (9)")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (QUICK_REPEATS if options.quick or options.sweep else REPEATS)
    if options.quick and options.output == OUTPUT:
        options.output = OUTPUT.with_name("cuda_quick.json")
    return options


def _record(options):
    jobs = chosen(options.jobs, QUICK_JOBS if options.quick and not options.jobs else JOBS)
    if options.list or not jobs:
        print("\n".join(job.id for job in jobs) or "no job has such an id")
        return 0
    worker = Worker(options.limit)
    try:
        worker.start()
        _measure_all(worker, jobs, options)
    finally:
        worker.stop()
    return 0


def _measure_all(worker, jobs, options):
    record = {"machine": worker.machine, "cases": []}
    if options.add and options.output.exists():
        record["cases"] = json.loads(options.output.read_text())["cases"]
    known = {case["id"] for case in record["cases"]}
    jobs = [job for job in jobs if job.id not in known]
    began, left, engines = time.monotonic(), [], engines_of(options.engines, options.quick)
    for number, job in enumerate(jobs):
        if time.monotonic() - began > 60 * options.minutes:
            left = jobs[number:]
            break
        start = time.monotonic()
        case = worker.case_of(Request(job, engines, options.repeats, options.kernels))
        record["cases"].append(case)
        _write(options.output, record)
        for name, seconds in case.get("kernels", {}).items():
            print(f"    {1e3 * seconds:8.4f} ms  {name[:100]}")
        print(f"{_line(case)}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"\n{report.markdown(record['cases'])}\n\n{report.footnote(record['machine'], record['cases'])}")
    for line in report.failures(record["cases"]):
        print("failed:", line)
    for job in left:
        print("left for --add:", job.id)
    print(f"written: {options.output}")


def _line(case):
    """A case while the run goes on."""
    parts = [f"{name} {report.milliseconds(of['device']['median'])}" for name, of in case["floors"].items()]
    for name, of in case["engines"].items():
        share = f" ({100 * report.fraction(case, name):.0f}%)" if case["floors"] else ""
        parts.append(f"{name} {report.milliseconds(of['device']['median'])}{share}")
    parts += [f"{name} FAILED" for name in case["failures"]]
    return f"{case['id']}: ms: {', '.join(parts)}"


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _sweep(options):
    """Fractions of the copy's bandwidth, for each configuration and job."""
    jobs = chosen(options.jobs, sweep.SWEEP_JOBS)
    output = options.output.with_name("sweep.json")
    found, began = {}, time.monotonic()
    for config in sweep.CONFIGS:
        if time.monotonic() - began > 60 * options.minutes:
            print("left out for lack of time:", config.name)
            continue
        worker = Worker(options.limit, config)
        try:
            worker.start()
            found[config.name] = _fractions(worker, jobs, options)
        except UnavailableError as error:
            if not found:
                raise  # there is no GPU
            print(error)
            continue
        finally:
            worker.stop()
        print(f"{config.name}: {[round(value, 3) for value in found[config.name].values()]}", flush=True)
        _write(output, found)
    print(sweep.table(found))
    return 0


def _fractions(worker, jobs, options):
    fractions = {}
    for job in jobs:
        case = worker.case_of(Request(job, ["fastce"], options.repeats))
        if "fastce" in case["engines"]:
            fractions[job.id] = report.fraction(case, "fastce")
        for line in report.failures([case]):
            print("failed:", line, flush=True)
    return fractions


if __name__ == "__main__":
    sys.exit(main())
