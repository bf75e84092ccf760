"""The memory that a call needs beside its arrays: made at once, and given back with the call."""

from typing import Any, NamedTuple

from fastce.cuda._kernels.jobs import REPORT
from fastce.cuda.arrays import empty, fill_with_zeros
from fastce.cuda.flat import elements_of
from fastce.cuda.libraries import Library


class Rooms(NamedTuple):
    """Flat arrays: what the host reads in the end, and what kernels tell each other."""

    report: Any  # float64, zeros
    tickets: Any  # int32, zeros
    numbers: Any  # float64, of anything


def rooms_of(library: Library, tickets: int, numbers: int) -> Rooms:
    """Rooms for so many tickets and numbers."""
    tickets += tickets % 2  # numbers begin at a multiple of 8 bytes
    zeros = 8 * REPORT + 4 * tickets
    memory = empty(library, (zeros + 8 * numbers,), "uint8")
    fill_with_zeros(memory, zeros)
    return Rooms(
        elements_of(memory, 0, REPORT, "float64"),
        elements_of(memory, 8 * REPORT, tickets, "int32"),
        elements_of(memory, zeros, numbers, "float64"),
    )
