"""The record of boosters.py as the table of bench/README.md."""

from bench.boosters import OWN

MARKERS = ("<!-- boosters:start -->\n", "<!-- boosters:end -->")


def text(record):
    """Times, and multiples of the same with the library's own objective."""
    rows, classes, features, trees = record["shape"]
    what = f"{rows:,} rows, {classes} classes, {features} features, {trees} rounds, on {record['machine']['cpu']}"
    lines = [f"| {what} | objective | ms | x its own |", "|---|---|--:|--:|"]
    for part, ms in record["ms"].items():
        for name, time in ms.items():
            beside = f"{time / ms[OWN]:.2f}" if OWN in ms else ""
            lines.append(f"| {part} | {name} | {time:,.0f} | {beside} |")
    absent = [f"{title} was not installed." for title in record["absent"]]
    return "\n".join([*lines, *(f"\n{note}" for note in [*record["notes"], *absent])])
