"""The record of streaming.py as the table of bench/README.md."""

from bench.streaming import COPY, COPY_MAP, GRADIENT, LOSS, NEW, READ, READ_MAP

MARKERS = ("<!-- streaming:start -->\n", "<!-- streaming:end -->")


def text(record):
    """Times, and multiples of merely reading or copying the file, and of the same in memory."""
    rows, classes = record["shape"]
    ms = record["ms"]
    what = f"{rows:,} x {classes:,} float32, {rows * classes * 4 / 2**20:,.0f} MiB, on {record['machine']['cpu']}"
    lines = [
        f"| {what} | ms | x one thread | x all threads | x in memory |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, time in ms.items():
        if name.endswith("new file"):  # beside each other: the pages of a new file take longest
            lines.append(f"| {name} | {time:,.0f} | {time / ms[NEW]:.2f} | | |")
            continue
        beside = (COPY, COPY_MAP, GRADIENT) if "grad" in name or "copy" in name else (READ, READ_MAP, LOSS)
        lines.append(f"| {name} | {time:,.0f} | {' | '.join(f'{time / ms[other]:.2f}' for other in beside)} |")
    return "\n".join([*lines, *(f"\n{note}" for note in record["notes"])])
