"""A step of training in PyTorch, forward and backward, by fastce.torch and by PyTorch: python -m bench.in_torch FILE

Calls take turns; memory is how far it rises during a step. Jobs that are named (by a part of their name) are measured
alone, and take the place of theirs in the record. See redraw.py.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench.tiny import IS_TINY
from fastce.cpu.threads import get_num_threads
from fastce.profile.machine import busy, installed_version, machine
from fastce.profile.measure import Turn, extra_memory, seconds, times_in_turns

OURS, EAGER, COMPILED = "fastce.torch", "PyTorch", "torch.compile"
ENOUGH = 0.02  # seconds that are timed together
PAUSE = 0.02  # in which the threads of either come to rest
MIB = 1 << 20


class Step(NamedTuple):
    """A loss of some tensors that require grad, as each of the two computes it."""

    leaves: list
    ours: Callable
    theirs: Callable
    rounds: int


def of_logits(rows, classes, rounds):
    import torch
    import torch.nn.functional as F

    import fastce.torch

    logits = torch.randn(rows, classes, requires_grad=True)
    targets = torch.randint(classes, (rows,))
    return Step(
        [logits],
        lambda: fastce.torch.cross_entropy(logits, targets),
        lambda: F.cross_entropy(logits, targets),
        rounds,
    )


def of_head(tokens, width, vocabulary, *, by_layer):
    """The head of a language model: by logits that exist, or by those that do not."""
    import torch
    import torch.nn.functional as F

    import fastce.torch

    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))

    def ours():
        if by_layer:
            return fastce.torch.linear_cross_entropy(hidden, weight, targets)
        return fastce.torch.cross_entropy(F.linear(hidden, weight), targets)

    return Step([hidden, weight], ours, lambda: F.cross_entropy(F.linear(hidden, weight), targets), 3)


def of_pairs(batch, width):
    """CLIP's loss of features, as open_clip computes it where there is one process."""
    import torch
    import torch.nn.functional as F

    import fastce.torch

    images, texts = (F.normalize(torch.randn(batch, width), dim=1).requires_grad_() for _ in range(2))
    log_scale = torch.tensor(4.6, requires_grad=True)
    module = fastce.torch.ClipLoss()

    def theirs():
        scale, labels = log_scale.exp(), torch.arange(batch)
        per_image, per_text = scale * images @ texts.T, scale * texts @ images.T
        return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2

    return Step([images, texts, log_scale], lambda: module(images, texts, log_scale.exp()), theirs, 2)


def jobs():
    """What is measured, by name."""
    small = 64 if IS_TINY else 1  # by which sizes are divided
    rows, tokens, batch, vocabulary = 4096 // small, 1024 // small, 16384 // small, 50257 // small
    return {
        "cross_entropy, 32 x 10": lambda: of_logits(32, 10, 5 if IS_TINY else 20_000),
        f"cross_entropy, {rows:,} x 32,768": lambda: of_logits(rows, 32768, 7),
        f"GPT head by cross_entropy, {tokens:,} x 768, vocabulary {vocabulary:,}": lambda: of_head(
            tokens, 768, vocabulary, by_layer=False
        ),
        f"GPT head by linear_cross_entropy, {tokens:,} x 768, vocabulary {vocabulary:,}": lambda: of_head(
            tokens, 768, vocabulary, by_layer=True
        ),
        f"ClipLoss, {batch:,} x 512": lambda: of_pairs(batch, 512),
    }


def measured(step, has_compiler):
    """Milliseconds and mebibytes of a step, by engine."""
    import torch

    losses = {OURS: step.ours, EAGER: step.theirs}
    if has_compiler:
        losses[COMPILED] = torch.compile(step.theirs, fullgraph=True)

    def begin():
        for leaf in step.leaves:
            leaf.grad = None

    def again(loss):
        def call():
            begin()
            loss().backward()

        return call

    calls = {name: again(loss) for name, loss in losses.items()}
    mebibytes, gradients, turns = {}, {}, []
    for name, call in calls.items():
        call()
        begin()
        nbytes, took = extra_memory(partial(seconds, call))
        took = min(took, seconds(call))  # memory that has been given back must be mapped anew
        mebibytes[name] = None if nbytes is None else nbytes / MIB
        gradients[name] = [leaf.grad for leaf in step.leaves]
        torch.testing.assert_close(gradients[name], gradients[OURS], rtol=1e-3, atol=1e-4)
        repeats = max(1, int(ENOUGH / took))
        turns.append(Turn(call, max(2, step.rounds // repeats), before=begin, repeats=repeats))
    gradients.clear()
    times, _ = times_in_turns(turns, pause=PAUSE)
    begin()
    return {
        "ms": {name: 1e3 * min(of_engine) for name, of_engine in zip(calls, times, strict=True)},
        "mib": mebibytes,
        "leaves": sum(leaf.nbytes for leaf in step.leaves) / MIB,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    parser.add_argument("jobs", nargs="*", help="parts of names; all by default")
    options = parser.parse_args(argv)
    if find_spec("torch") is None:
        print("PyTorch is not installed: there is nothing to measure")
        return
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(get_num_threads())
    record = json.loads(options.json.read_text()) if options.json.exists() and options.jobs else {"jobs": {}}
    has_compiler = sys.platform == "linux" and not IS_TINY
    for name, prepare in jobs().items():
        if not options.jobs or any(part in name for part in options.jobs):
            found = measured(prepare(), has_compiler)
            record["jobs"][name] = found
            print(name, *(f"{engine} {ms:.3g} ms" for engine, ms in found["ms"].items()), sep="; ")
    record |= {"machine": machine(get_num_threads()), "torch": installed_version("torch"), "notes": busy()}
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
