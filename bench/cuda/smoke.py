"""What a GPU is asked first: does each kernel run, and is it right? Small cases against float64 of NumPy.

python -m bench.cuda.smoke                     all cases, one after the other
python -m bench.cuda.smoke float32-300x10      one of them
python -m bench.cuda.smoke --list              their names

Ends with 1 if a case fails. A case that hangs ends the process after 80 seconds, with every thread's traceback. With
NUMBA_ENABLE_CUDASIM=1 it runs in Numba's simulator, with smaller sizes.
"""

import argparse
import faulthandler
import functools
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np

import fastce
from bench.cuda import smoke_functions
from bench.cuda.smoke_arrays import LIBRARIES, default_library, is_simulated
from bench.cuda.smoke_truth import ULPS, Skipped, compare, logits_of, needs, right, targets_of

LIMIT = 80.0  # seconds of a case


# --- cases -----------------------------------------------------------------------------------------------------------


def losses(dtype: str, size: str, library: str | None = None) -> str:
    """cross_entropy_value_and_grad of rows, in an array of its own."""
    if library is not None and library != "numba":
        needs(library)
    home, x = LIBRARIES[library or default_library()](), logits_of(size, dtype)
    targets = targets_of(x)
    exact = right(x, targets)
    value, grad = fastce.cross_entropy_value_and_grad(home.to_device(x), home.to_device(targets), reduction="none")
    words = compare(
        "loss", home.to_host(value), exact.losses, "float32" if dtype == "bfloat16" else dtype, True, most=8
    )
    return f"{words}, {compare('gradient', home.to_host(grad), exact.grad, dtype, False)}"


def logsumexp(size: str) -> str:
    home, x = LIBRARIES[default_library()](), logits_of(size)
    ours = fastce.logsumexp(home.to_device(x), axis=1)
    return compare("logsumexp", home.to_host(ours), right(x, targets_of(x)).logsumexp, "float32", True)


def softmax(size: str) -> str:
    home, x = LIBRARIES[default_library()](), logits_of(size)
    ours = home.to_host(fastce.softmax(home.to_device(x), axis=1))
    return compare("softmax", ours, np.exp(right(x, targets_of(x)).log_probs), "float32", False)


def clip() -> str:
    """Rows and columns of a similarity matrix, and the gradient of the scale."""
    count, scale, home = 12 if is_simulated() else 513, 14.0, LIBRARIES[default_library()]()
    similarity = np.random.default_rng(5).uniform(-1, 1, (count, count)).astype(np.float32)
    similarity += np.eye(count, dtype=np.float32)
    z, own = scale * similarity.astype(np.float64), np.arange(count)
    of_rows, of_columns = right(z, own), right(z.T, own)
    slopes = (of_rows.grad + of_columns.grad.T) / (2 * count)
    ours = fastce.clip_loss_value_and_grad(home.to_device(similarity), logit_scale=scale)
    words = compare("loss", ours.value, (of_rows.losses.sum() + of_columns.losses.sum()) / (2 * count), "float32", True)
    gradient = compare("gradient", count * np.asarray(home.to_host(ours.grad)), count * scale * slopes, "float32",
                       False, most=ULPS * scale)  # fmt: skip
    along = (slopes * similarity).sum()
    return f"{words}, {gradient}, {compare('scale', ours.grad_logit_scale, along, 'float32', True, most=64)}"


def linear() -> str:
    """The loss of a linear layer's outputs."""
    if not is_simulated():
        needs("cupy")  # its products
    rows, width, classes = (6, 8, 20) if is_simulated() else (300, 64, 1001)
    home, rng = LIBRARIES[default_library()](), np.random.default_rng(6)
    features, weight = (rng.normal(size=(n, width)).astype(np.float32) for n in (rows, classes))
    logits = features.astype(np.float64) @ weight.T.astype(np.float64)
    targets = targets_of(logits)
    exact = right(logits, targets)
    ours = fastce.linear_cross_entropy_value_and_grad(
        *map(home.to_device, (features, weight, targets)), reduction="sum"
    )
    words = compare("loss", ours.value, exact.losses.sum(), "float32", True, most=width)  # products round, too
    gradient = home.to_host(ours.grad_linear_weight)
    return f"{words}, {compare('gradient', gradient, exact.grad.T @ features, 'float32', False, most=64 * width)}"


def side_stream() -> str:
    """What is computed in a stream of one's own is read in its order."""
    home, x = LIBRARIES[default_library()](), logits_of("300x10")
    targets = targets_of(x)
    exact = right(x, targets).losses
    with home.stream() as stream:
        ours = home.to_host(fastce.cross_entropy(stream(x), stream(targets), reduction="none"))
    return compare("loss", ours, exact, "float32", True, most=8)


def bad_target() -> str:
    """The error of the CPU, nothing written, and the next call works."""
    home, x = LIBRARIES[default_library()](), logits_of("300x10")
    targets = targets_of(x)
    targets[2] = x.shape[1]
    out = home.to_device(np.full_like(x, 77))
    try:
        fastce.cross_entropy_value_and_grad(home.to_device(x), home.to_device(targets), out=out)
    except IndexError as error:
        words = str(error)
    else:
        raise AssertionError("no IndexError")
    assert f"row 2 hold class index {x.shape[1]}" in words, words
    assert (np.asarray(home.to_host(out)) == 77).all(), "out was written to"
    losses("float32", "300x10")
    return words


CASES: dict[str, Callable[[], str]] = {
    **{
        f"{dtype}-{size}": functools.partial(losses, dtype, size)
        for dtype in ("float32", "bfloat16", "float64")
        for size in ("300x10", "7x1001", "2x40000")
    },
    "logsumexp": functools.partial(logsumexp, "7x1001"),
    "softmax": functools.partial(softmax, "7x1001"),
    **smoke_functions.CASES,
    "clip": clip,
    "linear": linear,
    "cupy": functools.partial(losses, "float32", "7x1001", "cupy"),
    "numba": functools.partial(losses, "float32", "7x1001", "numba"),
    "side-stream": side_stream,
    "bad-target": bad_target,
    "3x1000000": functools.partial(losses, "float32", "3x1000000"),
}


def run(name: str) -> bool:
    """Run a case and say how it went; whether it did not fail."""
    began = time.perf_counter()
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=sys.__stderr__)
    try:
        words = f"right: {CASES[name]()}"
    except Skipped as error:
        words = f"skipped: {error}"
    except Exception as error:
        traceback.print_exc()
        words = f"FAILED: {type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {words} ({time.perf_counter() - began:.1f} s)", flush=True)
    return not words.startswith("FAILED")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; all by default")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and do nothing")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}: see --list")
    if options.list:
        print("\n".join(CASES))
        return 0
    return int(not all([run(name) for name in options.names or CASES]))


if __name__ == "__main__":
    sys.exit(main())
