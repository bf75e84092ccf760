"""Import, first calls and a small call in fresh processes, as a Markdown table: python -m bench.startup"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.report import write_between_markers
from bench.tiny import IS_TINY

MARKERS = ("<!-- startup:start -->\n", "<!-- startup:end -->")
ROOT = Path(__file__).resolve().parent.parent

IMPORT = """
import json, time
start = time.perf_counter()
import numpy
middle = time.perf_counter()
import fastce
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""

FIRST_CALL = """
import numpy, fastce
fastce.cross_entropy(numpy.zeros((32, 10), numpy.float32), numpy.zeros(32, numpy.int64))
"""

SMALL_CALL = """
import json
from statistics import median
import numpy as np
import fastce
from fastce.profile.measure import Turn, times_in_turns

rng = np.random.default_rng(0)
logits, targets = rng.standard_normal((32, 10), np.float32), rng.integers(0, 10, 32)
calls = {"fastce": lambda: fastce.cross_entropy(logits, targets, label_smoothing=0.1)}
try:
    import torch
except ImportError:
    pass
else:
    x, y = torch.from_numpy(logits), torch.from_numpy(targets)
    calls["torch"] = lambda: torch.nn.functional.cross_entropy(x, y, label_smoothing=0.1)

turns = [Turn(call, rounds=51, repeats=200) for call in calls.values()]
times = [median(several[1:]) for several in times_in_turns(turns)[0]]  # all is warm after the first round
print(json.dumps(dict(zip(calls, times))))
"""


def run(script, cache):
    """Seconds of a fresh Python process in all, and what it printed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "FASTCE_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(paths)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1 if IS_TINY else 5, help="processes of each kind")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args(argv)
    repeat = options.repeat
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder) / f"cache{number}" for number in range(repeat)]
        cold = [run(FIRST_CALL, cache)[0] for cache in caches]
        warm = [run(FIRST_CALL, caches[0])[0] for _ in range(repeat)]
        imports = [json.loads(run(IMPORT, caches[0])[1]) for _ in range(repeat)]
        small = json.loads(run(SMALL_CALL, caches[0])[1])
    numpy_seconds, fastce_seconds = (median(column) for column in zip(*imports, strict=True))
    lines = [
        "| what, in a fresh process | time |\n|---|--:|",
        f"| import numpy | {1e3 * numpy_seconds:.0f} ms |",
        f"| import fastce, beyond it | {1e3 * fastce_seconds:.1f} ms |",
        f"| start, import and first cross_entropy, kernels in the cache | {median(warm):.2f} s |",
        f"| start, import and first cross_entropy, nothing in the cache | {median(cold):.2f} s |",
        f"| cross_entropy of 32 x 10 float32, smoothing 0.1 | {1e6 * small['fastce']:.1f} us |",
    ]
    if "torch" in small:
        ratio = small["fastce"] / small["torch"]
        lines.append(f"| the same in PyTorch | {1e6 * small['torch']:.1f} us (fastce: {ratio:.2f} times) |")
    print("\n".join(lines))
    if options.readme:
        write_between_markers(options.readme, "\n".join(lines), MARKERS)


if __name__ == "__main__":
    main()
