"""How long the device and the host are busy with a call.

**Time on the device.** An event before and one after what a call queues are apart by more than the device's time if
the host is slower at queueing than the device at computing: the device waits. So a kernel that only spins goes first;
while it does, the host queues the event, all of the call, and the other event, and the device goes through them
without a gap. Whether the host was done in time is seen by the first event, which must not have happened yet when the
second one is queued; if it has, the device spins for longer the next time.

fastce's losses wait for the device once a call, to read the verdict on the targets with the value. There the second
event is queued just before that read: all kernels of the call count, the wait for them does not.

**Time of a call** is the wall's, over many calls one after the other, with one wait at the end. With a wait in each
call it counts in each.
"""

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

SPIN = 2_000_000  # cycles at first: about a millisecond
LONGEST_SPIN = 1 << 26
ATTEMPTS = 8
CALLS = 10  # that are timed together on the wall's clock
CALLS_OF_SMALL = 200


def summary(values: list[float]) -> dict[str, float]:
    """The median, the least, and the quartiles."""
    lower, _, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median(values), "least": min(values), "lower": lower, "upper": upper, "count": len(values)}


@contextmanager
def before_reads(mark: Callable[[], None]):
    """Call ``mark`` each time that fastce is about to wait for the device and read numbers from it."""
    name = "numbers_of"
    found = [module for key, module in list(sys.modules.items()) if key.startswith("fastce.cuda.")]
    readers = [(module, vars(module)[name]) for module in found if name in vars(module)]

    def marked(read):
        def mark_and_read(*args, **kwargs):
            mark()
            return read(*args, **kwargs)

        return mark_and_read

    for module, read in readers:
        setattr(module, name, marked(read))
    try:
        yield
    finally:
        for module, read in readers:
            setattr(module, name, read)


class Stopwatch:
    """Times calls on the device; remembers how long it must spin for each."""

    def __init__(self, cuda: Any):
        self.cuda = cuda  # torch.cuda
        self._spins: dict[Any, int] = {}

    def device_seconds(self, key: Any, call: Callable[[], Any]) -> tuple[float, bool]:
        """What the device needs for a call, and whether the host was ahead of it all the time."""
        spin = self._spins.get(key, SPIN)
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        marks: list[bool] = []  # whether the device still spins

        def mark():
            end.record()
            marks.append(not start.query())

        self.cuda.synchronize()
        self.cuda._sleep(spin)
        start.record()
        with before_reads(mark):
            result = call()
        if not marks:
            mark()
        self.cuda.synchronize()
        del result
        if not all(marks):
            self._spins[key] = min(2 * spin, LONGEST_SPIN)
        return start.elapsed_time(end) / 1e3, all(marks)

    def call_seconds(self, call: Callable[[int], Any], buffers: int, calls: int) -> tuple[float, float]:
        """Of one call of many: by the wall's clock, and by events around all of them."""
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.cuda.synchronize()
        began = time.perf_counter()
        start.record()
        for k in range(calls):
            call(k % buffers)
        end.record()
        self.cuda.synchronize()
        return (time.perf_counter() - began) / calls, start.elapsed_time(end) / 1e3 / calls


class Turns:
    """Measures several calls in turns, each time on the next buffer."""

    def __init__(self, stopwatch: Stopwatch, buffers: int, restore: Callable[[int], None], tell: Callable[[str], None]):
        self.stopwatch, self.buffers, self.restore, self.tell = stopwatch, buffers, restore, tell
        self._next = 0
        self._waits: set[str] = set()  # those that wait for the device in the midst of a call

    def measure(self, calls: dict[str, Callable[[int], Any]], repeats: int, calls_at_once: int) -> dict[str, dict]:
        """What each took: on the device, by the wall's clock, and by events around several calls."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        is_clean = dict.fromkeys(calls, True)
        names = list(calls)
        for turn in range(repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds, clean = self._once(name, calls[name])
                times[name].append(seconds)
                is_clean[name] &= clean
        return {
            name: {"device": summary(times[name]), "host_was_ahead": is_clean[name]}
            | self._calls(name, calls[name], calls_at_once)
            for name in names
        }

    def _once(self, name, call):
        """Tried until the host is ahead, on another buffer each time: the cache holds the end of the last one."""
        self.tell(name)
        for _ in range(1 if name in self._waits else ATTEMPTS):
            k = self._next = (self._next + 1) % self.buffers
            seconds, is_clean = self.stopwatch.device_seconds(name, lambda k=k: call(k))
            self.restore(k)
            if is_clean:
                return seconds, True
        self._waits.add(name)
        return seconds, False

    def _calls(self, name, call, calls_at_once):
        self.tell(name)
        pairs = [self.stopwatch.call_seconds(call, self.buffers, calls_at_once) for _ in range(3)]
        for k in range(self.buffers):
            self.restore(k)
        wall, queue = zip(*pairs, strict=True)
        return {"wall_seconds": median(wall), "queue_seconds": median(queue)}
