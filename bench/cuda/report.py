"""The JSON of record.py as a table, see bench/README.md.

python -m bench.cuda.report bench/results/cuda.json --readme bench/README.md
"""

import argparse
import json
import sys
from pathlib import Path

from bench.report import write_between_markers

MARKERS = ("<!-- cuda:start -->\n", "<!-- cuda:end -->")
ENGINES = (
    "fastce", "fastce, CuPy arrays", "torch.compile", "torch.compile autotuned", "torch", "triton", "liger",
)  # fmt: skip


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def rate_of_copy(case):
    """Bytes a second of the copy, reading and writing."""
    floor = case["floors"]["copy"]
    return floor["nbytes"] / floor["device"]["median"]


def fraction(case, engine):
    """The bytes that the job must move, over the time it takes, as a fraction of the copy's."""
    return case["nbytes"] / case["engines"][engine]["device"]["median"] / rate_of_copy(case)


def engines_of(cases):
    return [name for name in ENGINES if any(name in case["engines"] or name in case["failures"] for case in cases)]


def markdown(cases):
    """Jobs by engines."""
    engines = engines_of(cases)
    lines = [
        "| logits | job | copy, GB/s | fastce, of it | read, GB/s | fastce, a call, ms | " + " | ".join(engines) + " |",
        "|---|---|--:|--:|--:|--:|" + "--:|" * len(engines),
    ]
    for case in cases:
        floors, own = case["floors"], case["engines"].get("fastce")
        read = floors.get("read")
        cells = [
            case["problem"],
            case["job"],
            f"{rate_of_copy(case) / 1e9:,.0f}" if floors else "",
            f"{100 * fraction(case, 'fastce'):.0f}%" if own else "",
            f"{read['nbytes'] / read['device']['median'] / 1e9:,.0f}" if read else "",
            milliseconds(own["wall_seconds"]) if own else "",
            *(_cell(case, engine) for engine in engines),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(case, engine):
    if engine in case["engines"]:
        times = case["engines"][engine]
        return milliseconds(times["device"]["median"]) + ("" if times["host_was_ahead"] else "*")
    failure = case["failures"].get(engine, "")
    return "" if not failure else "out of memory" if "memory" in failure.lower() else failure.split(":")[0]


def footnote(machine, cases):
    """What the figures mean and depend on."""
    notes = {
        f"{name}: {times['note']}" for case in cases for name, times in case["engines"].items() if times.get("note")
    }
    lines = [
        "Columns of engines: milliseconds on the device, the median; with a star, the host was not ahead of it "
        "and its pauses count. Of it: the bytes that the job must read and write (each matrix once, class indices, "
        "results) over fastce's time, as a fraction of the device-to-device copy of the logits. Read: PyTorch's sum "
        "over the same bytes as float32. A call: by the wall's clock, Python and a wait for the result included.",
        machine_line(machine),
        *(f"{note}." for note in sorted(notes)),
    ]
    return "\n".join(lines)


def machine_line(machine):
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version != "unknown")
    driver = machine["nvidia_smi"].get("driver_version")
    return (
        f"Measured on {machine['device']}, {machine['multiprocessors']} multiprocessors, "
        f"{machine['cache_bytes'] / 2**20:.0f} MiB of L2 cache, CUDA {machine['cuda']}"
        f"{f', driver {driver}' if driver else ''}; {versions}."
    )


def failures(cases):
    """What went wrong, one line each."""
    return [f"{case['id']}: {name}: {what}" for case in cases for name, what in case["failures"].items()]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written by record.py")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args(argv)
    if not options.json.exists():
        sys.exit(f"{options.json} does not exist: record.py makes it, on a machine with a GPU")
    record = json.loads(options.json.read_text())
    if not record["cases"]:
        sys.exit(f"{options.json} holds no cases")
    text = f"{markdown(record['cases'])}\n\n{footnote(record['machine'], record['cases'])}"
    print(text)
    if options.readme:
        write_between_markers(options.readme, text, MARKERS)


if __name__ == "__main__":
    main()
