"""The options of `fastce profile` that concern Dask: what goes together, and what is missing."""

import argparse
from functools import partial
from importlib.util import find_spec

from fastce.profile.on_dask.problem import DEFAULT_FUNCTIONS, FUNCTIONS, STRIPES, DaskProblem
from fastce.profile.outputs import progress_line, write
from fastce.profile.problem import InputError
from fastce.profile.text import as_json

ROWS = 4096
_OF_OTHERS = ("input", "targets", "compare", "from_features", "memory_limit", "threads")
_DTYPES = ("float32", "float64")


def is_asked_for(options: argparse.Namespace) -> bool:
    """Whether functions are to be computed on Dask."""
    if options.dask or options.scheduler:
        return True
    for option in ("stripes", "dashboard"):
        if getattr(options, option):
            raise InputError(f"--{option} goes with --dask")
    return False


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for, and print it."""
    _check(options)
    functions = _functions(options)
    missing = [name for name in ("dask", "distributed", "threadpoolctl") if find_spec(name) is None]
    if missing:
        raise InputError(f'{_asked(options)} needs {", ".join(missing)}: pip install "fastce[dask]"')
    if options.dashboard and find_spec("bokeh") is None:
        raise InputError("--dashboard needs bokeh: pip install bokeh")
    from fastce.profile.on_dask import clusters, report
    from fastce.profile.on_dask.run import new_report, profile

    if options.scheduler:
        chosen = [partial(clusters.running, options.scheduler)]
        with chosen[0]() as client:
            threads = sum(client.nthreads().values())
    else:
        chosen = [partial(clusters.local, number, options.dashboard) for number in options.dask]
        threads = max(options.dask)
    problem = _problem(options, threads)
    found, progress = new_report(problem, options.repeat), progress_line()
    print(report.heading(found), flush=True)
    profile(chosen, problem, found, functions=functions, progress=progress)
    progress("")
    print(f"\n{report.tables(found)}", flush=True)
    write(options, as_json(found), partial(report.save_figure, found))


def _problem(options: argparse.Namespace, threads: int) -> DaskProblem:
    rows = options.batch or ROWS
    stripes = min(options.stripes or STRIPES * threads, rows)
    return DaskProblem(rows, options.classes or rows, options.dtype or "float32", stripes, options.label_smoothing)


def _functions(options: argparse.Namespace) -> list[str]:
    """Those that were asked for, each once."""
    for function in options.op or ():
        if function not in FUNCTIONS:
            raise InputError(f"--op {function} does not go with {_asked(options)}; {', '.join(FUNCTIONS)} do")
    return [function for function in FUNCTIONS if function in (options.op or DEFAULT_FUNCTIONS)]


def _check(options: argparse.Namespace) -> None:
    """Whether all options go together."""
    if options.dask and options.scheduler:
        raise InputError("--dask starts workers and does not go with --scheduler, which uses those that run")
    if options.scheduler and options.dashboard:
        raise InputError("--dashboard goes with --dask: a scheduler that runs has its own")
    for option in _OF_OTHERS:
        if getattr(options, option):
            raise InputError(f"--{option.replace('_', '-')} does not go with {_asked(options)}")
    if options.dtype not in (None, *_DTYPES):
        raise InputError(f"--dtype {options.dtype} does not go with {_asked(options)}; {' and '.join(_DTYPES)} do")


def _asked(options: argparse.Namespace) -> str:
    return "--scheduler" if options.scheduler else "--dask"
