"""The record of layouts.py as the table of bench/README.md."""

MARKERS = ("<!-- layouts:start -->\n", "<!-- layouts:end -->")
PROBLEM = "4096 x 2048 float32"
SHOWN = ("Fortran", "F, rows ::2", "[:, ::2]", "[::2]", "[:, ::-1]", "[::-1]", "one row", "one class")


def text(record):
    """The jobs of one problem, and how many of all multiples are above what is allowed."""
    lines = [
        f"| {PROBLEM} | C, ms | {' | '.join(f'`{name}`' for name in SHOWN)} |",
        f"|---|--:|{'--:|' * len(SHOWN)}",
    ]
    for entry in record["jobs"]:
        if entry["job"].endswith(f" {PROBLEM}"):
            cells = [f"{entry['ratios'][name]:.1f}" for name in SHOWN]
            lines.append(f"| {entry['job'].removesuffix(PROBLEM).strip()} | {entry['ms']:.1f} | {' | '.join(cells)} |")
    multiples = [ratio for entry in record["jobs"] for ratio in entry["ratios"].values()]
    above = sum(ratio > record["allowed"] for ratio in multiples)
    worst = max(
        ((ratio, name, entry["job"]) for entry in record["jobs"] for name, ratio in entry["ratios"].items()),
        default=(0, "", ""),
    )
    return (
        "\n".join(lines) + f"\n\nOf {len(multiples):,} multiples of all functions, shapes and dtypes {above} are above "
        f"{record['allowed']:g}; the largest is {worst[0]:.1f} (`{worst[1]}`: {worst[2]})."
    )
