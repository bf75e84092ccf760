"""Losses from features against the size of the batch, as `fastce profile` measures them: python -m bench.batches FILE

CLIP's loss and gradients, and the dense ways of NumPy and, where it is installed, of PyTorch; see redraw.py.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from bench.tiny import IS_TINY
from fastce.__main__ import main as fastce

BATCH = 1024 if IS_TINY else 65536


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    path = parser.parse_args(argv).json
    peers = "scipy,torch" if find_spec("torch") else "scipy"
    options = ["--from-features", "--batch", str(BATCH), "--compare", peers, "--json", str(path)]
    return fastce(["profile", *options])


if __name__ == "__main__":
    raise SystemExit(main())
