"""The constants of cluster_model.py, and calls to hold it against: python -m bench.cluster FILE; redraw.py shows it.

Workers are local processes of one thread, and their network is the loopback of this machine. Constants are measured in
all workers at once, for one of them and for as many as there are cores; calls of fastce.dask on 1, 2 and 3 workers take
turns with the plain functions in this process.
"""

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

import fastce
from bench.tiny import IS_TINY
from fastce.cpu.sums import Sums
from fastce.dask.share import share
from fastce.profile.machine import cores, machine
from fastce.profile.measure import seconds
from fastce.profile.on_dask import clusters
from fastce.profile.on_dask.problem import SCALE, WIDTH, DaskProblem
from fastce.profile.on_dask.run import new_report, profile

ROWS, CLASSES = (96, 64) if IS_TINY else (16384, 32768)
WORKERS = (1, 2) if IS_TINY else (1, 2, 3)
STRIPES = 12  # which 1, 2, 3 and 4 workers share evenly
ROUNDS = 1 if IS_TINY else 3
EDGE = 64 if IS_TINY else 2048  # of tiles
ONE_TILE = 32 << 20  # a memory budget that leaves no room to keep a tile
SMOOTHING = 0.0  # the default of these functions
REPEATS = 3
TRANSFERRED = 1 << 18 if IS_TINY else 1 << 27  # bytes
TASKS = 100 if IS_TINY else 1000
CALLS = ("clip_loss_from_features", "clip_loss_from_features_value_and_grad", "cross_entropy")
SWEPT = {  # matrix products of each, where no tile is kept
    "clip_loss_from_features": 1,
    "clip_loss_from_features_value_and_grad": 4,
    "linear_cross_entropy": 1,
    "linear_cross_entropy_value_and_grad": 3,
}


def unit(rows: int, seed: int):
    numbers = np.random.default_rng(seed).standard_normal((rows, WIDTH), np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def least(call) -> float:
    """The shortest of a few calls, after one that compiles."""
    call()
    return min(seconds(call) for _ in range(REPEATS))


def constants_of_a_worker(number: int) -> dict[str, float]:
    """Operations per second of tiles' products, seconds of an added byte, and those of an element of each function."""
    left, right, targets = unit(ROWS // STRIPES, 0), unit(ROWS, 1), np.arange(ROWS // STRIPES)  # a stripe of the check
    elements, tile = len(left) * len(right), np.empty((len(left), EDGE), np.float32)

    def multiply() -> None:
        for start in range(0, ROWS, EDGE):
            columns = right[start : start + EDGE]
            np.matmul(left, columns.T, out=tile[:, : len(columns)])

    rate = 2.0 * elements * WIDTH / least(multiply)
    total, part = right.copy(), right.copy()

    def add() -> None:  # as parts of gradients are, into new memory
        np.add(total, part)

    found = {"operations_per_second": rate, "seconds_per_added_byte": least(add) / total.nbytes}
    for name, products in SWEPT.items():
        given = (left, right, targets) if name.startswith("linear") else (left, right, SCALE)
        options = {"n_threads": 1, "label_smoothing": SMOOTHING}
        if name.startswith("clip"):  # no task keeps tiles for another sweep
            options |= {"targets": targets, "memory_budget": ONE_TILE}
        took = least(partial(getattr(fastce, name), *given, **options))
        found[name] = max(0.0, took - products * 2.0 * elements * WIDTH / rate) / elements
    logits = np.random.default_rng(number).standard_normal((len(left), CLASSES), np.float32)
    of_rows = partial(fastce.cross_entropy, logits, targets % CLASSES, label_smoothing=SMOOTHING, n_threads=1)
    found["cross_entropy"] = least(of_rows) / logits.size
    return found


def on_one_thread(number: int) -> dict[str, float]:
    with share(1):  # BLAS, too
        return constants_of_a_worker(number)


def in_all_workers(client) -> dict[str, float]:
    """The mean of what all workers find at the same time."""
    futures = [
        client.submit(on_one_thread, number, workers=[address], pure=False)
        for number, address in enumerate(client.nthreads())
    ]
    found = client.gather(futures)
    return {name: float(np.mean([of_worker[name] for of_worker in found])) for name in found[0]}


def bytes_per_second(client) -> float:
    """Of one array on its way from a worker to another."""
    from distributed import wait

    one, other = list(client.nthreads())[:2]
    times = []
    for number in range(REPEATS + 1):
        array = client.submit(np.full, TRANSFERRED, number, np.uint8, workers=[one], pure=False)
        wait(array)
        start = time.perf_counter()
        wait(client.submit(len, array, workers=[other], pure=False))
        times.append(time.perf_counter() - start)
    return TRANSFERRED / min(times)


def seconds_per_task(client) -> float:
    """Of many that do nothing, as a graph of one call."""
    import dask

    def run():
        client.gather(client.compute(dask.delayed(len)([dask.delayed(abs)(number) for number in range(TASKS)])))

    return least(run) / TASKS


def tasks_of(client, functions) -> dict[str, tuple[float, float]]:
    """How many tasks a call has, and how many more for each stripe: from two small ones."""
    few, more = ([row["tasks"] for row in profiled([client], functions, 64, 64, number, 1)] for number in (8, 16))
    return {name: (2 * a - b, (b - a) / 8) for name, a, b in zip(functions, few, more, strict=True)}


def profiled(clients, functions, rows, classes, stripes, rounds) -> list[dict]:
    """What `fastce profile` finds."""
    problem = DaskProblem(rows, classes, "float32", stripes, SMOOTHING)
    report = new_report(problem, rounds)
    progress = partial(print, flush=True)
    profile(
        [partial(nullcontext, client) for client in clients], problem, report, functions=functions, progress=progress
    )
    return [asdict(row) for row in report.rows]


def measure() -> dict:
    """The record."""
    about = machine(fastce.get_num_threads(), ["dask", "distributed"])
    record = {"machine": about, "stripes": STRIPES, "rows": ROWS, "classes": CLASSES, "width": WIDTH}
    with clusters.local(1, False) as client:
        record["alone"] = in_all_workers(client)
    with clusters.local(cores(), False) as client:
        record["together"] = in_all_workers(client)
    with clusters.local(2, False) as client:
        record["bytes_per_second"] = bytes_per_second(client)
        record["seconds_per_task"] = seconds_per_task(client)
        record["tasks"] = tasks_of(client, [*CALLS, *(name for name in SWEPT if name not in CALLS)])
    record["bytes_per_column"] = sum(part.nbytes for part in Sums.of_nothing(1)) + 16  # and a mean
    record["calls"] = []
    for number in WORKERS:
        with clusters.local(number, False) as client:
            record["calls"] += profiled([client], CALLS, ROWS, CLASSES, STRIPES, ROUNDS)
    return record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    options = parser.parse_args(argv)
    options.json.write_text(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
