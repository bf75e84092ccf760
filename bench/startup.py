"""Import, first calls and small calls in fresh processes, as Markdown tables: python -m bench.startup

With --readme the small calls leave their record in the folder results beside it; see small_calls.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench import small_calls
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


def run(script, cache):
    """Seconds of a fresh Python process in all, and what it printed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "FASTCE_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(paths)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1 if IS_TINY else 5, help="processes of each kind")
    parser.add_argument("--readme", type=Path, help="put the tables between the markers of this file")
    options = parser.parse_args(argv)
    repeat = options.repeat
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder) / f"cache{number}" for number in range(repeat)]
        cold = [run(FIRST_CALL, cache)[0] for cache in caches]
        warm = [run(FIRST_CALL, caches[0])[0] for _ in range(repeat)]
        imports = [json.loads(run(IMPORT, caches[0])[1]) for _ in range(repeat)]
        record = (options.readme.parent / "results" if options.readme else Path(folder)) / "small_calls.json"
        print(run(f"from bench.small_calls import main; main([{str(record)!r}])", caches[0])[1])
        small = small_calls.text(json.loads(record.read_text()))
    numpy_seconds, fastce_seconds = (median(column) for column in zip(*imports, strict=True))
    lines = [
        "| what, in a fresh process | time |\n|---|--:|",
        f"| import numpy | {1e3 * numpy_seconds:.0f} ms |",
        f"| import fastce, beyond it | {1e3 * fastce_seconds:.1f} ms |",
        f"| start, import and first cross_entropy, kernels in the cache | {median(warm):.2f} s |",
        f"| start, import and first cross_entropy, nothing in the cache | {median(cold):.2f} s |",
    ]
    print("\n".join(lines))
    if options.readme:
        write_between_markers(options.readme, "\n".join(lines), MARKERS)
        write_between_markers(options.readme, small, small_calls.MARKERS)


if __name__ == "__main__":
    main()
