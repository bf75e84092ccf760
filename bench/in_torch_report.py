"""The record of in_torch.py as the table of bench/README.md."""

from bench.in_torch import COMPILED, EAGER, OURS

MARKERS = ("<!-- in_torch:start -->\n", "<!-- in_torch:end -->")


def text(record):
    """Times, multiples of fastce.torch's, and memory."""
    lines = [
        f"| forward and backward | {OURS}, ms | x {EAGER} | x {COMPILED} | gradients, MiB | memory, MiB: {OURS} "
        f"| {EAGER} | {COMPILED} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in record["jobs"].items():
        ms, mib = found["ms"], found["mib"]
        times = [f"{ms[engine] / ms[OURS]:.2f}" if engine in ms else "" for engine in (EAGER, COMPILED)]
        memory = ["" if mib.get(engine) is None else f"{mib[engine]:,.0f}" for engine in (OURS, EAGER, COMPILED)]
        cells = [f"{ms[OURS]:,.3g}" if ms[OURS] < 1 else f"{ms[OURS]:,.0f}", *times, f"{found['leaves']:,.0f}", *memory]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    where = f"\nOn {record['machine']['cpu']}, {record['machine']['cores']} cores, float32; PyTorch {record['torch']}."
    return "\n".join([*lines, where, *(f"\n{note}" for note in record["notes"])])
