"""`fastce profile`: from the options to what is printed and written."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial

import fastce
from fastce.profile import features, features_report, figure, inputs, report
from fastce.profile.features_problem import DEFAULT as DEFAULT_FROM_FEATURES
from fastce.profile.features_problem import FEATURE_FUNCTIONS, FeaturesProblem
from fastce.profile.jobs import DEFAULT_FUNCTIONS, FUNCTIONS
from fastce.profile.machine import cores
from fastce.profile.on_dask import command as on_dask
from fastce.profile.outputs import check_outputs, progress_line, write
from fastce.profile.pairs import LOGIT_SCALE
from fastce.profile.peers import PACKAGES, is_installed
from fastce.profile.problem import GivenProblem, InputError
from fastce.profile.run import new_report, profile
from fastce.profile.text import as_json, counted

BATCH = 4096
MEMORY_LIMIT = 4.0  # GiB
DENSE = {"scipy": "numpy", "torch": "torch"}  # the ways beside a loss from features


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for, and print it."""
    check_outputs(options)
    if on_dask.is_asked_for(options):
        on_dask.run(options)
        return
    functions = _functions(options)
    starts_from_features = functions[0] in FEATURE_FUNCTIONS
    peers = _peers(options, DENSE if starts_from_features else PACKAGES)
    _warn_of_threads(options)
    if starts_from_features:
        _profile_features(options, functions, peers)
        return
    if options.memory_limit:
        raise InputError("--memory-limit goes with losses from features")
    problem = _problem(options)
    found, progress = new_report(problem, options.repeat, peers, options.label_smoothing), progress_line()
    print(report.heading(found), flush=True)
    profile(problem, found, functions=functions, peers=peers, progress=progress)
    progress("")
    print(f"\n{report.tables(found)}", flush=True)
    write(options, as_json(found), partial(figure.save_figure, found))


def _profile_features(options: argparse.Namespace, functions: Sequence[str], peers: Sequence[str]) -> None:
    for option in ("classes", "targets"):
        if getattr(options, option):
            raise InputError(f"--{option} does not go with losses from features")
    if options.dtype in ("float16", "bfloat16"):
        raise InputError(
            f"--dtype {options.dtype} does not go with losses from features; float32 and float64 do: NumPy multiplies "
            "half precision slowly"
        )
    if options.input:
        image, text, origin = inputs.features_from_file(options.input, options.dtype)
        image, text = image[: options.batch], text[: options.batch]
    else:
        image, text, origin = inputs.features_from_pairs(options.batch or BATCH, options.dtype or "float32")
    problem = FeaturesProblem(
        functions[0],
        image,
        text,
        LOGIT_SCALE,
        options.label_smoothing,
        options.threads or fastce.get_num_threads(),
    )
    dense = [DENSE[peer] for peer in peers]
    limit = int((options.memory_limit or MEMORY_LIMIT) * 2**30)
    found, progress = features.new_report(problem, options.repeat, dense, limit, origin), progress_line()
    print(features_report.heading(found), flush=True)
    features.profile(problem, found, functions=functions, peers=dense, progress=progress)
    progress("")
    print(f"\n{features_report.tables(found)}", flush=True)
    write(options, as_json(found), partial(features_report.save_figure, found))


def _peers(options: argparse.Namespace, possible: Iterable[str]) -> list[str]:
    """The libraries to compare with, all of them installed."""
    peers = [peer for peer in dict.fromkeys(options.compare or ("scipy",)) if peer != "none"]
    for peer in peers:
        if peer not in possible:
            raise InputError(
                f"--compare {peer} does not go with losses from features; {', '.join(possible)} and none do"
            )
        if not is_installed(peer):
            raise InputError(f"--compare {peer} needs {PACKAGES[peer]}: pip install {PACKAGES[peer]}")
    return peers


def _functions(options: argparse.Namespace) -> list[str]:
    """Those of a matrix, or those of features, each once."""
    if not options.op:
        return [DEFAULT_FROM_FEATURES] if options.from_features else list(DEFAULT_FUNCTIONS)
    of_matrix, of_features = (
        [function for function in known if function in options.op] for known in (FUNCTIONS, FEATURE_FUNCTIONS)
    )
    if of_matrix and (of_features or options.from_features):
        other = of_features[0] if of_features else "--from-features"
        raise InputError(f"--op {of_matrix[0]} starts from a matrix and does not go with {other}: run it alone")
    return of_matrix or of_features


def _warn_of_threads(options: argparse.Namespace) -> None:
    if options.threads and options.threads > cores():
        print(
            f"fastce profile: warning: --threads {options.threads} on {counted(cores(), 'core')}: threads that share a "
            "core make times longer and less even",
            file=sys.stderr,
        )


def _problem(options: argparse.Namespace) -> GivenProblem:
    """What is to be profiled."""
    if options.input:
        if options.batch or options.classes:
            raise InputError("--batch and --classes are for the shipped pairs and do not go with --input")
        similarity, targets, origin = inputs.from_file(options.input, options.dtype)
    else:
        rows = options.batch or BATCH
        similarity, targets, origin = inputs.from_pairs(rows, options.classes or rows, options.dtype or "float32")
    if options.targets:
        targets = inputs.targets_from_file(options.targets, *similarity.shape)
    rows, classes = similarity.shape
    if rows != classes and options.op and all(name.startswith("clip_loss") for name in options.op):
        raise InputError(f"clip_loss needs a square matrix, not {rows} x {classes}")
    threads = options.threads or fastce.get_num_threads()
    return GivenProblem(similarity, targets, threads, origin)
