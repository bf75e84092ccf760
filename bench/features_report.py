"""The JSON of bench_from_features.py as a table, see bench/README.md: python -m bench.features_report features.json"""

import argparse
import sys
from pathlib import Path

from bench.report import read_cases, table_of, versions_line, write_between_markers

MARKERS = ("<!-- features:start -->\n", "<!-- features:end -->")
MIB = 1 << 20
PEERS = ("torch", "torch chunked")


def markdown(cases):
    """Jobs by what was measured of them."""
    lines = [
        "| function | matrix that never exists | fastce, s | GFLOP/s | x products | extra memory, MiB | error | "
        "PyTorch dense, s | MiB | chunked, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (problem, job), row in table_of(cases).items():
        if "fastce" not in row:
            continue
        case, dense, chunked = row["fastce"], *(row.get(peer) for peer in PEERS)
        cells = [
            job,
            problem,
            f"{case['seconds']:.3g}",
            f"{case['operations'] / case['seconds'] / 1e9:.0f}",
            f"{case['times_floor']:.2f}",
            _mebibytes(case),
            f"{case['error']:.0e}" if "error" in case else "",
            f"{dense['seconds']:.3g}" if dense else "",
            _mebibytes(dense) if dense else "",
            f"{chunked['seconds']:.3g}" if chunked else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mebibytes(case):
    return "" if case["extra_bytes"] is None else f"{case['extra_bytes'] / MIB:,.0f}"


def footnote(machine_info):
    """What the figures mean and depend on."""
    return (
        "x products: over NumPy's matrix products of the same tiles alone, all of them; tiles that are kept save some. "
        "Extra memory: beyond the inputs, gradients included, with a budget of 256 MiB unless another is named. Error: "
        "the largest of a gradient, relative to its largest element (or of the value), against float64 on 1,024 "
        "rows.\n" + versions_line(machine_info)
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written by pytest --benchmark-json")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args(argv)
    machine_info, cases = read_cases(options.json)
    if not cases:
        sys.exit(f"{options.json} holds no benchmarks")
    text = f"{markdown(cases)}\n\n{footnote(machine_info)}"
    print(text)
    if options.readme:
        write_between_markers(options.readme, text, MARKERS)


if __name__ == "__main__":
    main()
