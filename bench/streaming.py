"""Logits in a file, against reading and copying the file: python -m bench.streaming FILE

The file is in the page cache, as far as that holds it; calls take turns. See redraw.py.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

import fastce
import fastce.streaming
from bench.tiny import IS_TINY
from fastce.cpu import floors
from fastce.profile.machine import busy, machine
from fastce.profile.measure import Turn, times_in_turns

ROWS, CLASSES = (256, 1024) if IS_TINY else (8192, 32768)  # 1 GiB
ROUNDS = 2 if IS_TINY else 9
BUFFER, SHARDS = 1 << 23, 4
READ, COPY = "read the file, one thread", "numpy.copyto another map, one thread"
READ_MAP, COPY_MAP = "read its map, all threads", "copy it into another map, all threads"
NEW = "shutil.copyfile, to a new file"
LOSS, GRADIENT = "cross_entropy, in memory", "value_and_grad, in memory"


def saved(folder):
    """A file of logits, and one for the gradient."""
    paths = [Path(folder, name) for name in ("logits.npy", "gradient.npy")]
    rng = np.random.default_rng(0)
    for path in paths:
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, CLASSES)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(0, ROWS, 256):
                rng.standard_normal((256, CLASSES), dtype=np.float32).tofile(file)
    return paths


def read(path, buffer):
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def anew(path):
    """A file beside it that is not there."""
    new = path.with_name("new.npy")
    new.unlink(missing_ok=True)
    return new


def jobs_of(path, out_path):
    """What is timed, by name."""
    logits, out = np.load(path, mmap_mode="r"), np.load(out_path, mmap_mode="r+")
    here, there = np.array(logits), np.array(out)
    targets = np.random.default_rng(1).integers(0, CLASSES, ROWS)
    buffer, loss = bytearray(BUFFER), fastce.streaming.cross_entropy
    in_memory = floors.reading(logits)
    copied = floors.copying(logits, out)
    rows = [slice(start, start + ROWS // 16) for start in range(0, ROWS, ROWS // 16)]
    shards = [logits[:, start : start + CLASSES // SHARDS] for start in range(0, CLASSES, CLASSES // SHARDS)]
    return {
        READ: lambda: read(path, buffer),
        READ_MAP: lambda: floors.run(in_memory),
        COPY: lambda: np.copyto(out, logits),
        COPY_MAP: lambda: floors.run(copied),
        NEW: lambda: shutil.copyfile(path, anew(path)),
        "numpy.load, then cross_entropy": lambda: fastce.cross_entropy(np.load(path), targets),
        LOSS: lambda: fastce.cross_entropy(here, targets),
        "cross_entropy, .npy file": lambda: loss(path, targets),
        "cross_entropy, memmap": lambda: loss(logits, targets),
        "cross_entropy, blocks of rows": lambda: loss((logits[part], targets[part]) for part in rows),
        "cross_entropy, blocks of classes": lambda: loss(shards, targets, pieces="classes"),
        "row_stats, .npy file": lambda: fastce.streaming.row_stats(path, targets, outputs=("argmax", "target_rank")),
        GRADIENT: lambda: fastce.cross_entropy_value_and_grad(here, targets, out=there),
        "value_and_grad, memmap into memmap": lambda: fastce.streaming.cross_entropy_value_and_grad(
            logits, targets, out=out
        ),
        "value_and_grad, .npy file to a new file": lambda: fastce.streaming.cross_entropy_value_and_grad(
            path, targets, out=anew(path)
        ),
        "value_and_grad, blocks of classes into memmap": lambda: fastce.streaming.cross_entropy_value_and_grad(
            shards, targets, pieces="classes", out=out
        ),
    }


def measured(folder):
    """The record: the least of the times of each job."""
    jobs = jobs_of(*saved(folder))
    for call in jobs.values():
        call()
    times, _ = times_in_turns([Turn(call, ROUNDS) for call in jobs.values()])
    return {
        "machine": machine(fastce.get_num_threads()),
        "shape": [ROWS, CLASSES],
        "notes": busy(),
        "ms": {name: 1e3 * min(of_job) for name, of_job in zip(jobs, times, strict=True)},
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    path = parser.parse_args(argv).json
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        record = measured(folder)
    path.write_text(json.dumps(record, indent=1) + "\n")
    for name, ms in record["ms"].items():
        print(f"{name:50s} {ms:8.1f} ms")


if __name__ == "__main__":
    main()
