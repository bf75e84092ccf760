"""Vector instructions of the loops that take all the time, counted in their machine code; nothing is run.

python -m bench.instructions bench/results/instructions.json
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.machine_code import described
from bench.tiny import IS_TINY

MARKERS = ("<!-- instructions:start -->\n", "<!-- instructions:end -->")
KINDS = ("sums", "writes", "ends")
KERNELS = {  # and what their loops do
    ("logsumexp_rows", "float32"): ("sums",),
    ("softmax_rows", "float32"): ("sums", "writes"),
    ("cross_entropy_rows", "float32"): ("sums", "writes"),
    ("cross_entropy_rows", "float64"): ("sums", "writes"),
    ("plain_losses", "float32"): ("sums", "ends"),
    ("hard_gradients", "float32"): ("sums", "writes", "ends"),
    ("cross_entropy_columns", "float32"): ("sums", "writes"),
}
TARGETS = {"AVX-512": ("x86-64-v4", 1), "AVX2": ("x86-64-v3", 2)}  # what Numba is told, and registers of 64 bytes


def counted(kernel, dtype, target):
    """The instructions of the leanest loop of each kind, for 64 bytes of logits, or the ends of 16 rows."""
    name, registers = TARGETS[target]
    env = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "bench.instructions", "--one", kernel, dtype]
    found = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    return {kind: registers * count for kind, count in found.items()}


def one(kernel, dtype):
    """The same of one register, for the CPU that this process compiles for."""
    kinds = KERNELS[kernel, dtype]
    found = described(kernel, dtype, list(kinds))
    return {kind: found[kind]["arithmetic"] for kind in kinds}


def text(record):
    """The record as the table of bench/README.md."""
    heads = [f"{target}: {kind}" for target in TARGETS for kind in KINDS]
    lines = [f"| kernel | dtype | {' | '.join(heads)} |", f"|---|---|{'--:|' * len(heads)}"]
    for entry in record["found"]:
        counts = [entry["counts"].get(target, {}).get(kind) for target in TARGETS for kind in KINDS]
        cells = " | ".join("" if count is None else f"{count:.1f}" for count in counts)
        lines.append(f"| {entry['kernel']} | {entry['dtype']} | {cells} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="?", help="written")
    parser.add_argument("--one", nargs=2, metavar=("KERNEL", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    kernels, targets = (list(KERNELS)[:1], list(TARGETS)[:1]) if IS_TINY else (list(KERNELS), list(TARGETS))
    found = [
        {"kernel": kernel, "dtype": dtype, "counts": {target: counted(kernel, dtype, target) for target in targets}}
        for kernel, dtype in kernels
    ]
    record = {"found": found}
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(text(record))


if __name__ == "__main__":
    main()
