"""How much longer a call takes where its arrays do not lie in C order: python -m bench.layouts [substring ...]

Every function, on the same numbers laid out in other ways, interleaved with C order in the same rounds; the table shows
the least time of each layout as a multiple of that of C order, and goes to results/layouts.json. Times are those of the
CPU, of one thread: they do not count what others do on the machine meanwhile. Results are new arrays
but in the jobs "out=C", which have a C-ordered ``out`` whatever the logits are. Rows or classes that are repeated hold
other numbers, so that they are compared with a C-ordered copy of themselves.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastce
from fastce.profile.measure import Turn, seconds, times_in_turns

RESULTS = Path(__file__).parent / "results" / "layouts.json"
BUDGET = 0.6  # seconds of a job's rounds, about
LEAST_ROUNDS, MOST_ROUNDS = 4, 25
ALLOWED = 2.5

Array = np.ndarray[Any, Any]


def _row_gaps(x: Array) -> Array:
    wide = np.zeros((*x.shape[:-1], x.shape[-1] + 16), x.dtype)
    wide[..., :-16] = x
    return wide[..., :-16]


def _misaligned(x: Array) -> Array:
    result = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    result[...] = x
    return result


def _channels_last(x: Array) -> Array:
    axes = [0, *range(2, x.ndim), 1]
    return x.transpose(axes).copy().transpose(np.argsort(axes))


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x.copy(),
    "Fortran": lambda x: np.asfortranarray(x),
    "row gaps": _row_gaps,
    "[::-1]": lambda x: x[::-1].copy()[::-1],
    "[:, ::-1]": lambda x: x[:, ::-1].copy()[:, ::-1],
    "one row": lambda x: np.broadcast_to(x[:1], x.shape),
    "one class": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "misaligned": _misaligned,
}
LAYOUTS["F, rows ::2"] = lambda x: np.asfortranarray(np.repeat(x, 2, 0))[::2]
LAYOUTS["[:, ::2]"] = lambda x: np.repeat(x, 2, 1)[:, ::2]
LAYOUTS["[::2]"] = lambda x: np.repeat(x, 2, 0)[::2]
OF_IMAGES: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x.copy(),
    "Fortran": lambda x: np.asfortranarray(x),
    "channels last": _channels_last,
    "classes first": lambda x: x.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3),
    "width first": lambda x: x.transpose(3, 1, 0, 2).copy().transpose(2, 1, 3, 0),
    "[..., ::2]": lambda x: np.repeat(x, 2, 3)[..., ::2],
    "[..., ::-1]": lambda x: x[..., ::-1].copy()[..., ::-1],
}

SHAPES = [((100_000, 10), "f4"), ((4096, 1000), "f4"), ((4096, 2048), "f4"), ((2048, 2048), "f8"), ((4096, 2048), "f2")]
IMAGES = [((4, 21, 160, 160), "f4"), ((2, 300, 80, 80), "f4")]

Call = Callable[[Array, Array, Array, Array], Any]  # logits, class indices, probabilities that lie as logits do, out
JOBS: dict[str, Call] = {
    "logsumexp": lambda x, y, p, o: fastce.logsumexp(x, axis=1),
    "softmax": lambda x, y, p, o: fastce.softmax(x, axis=1),
    "log_softmax": lambda x, y, p, o: fastce.log_softmax(x, axis=1),
    "softmax, out=C": lambda x, y, p, o: fastce.softmax(x, axis=1, out=o),
    "cross_entropy": lambda x, y, p, o: fastce.cross_entropy(x, y),
    "cross_entropy, smoothed": lambda x, y, p, o: fastce.cross_entropy(x, y, label_smoothing=0.1),
    "value_and_grad": lambda x, y, p, o: fastce.cross_entropy_value_and_grad(x, y),
    "value_and_grad, out=C": lambda x, y, p, o: fastce.cross_entropy_value_and_grad(x, y, out=o),
    "grad_and_hess": lambda x, y, p, o: fastce.cross_entropy_grad_and_hess(x, y),
    "row_stats": lambda x, y, p, o: fastce.row_stats(x, y),
    "row_stats, more": lambda x, y, p, o: fastce.row_stats(x, y, outputs=("logsumexp", "entropy", "target_rank")),
    "nll_loss": lambda x, y, p, o: fastce.nll_loss(x, y),
    "nll_loss value_and_grad": lambda x, y, p, o: fastce.nll_loss_value_and_grad(x, y),
    "binary": lambda x, y, p, o: fastce.binary_cross_entropy_with_logits(x, p),
    "binary, none": lambda x, y, p, o: fastce.binary_cross_entropy_with_logits(x, p, reduction="none"),
    "binary value_and_grad": lambda x, y, p, o: fastce.binary_cross_entropy_with_logits_value_and_grad(x, p),
}  # fmt: skip
MATRIX_JOBS: dict[str, Call] = {
    "probabilities": lambda x, y, p, o: fastce.cross_entropy_value_and_grad(x, p),
}
SQUARE_JOBS: dict[str, Call] = {
    "clip_loss": lambda x, y, p, o: fastce.clip_loss(x, logit_scale=10.0),
    "clip_loss value_and_grad": lambda x, y, p, o: fastce.clip_loss_value_and_grad(x, logit_scale=10.0),
}
FEATURE_JOBS: dict[str, Call] = {
    "clip_loss_from_features": lambda x, y, p, o: fastce.clip_loss_from_features_value_and_grad(x, x, 10.0),
    "siglip_loss": lambda x, y, p, o: fastce.siglip_loss_value_and_grad(x, x, 10.0, -10.0),
    "info_nce": lambda x, y, p, o: fastce.info_nce_value_and_grad(x, x),
    "nt_xent": lambda x, y, p, o: fastce.nt_xent_value_and_grad(x, x),
    "sup_con": lambda x, y, p, o: fastce.sup_con_value_and_grad(x, y),
    "linear_cross_entropy": lambda x, y, p, o: fastce.linear_cross_entropy_value_and_grad(x, x, y),
}


Variants = dict[str, tuple[Array, Array]]  # logits and probabilities of each layout


def _ratios(call: Call, variants: Variants, targets: Array, out: Array) -> tuple[float, dict[str, float]]:
    """The least time in C order, and that of each layout as a multiple of it."""
    times = _times(call, variants, targets, out)
    ratios = {name: times[name] / times.get(f"{name}, C", times["C"]) for name in variants if not name.endswith(", C")}
    return times["C"], ratios


def _variants(x: Array, probabilities: Array, layouts: dict[str, Callable[[Array], Array]]) -> Variants:
    """The arrays in all layouts, and copies of those that hold other numbers."""
    variants = {name: (change(x), change(probabilities)) for name, change in layouts.items()}
    repeated = {f"{name}, C": (a.copy(), p.copy()) for name, (a, p) in variants.items() if 0 in a.strides}
    return variants | repeated


def _times(call: Call, variants: Variants, targets: Array, out: Array) -> dict[str, float]:
    """The least CPU time of each layout; rounds go through all of them in turn, after one that compiles."""
    calls = [partial(call, x, targets, probabilities, out) for x, probabilities in variants.values()]
    for compiling in calls:
        compiling()
    round_seconds = sum(seconds(one, clock=time.process_time) for one in calls)
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, round(BUDGET / round_seconds)))
    times, _ = times_in_turns([Turn(one, rounds) for one in calls], clock=time.process_time)
    return {name: min(of_layout) for name, of_layout in zip(variants, times, strict=True)}


def _measure(jobs: dict[str, Call], shape: tuple[int, ...], dtype: str, layouts: Any, only: list[str]) -> list[Any]:
    rng = np.random.default_rng(0)
    x, probabilities = (rng.random(shape, dtype=np.float32).astype(dtype) for _ in range(2))
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    variants, rows = _variants(x, probabilities, layouts), []
    for name, call in jobs.items():
        label = f"{name} {' x '.join(map(str, shape))} {np.dtype(dtype).name}"
        if only and not any(part in label for part in only):
            continue
        in_c_order, ratios = _ratios(call, variants, targets, np.empty(shape, dtype))
        rows.append({"job": label, "ms": in_c_order * 1e3, "ratios": ratios})
        cells = " ".join(f"{ratio:7.2f}{'!' if ratio > ALLOWED else ' '}" for ratio in ratios.values())
        print(f"{label:52} {in_c_order * 1e3:8.2f} {cells}", flush=True)
    return rows


def _header(layouts: Any) -> None:
    print(f"\n{'':52} {'C, ms':>8} " + " ".join(f"{name[:8]:>8}" for name in layouts))


def main(only: list[str]) -> None:
    """Print the table and write the file; a ! marks what takes more than ALLOWED times as long."""
    rows: list[Any] = []
    fastce.set_num_threads(1)
    _header(LAYOUTS)
    for shape, dtype in SHAPES:
        rows += _measure(JOBS | MATRIX_JOBS, shape, dtype, LAYOUTS, only)
    rows += _measure(SQUARE_JOBS, (2048, 2048), "f4", LAYOUTS, only)
    rows += _measure(FEATURE_JOBS, (1024, 256), "f4", LAYOUTS, only)
    _header(OF_IMAGES)
    for shape, dtype in IMAGES:
        rows += _measure(JOBS | MATRIX_JOBS, shape, dtype, OF_IMAGES, only)
    if not only:
        RESULTS.write_text(json.dumps({"allowed": ALLOWED, "jobs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
