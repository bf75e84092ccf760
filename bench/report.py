"""The JSON of a run as a table and a picture: python -m bench.report record.json --figure record.png"""

import argparse
import json
import sys
from pathlib import Path

from bench import record_picture

ENGINES = ("fastce", "torch.compile", "jax", "torch", "sklearn", "numpy", "scipy")
MARKERS = ("<!-- bench:start -->\n", "<!-- bench:end -->")


def read_cases(path):
    """What is known of the run, and of each benchmark, in the order of the file."""
    content = json.loads(path.read_text())
    return content["machine_info"], [benchmark["extra_info"] for benchmark in content["benchmarks"]]


def table_of(cases):
    """(problem, job) -> {engine: case}."""
    table = {}
    for case in cases:
        table.setdefault((case["problem"], case["job"]), {})[case["engine"]] = case
    return table


def engines_of(cases):
    return [engine for engine in ENGINES if any(case["engine"] == engine for case in cases)]


def markdown(cases):
    """Jobs by engines: the speed of the floor, the time of fastce, and each engine's multiple of the floor."""
    engines = engines_of(cases)
    lines = [
        "| logits | job | floor, GB/s | fastce, ms | " + " | ".join(engines) + " |",
        "|---|---|--:|--:|" + "--:|" * len(engines),
    ]
    for (problem, job), row in table_of(cases).items():
        case = row.get("fastce") or next(iter(row.values()))
        rate = case["floor_bytes"] / case["floor_seconds"] / 1e9
        own = f"{1e3 * row['fastce']['seconds']:.3g}" if "fastce" in row else ""
        multiples = [f"{row[engine]['times_floor']:.2f}" if engine in row else "" for engine in engines]
        lines.append(f"| {problem} | {job} | {rate:.1f} | {own} | {' | '.join(multiples)} |")
    return "\n".join(lines)


def footnote(machine_info, cases):
    """What the figures depend on."""
    notes = sorted({f"{case['engine']}: {case['note']}" for case in cases if case["note"]})
    lines = [
        "Columns of engines: time as a multiple of the floor, the median over the rounds. Empty: the engine has "
        "nothing for the job, or gets it wrong.",
        versions_line(machine_info),
        *(f"{note}." for note in notes),
    ]
    return "\n".join(lines)


def versions_line(machine_info):
    about = machine_info["fastce"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version != "unknown")
    return (
        f"Measured on {about['cpu']}, {about['vector_bits']}-bit vectors, {about['cores']} cores, "
        f"{about['threads']} threads; {versions}."
    )


def write_between_markers(path, text, markers=MARKERS):
    """Replace what the markers of a document enclose."""
    before, found, rest = path.read_text().partition(markers[0])
    _, found_end, after = rest.partition(markers[1])
    if not (found and found_end):
        sys.exit(f"{path} has no lines {' and '.join(marker.strip() for marker in markers)}")
    path.write_text(f"{before}{markers[0]}{text}\n{markers[1]}{after}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written by pytest --benchmark-json")
    parser.add_argument("--figure", type=Path, help="draw the multiples of the floor (needs matplotlib)")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args(argv)
    machine_info, cases = read_cases(options.json)
    if not cases:
        sys.exit(f"{options.json} holds no benchmarks")
    text = f"{markdown(cases)}\n\n{footnote(machine_info, cases)}"
    print(text)
    if options.figure:
        record_picture.draw(table_of(cases), engines_of(cases), options.figure)
    if options.readme:
        write_between_markers(options.readme, text)


if __name__ == "__main__":
    main()
