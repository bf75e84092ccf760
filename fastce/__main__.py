"""The command line: `fastce profile` and `fastce info`, also as `python -m fastce`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import fastce
from fastce.configuration import configuration
from fastce.profile import command, inputs
from fastce.profile.features_problem import DEFAULT, FEATURE_FUNCTIONS
from fastce.profile.jobs import DEFAULT_FUNCTIONS, FUNCTIONS
from fastce.profile.on_dask.problem import DEFAULT_FUNCTIONS as DEFAULT_ON_DASK
from fastce.profile.on_dask.problem import FUNCTIONS as ON_DASK
from fastce.profile.on_dask.problem import STRIPES
from fastce.profile.peers import PEERS
from fastce.profile.problem import InputError


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
    except InputError as error:
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
    info.add_argument("--json", action="store_true", help="print them as JSON")
    info.set_defaults(run=_info)
    profile = commands.add_parser(
        "profile",
        help="time, memory and errors of the functions on your machine, beside other libraries",
        description="Measure time, memory and errors of the functions on a matrix, beside other libraries; by default "
        "on similarities of real pairs.",
        epilog=f"Functions F of a matrix: {', '.join(FUNCTIONS)}. From features: {', '.join(FEATURE_FUNCTIONS)}. "
        f"Without --op: {', '.join(DEFAULT_FUNCTIONS)}, or {DEFAULT} with --from-features. "
        f"On Dask: {', '.join(ON_DASK)}; without --op: {', '.join(DEFAULT_ON_DASK)}.",
    )
    _add_profile_options(profile)
    profile.set_defaults(run=command.run)
    return parser


def _add_profile_options(parser: argparse.ArgumentParser) -> None:
    def add(option: str, text: str, **settings: Any) -> None:
        parser.add_argument(option, help=text, **settings)

    functions = (*FUNCTIONS, *FEATURE_FUNCTIONS)
    peers = f"other libraries beside it: {', '.join(PEERS)}, or none (default scipy)"
    limit = f"what the dense ways may use beside losses from features (default {command.MEMORY_LIMIT:g})"
    add("--batch", f"rows of the matrix, or the largest batch (default {command.BATCH})", type=_positive, metavar="N")
    add("--classes", "columns of the matrix (default: as many as rows)", type=_positive, metavar="C")
    add("--dtype", "of the matrix (default float32, or that of --input)", choices=inputs.DTYPES)
    add("--op", "these functions (below)", action="extend", type=_names(functions), metavar="F[,F]")
    add("--compare", peers, action="extend", type=_names((*PEERS, "none")), metavar="P[,P]")
    add("--input", "a .npy of a matrix, or a .npz of two arrays of features", type=Path, metavar="FILE")
    add("--targets", "the class of each row (default: the diagonal)", type=Path, metavar="FILE.npy")
    add("--label-smoothing", "default 0.1", type=_fraction, default=0.1, metavar="E")
    add("--from-features", "losses from features, for batches up to N", action="store_true")
    add("--memory-limit", limit, type=_positive_number, metavar="GIB")
    add("--dask", "on N Dask workers of one thread, beside one process", type=_positives, metavar="N[,N]")
    add("--scheduler", "the same on a cluster that runs, by its scheduler", metavar="ADDRESS")
    add("--stripes", f"chunks of rows on Dask (default {STRIPES} for each worker)", type=_positive, metavar="S")
    add("--dashboard", "with --dask: serve its dashboard (needs bokeh)", action="store_true")
    add("--threads", "default: as fastce chooses", type=_positive, metavar="T")
    add("--repeat", "rounds; the median counts (default 5)", type=_positive, default=5, metavar="R")
    add("--json", "write all figures to a file", type=Path, metavar="FILE")
    add("--plot", "draw multiples of the floor, or time by workers (needs matplotlib)", type=Path, metavar="FILE.png")


def _info(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(configuration(), indent=2))
    else:
        fastce.show_config()


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return number


def _positives(text: str) -> list[int]:
    return list(dict.fromkeys(_positive(number.strip()) for number in text.split(",")))


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
