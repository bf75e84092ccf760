"""How time and memory are measured: callables taking turns, and the highest resident memory during a call."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]


def seconds(call: Call, repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """The time of one call, of so many that are timed together."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


@dataclass(frozen=True)
class Turn:
    """A call that takes turns with others.

    Attributes
    ----------
    call : callable
    rounds : int
        It is timed in the first so many.
    before : callable or None
        Run before each, outside the time.
    repeats : int
        How often it is called in a round, timed together.
    """

    call: Call
    rounds: int
    before: Call | None = None
    repeats: int = 1


def times_in_turns(
    turns: Sequence[Turn],
    floor: Call | None = None,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[float]], list[float]]:
    """The times of calls that take turns, and of a floor that comes before each of them.

    Turns put all under the same conditions, so that they can be compared on a machine whose speed drifts. Each is timed
    right after a call of the floor, which leaves the same state of the caches to all.

    Parameters
    ----------
    turns : sequence of Turn
        What is timed.
    floor : callable or None
        What the calls are held against.
    pause : float
        Seconds to sleep before each call: the threads of some libraries spin on for a while after a call, and would
        slow the next one down.
    clock : callable
        Tells the seconds.

    Returns
    -------
    call_times : list of list of float
        Of each, in each round.
    floor_times : list of float
    """
    floor_times: list[float] = []
    call_times: list[list[float]] = [[] for _ in turns]
    for number in range(max(turn.rounds for turn in turns)):
        for turn, times in zip(turns, call_times, strict=True):
            if number < turn.rounds:
                time.sleep(pause)
                if floor is not None:
                    floor()
                    floor_times.append(seconds(floor, clock=clock))
                if turn.before is not None:
                    turn.before()
                times.append(seconds(turn.call, turn.repeats, clock))
    return call_times, floor_times


def median_ratio(job_times: Sequence[float], floor_times: Sequence[float]) -> float:
    """The median over the rounds of job to floor."""
    return statistics.median(job / floor for job, floor in zip(job_times, floor_times, strict=True))


def extra_memory(call: Call) -> tuple[int | None, Any]:
    """How far the resident memory of the process rises during a call.

    On Linux the system's record of the highest resident memory is set back before the call. Elsewhere it is
    the growth of the highest resident memory since the process began: a lower bound, as an earlier peak may
    hide some. The resolution is about half a mebibyte; what an allocator has kept for reuse does not show.

    Returns
    -------
    nbytes : int or None
        None where the system does not tell.
    result
        What the call returned.
    """
    _return_freed_memory()
    if _reset_peak():
        before = _status("VmRSS")
        result = call()
        return max(0, _status("VmHWM") - before), result
    peak_before = _lifetime_peak()
    result = call()
    peak = _lifetime_peak()
    return (None if peak is None or peak_before is None else peak - peak_before), result


def _return_freed_memory() -> None:
    """Ask glibc to give back what earlier calls freed: reusing it would not show as growth."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _reset_peak() -> bool:
    """Set the record of the highest resident memory to the present; False where that is not possible."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return _status("VmHWM") - _status("VmRSS") < 1 << 20  # some sandboxes accept the request and do nothing
    except (OSError, KeyError):
        return False


def _status(name: str) -> int:
    """A size in bytes from the process's status file."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return int(lines[name].split()[0]) * 1024


def _lifetime_peak() -> int | None:
    """The highest resident memory since the process began, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
