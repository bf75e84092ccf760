"""What a call costs on the host: its time with a driver that does nothing (tests/cuda/counted.py), without a GPU.

python -m bench.cuda.host

Prints, for each call, the microseconds of the least and the middle of many, and what the driver was asked for. Its own
time, that of PyTorch's allocations and of the calls into the driver, comes on top of this.
"""

import statistics
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent.parent / "tests"
REPEATS = 500
CALLS = {  # function, shape, weights of classes
    "cross_entropy_value_and_grad": [(16_384, 32_768), (100_000, 10), (64, 300)],
    "cross_entropy": [(16_384, 32_768), (64, 300)],
    "logsumexp": [(64, 300)],
    "softmax": [(64, 300)],
}


def times_of(call) -> list[float]:
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e6)
    return found


def calls(driver):
    """(what it is, a call without arguments)"""
    import fastce

    for name, shapes in CALLS.items():
        function = getattr(fastce, name)
        for shape in shapes:
            x = driver.tensor(shape, "float32")
            if "cross_entropy" not in name:
                yield f"{name} {shape[0]}x{shape[1]}", lambda function=function, x=x: function(x, axis=1)
                continue
            y, weight = driver.tensor(shape[:1], "int64"), driver.tensor(shape[1:], "float32")
            for options in ({}, {"weight": weight}):
                label = f"{name} {shape[0]}x{shape[1]}" + "".join(f" {option}" for option in options)
                yield label, lambda f=function, x=x, y=y, options=options: f(x, y, **options)


def main() -> None:
    sys.path[:0] = [str(TESTS), str(TESTS / "cuda")]
    from counted import Counted

    print(f"{'call':58} least  middle   launches, allocations, fills, copies, waits")
    with Counted(keeps=True) as driver:
        for label, call in calls(driver):
            call()
            driver.forget()
            call()
            counts = driver.counts()
            found = times_of(call)
            print(f"{label:58} {min(found):5.0f} {statistics.median(found):7.0f}   {counts}")


if __name__ == "__main__":
    main()
