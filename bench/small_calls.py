"""Calls on few numbers, where what is around the kernel counts: python -m bench.small_calls FILE

Beside SciPy, or NumPy as a careful user writes it, and PyTorch, in turns; startup.py calls this in a fresh process.
"""

import argparse
import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from scipy import special

import fastce
from bench.tiny import IS_TINY
from fastce.cpu.threads import get_num_threads
from fastce.profile import formulas
from fastce.profile.machine import busy, installed_version, machine
from fastce.profile.measure import Turn, times_in_turns

MARKERS = ("<!-- small_calls:start -->\n", "<!-- small_calls:end -->")
SHAPE = (3, 4) if IS_TINY else (32, 10)
ROUNDS, REPEATS = (3, 2) if IS_TINY else (51, 200)
ENGINES = ("fastce", "SciPy or NumPy", "PyTorch")
WEIGHTS, PROBABILITIES, IMAGES = (f"cross_entropy, {what}" for what in ("class weights", "probabilities", "images"))
STEP = "a step of training: fastce.torch.cross_entropy, backward"


def value_of(x, y):
    return (formulas.log_sum_exp(np, x)[:, 0] - formulas.at(np, x, y)).mean()


def weighted_value_of(x, y, weight):
    losses = formulas.log_sum_exp(np, x)[:, 0] - formulas.at(np, x, y)
    return (weight[y] * losses).sum() / weight[y].sum()


def value_of_probabilities(x, p):
    return (formulas.log_sum_exp(np, x)[:, 0] - (p * x).sum(axis=1)).mean()


def value_of_images(x, y):
    return (formulas.log_sum_exp(np, x, 1)[:, 0] - np.take_along_axis(x, y[:, None], axis=1)[:, 0]).mean()


def value_and_grad_of(x, y):
    lse = formulas.log_sum_exp(np, x)
    grad = np.exp(x - lse)
    grad[np.arange(len(x)), y] -= 1.0
    grad /= len(x)
    return (lse[:, 0] - formulas.at(np, x, y)).mean(), grad


def calls():
    """What is called, by job and by engine."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(SHAPE, np.float32), rng.integers(0, SHAPE[1], SHAPE[0])
    weight, p = rng.random(SHAPE[1], np.float32), formulas.softmax(np, x)
    images, of_images = np.ascontiguousarray(x.T[None]), y[None]
    ours, _, theirs = ENGINES
    by_row = {"axis": 1}
    found = {
        "logsumexp": [partial(f.logsumexp, x, **by_row) for f in (fastce, special)],
        "softmax": [partial(f.softmax, x, **by_row) for f in (fastce, special)],
        "cross_entropy": [partial(f, x, y) for f in (fastce.cross_entropy, value_of)],
        WEIGHTS: [partial(fastce.cross_entropy, x, y, weight=weight), partial(weighted_value_of, x, y, weight)],
        PROBABILITIES: [partial(f, x, p) for f in (fastce.cross_entropy, value_of_probabilities)],
        IMAGES: [partial(f, images, of_images) for f in (fastce.cross_entropy, value_of_images)],
        "cross_entropy_value_and_grad": [
            partial(f, x, y) for f in (fastce.cross_entropy_value_and_grad, value_and_grad_of)
        ],
    }
    found = {job: dict(zip(ENGINES, of_job, strict=False)) for job, of_job in found.items()}
    if find_spec("torch") is not None:
        import torch

        from fastce.torch import cross_entropy as differentiable

        torch.set_num_threads(get_num_threads())
        cross_entropy = torch.nn.functional.cross_entropy
        logits, targets, leaf = torch.from_numpy(x), torch.from_numpy(y), torch.tensor(x, requires_grad=True)

        def step(loss):
            leaf.grad = None
            loss(leaf, targets).backward()

        found["logsumexp"][theirs] = partial(torch.logsumexp, logits, dim=1)
        found["softmax"][theirs] = partial(torch.softmax, logits, dim=1)
        found["cross_entropy"][theirs] = partial(cross_entropy, logits, targets)
        found[WEIGHTS][theirs] = partial(cross_entropy, logits, targets, weight=torch.from_numpy(weight))
        found[PROBABILITIES][theirs] = partial(cross_entropy, logits, torch.from_numpy(p))
        found[IMAGES][theirs] = partial(cross_entropy, *map(torch.from_numpy, (images, of_images)))
        found["cross_entropy_value_and_grad"][theirs] = partial(step, cross_entropy)
        found[STEP] = {ours: partial(step, differentiable), theirs: partial(step, cross_entropy)}
    return found


def measured():
    """Microseconds of a call, by job and by engine."""
    found = calls()
    turns = [Turn(call, rounds=ROUNDS, repeats=REPEATS) for of_job in found.values() for call in of_job.values()]
    times = iter(times_in_turns(turns)[0])
    return {job: {engine: 1e6 * median(next(times)[1:]) for engine in of_job} for job, of_job in found.items()}


def text(record):
    """The record as the table of bench/README.md."""
    rows, classes = record["shape"]
    lines = [
        f"| {rows} x {classes} float32 | {' | '.join(f'{engine}, us' for engine in ENGINES)} |",
        "|---|--:|--:|--:|",
    ]
    for job, us in record["us"].items():
        lines.append(f"| {job} | {' | '.join(f'{us[engine]:.1f}' if engine in us else '' for engine in ENGINES)} |")
    where = f"On {record['machine']['cpu']}; PyTorch {record['torch'] or 'was not installed'}."
    return "\n".join([*lines, "", where, *(f"\n{note}" for note in record["notes"])])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    path = parser.parse_args(argv).json
    version = installed_version("torch") if find_spec("torch") else None
    about = {"shape": SHAPE, "machine": machine(get_num_threads()), "torch": version, "notes": busy()}
    record = {**about, "us": measured()}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(text(record))


if __name__ == "__main__":
    main()
