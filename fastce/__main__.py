"""The command line: `fastce profile` and `fastce info`, also as `python -m fastce`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import fastce
from fastce.profile import features, features_report, figure, inputs, report
from fastce.profile.jobs import FUNCTIONS
from fastce.profile.pairs import LOGIT_SCALE
from fastce.profile.peers import PEERS
from fastce.profile.problem import Problem
from fastce.profile.run import new_report, profile

BATCH = 8192
MEMORY_LIMIT = 4.0  # GiB
_CLEAR_LINE = "\r\x1b[K"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Returns
    -------
    int
        The exit status: 0, 2 for wrong options or files, 130 after Ctrl-C.
    """
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 2
    except inputs.InputError as error:
        print(f"{parser.prog} {options.command}: error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"{parser.prog} {options.command}: error: not enough memory", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastce", description="Fast losses for NumPy: what they cost on this machine.")
    parser.add_argument("--version", action="version", version=f"fastce {fastce.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    info = commands.add_parser("info", help="versions, processor, threads and cache folder")
    info.set_defaults(run=lambda options: fastce.show_config())
    command = commands.add_parser(
        "profile",
        help="time, memory and error of the losses beside what the machine needs to move the same bytes",
        description="Measure the losses on a matrix of logits; by default similarities of real pairs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="functions: " + ", ".join(FUNCTIONS),
    )
    _add_profile_options(command)
    command.set_defaults(run=_profile)
    return parser


def _add_profile_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--batch", type=_positive, metavar="N", help=f"rows of the matrix, or the largest batch (default {BATCH})")
    add("--from-features", action="store_true", help="CLIP's loss from features, for batches up to N")
    add(
        "--memory-limit",
        type=_positive_number,
        metavar="GIB",
        help=f"what the dense way may use beside --from-features (default {MEMORY_LIMIT:g})",
    )
    add("--classes", type=_positive, metavar="C", help="columns of the matrix (default: as many as rows)")
    add("--dtype", choices=inputs.DTYPES, help="of the matrix (default float32, or that of --input)")
    add("--op", action="extend", type=_names(FUNCTIONS), metavar="F[,F]", help="only these functions")
    add("--threads", type=_positive, metavar="T", help="default: as fastce chooses")
    add("--input", type=Path, metavar="FILE", help="a similarity .npy, or a .npz of two arrays of features")
    add("--targets", type=Path, metavar="FILE.npy", help="the class of each row (default: the diagonal)")
    add("--label-smoothing", type=_fraction, default=0.1, metavar="E", help="default 0.1")
    add(
        "--compare",
        action="extend",
        type=_names((*PEERS, "none")),
        metavar="P[,P]",
        help=f"other libraries beside it: {', '.join(PEERS)}, or none (default scipy)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures to a file")
    add("--plot", type=Path, metavar="FILE.png", help="draw the multiples of the floor (needs matplotlib)")
    add("--repeat", type=_positive, default=5, metavar="R", help="rounds; the fastest counts (default 5)")


def _profile(options: argparse.Namespace) -> None:
    _check_outputs(options)
    if options.from_features:
        _profile_features(options)
        return
    if options.memory_limit:
        raise inputs.InputError("--memory-limit goes with --from-features")
    problem = _problem(options)
    found, progress = new_report(problem, options.repeat), _progress()
    print(report.heading(found), flush=True)
    profile(
        problem,
        found,
        functions=options.op or FUNCTIONS,
        peers=_peers(options),
        progress=progress,
    )
    progress("")
    print(f"\n{report.tables(found)}", flush=True)
    _write(options, report.as_json(found), partial(figure.save_figure, found))


def _profile_features(options: argparse.Namespace) -> None:
    for option in ("classes", "op", "targets"):
        if getattr(options, option):
            raise inputs.InputError(f"--{option} does not go with --from-features")
    if options.dtype in ("float16", "bfloat16"):
        raise inputs.InputError("--from-features takes float32 and float64: NumPy multiplies half precision slowly")
    dense = {"scipy": "numpy", "torch": "torch"}
    peers = _peers(options)
    if unknown := [peer for peer in peers if peer not in dense]:
        raise inputs.InputError(f"--compare {unknown[0]} does not go with --from-features; scipy, torch and none do")
    if options.input:
        image, text, origin = inputs.features_from_file(options.input, options.dtype)
        image, text = image[: options.batch], text[: options.batch]
    else:
        image, text, origin = inputs.features_from_pairs(options.batch or BATCH, options.dtype or "float32")
    problem = features.FeaturesProblem(
        image,
        text,
        LOGIT_SCALE,
        options.label_smoothing,
        int((options.memory_limit or MEMORY_LIMIT) * 2**30),
        options.threads or fastce.get_num_threads(),
        origin,
    )
    found, progress = features.new_report(problem, options.repeat), _progress()
    print(features_report.heading(found), flush=True)
    features.profile(problem, found, peers=[dense[peer] for peer in peers], progress=progress)
    progress("")
    print(f"\n{features_report.tables(found)}", flush=True)
    _write(options, report.as_json(found), partial(features_report.save_figure, found))


def _peers(options: argparse.Namespace) -> list[str]:
    return [peer for peer in dict.fromkeys(options.compare or ("scipy",)) if peer != "none"]


def _write(options: argparse.Namespace, text: str, draw: Callable[[Path], None]) -> None:
    """The figures into the files that were asked for."""
    try:
        if options.json:
            options.json.write_text(text)
        if options.plot:
            draw(options.plot)
    except OSError as error:
        raise inputs.InputError(f"{error.filename} cannot be written: {error.strerror}") from None


def _problem(options: argparse.Namespace) -> Problem:
    """What is to be profiled."""
    if options.input:
        if options.batch or options.classes:
            raise inputs.InputError("--batch and --classes are for the shipped pairs and do not go with --input")
        similarity, targets, origin = inputs.from_file(options.input, options.dtype)
    else:
        rows = options.batch or BATCH
        similarity, targets, origin = inputs.from_pairs(rows, options.classes or rows, options.dtype or "float32")
    if options.targets:
        targets = inputs.targets_from_file(options.targets, *similarity.shape)
    rows, classes = similarity.shape
    if rows != classes and options.op and all(name.startswith("clip_loss") for name in options.op):
        raise inputs.InputError(f"clip_loss needs a square matrix, not {rows} x {classes}")
    threads = options.threads or fastce.get_num_threads()
    return Problem(similarity, targets, options.label_smoothing, threads, origin)


def _check_outputs(options: argparse.Namespace) -> None:
    """Find out before the measurements, not after them, whether their results can be written."""
    for option, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise inputs.InputError(f"{option} {path}: {'a folder' if path.is_dir() else 'no such folder'}")
    if options.plot and options.plot.suffix.lower() not in figure.FORMATS:
        raise inputs.InputError(f"--plot {options.plot} must end in one of {', '.join(figure.FORMATS)}")
    if options.plot and not figure.can_draw():
        raise inputs.InputError("--plot needs matplotlib: pip install matplotlib")


def _progress() -> Callable[[str], None]:
    """Write what is being done over one line of a terminal; nowhere else."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"{_CLEAR_LINE}{text}", end="", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return number


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return number


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text!r}")
    return number


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of names separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
