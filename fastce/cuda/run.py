"""Which kernel takes the rows of a call, and how it is launched."""

from dataclasses import dataclass
from typing import Any

from numba import config

from fastce.cuda import driver
from fastce.cuda._kernels.few_classes import REGISTER_BYTES, few_classes_kernel
from fastce.cuda._kernels.jobs import (
    KNOWN_STATES,
    STATES_ONLY,
    TOTAL_LOSS,
    WHOLE,
    Cube,
    Job,
    Options,
    Shape,
    Targets,
)
from fastce.cuda._kernels.lone_rows import THREADS as LONE_THREADS
from fastce.cuda._kernels.lone_rows import lone_rows_kernel
from fastce.cuda._kernels.primitives import ROOM_CHUNKS
from fastce.cuda._kernels.rows import THREADS, rows_kernel
from fastce.cuda._kernels.states import FIELDS, WARP
from fastce.cuda._kernels.sums import PER_BLOCK, sum_up, sum_up_losses
from fastce.cuda._kernels.sums import THREADS as SUM_THREADS
from fastce.cuda.arrays import DeviceArray, empty, zeros
from fastce.cuda.launching import launch
from fastce.cuda.layout import Rows, lanes_of
from fastce.cuda.libraries import Library

CHUNKS_OF_THREAD = ROOM_CHUNKS // THREADS
FEWEST_LANES = 4
ROWS_OF_BLOCK = 128  # of few classes
LINE_CHUNKS = 8  # of 128 bytes: parts of rows begin at multiples of them
BLOCKS_OF_MULTIPROCESSOR = 2  # that surely run at once


@dataclass(frozen=True)
class Call:
    """What a kernel is told of a call, beside the arrays of its rows."""

    job: Job
    options: Options
    targets: Targets
    mass_rows: Rows | None  # of probabilities
    upstream: Any
    report: DeviceArray


def run(call: Call, logits: Rows, out: Rows | None, results: DeviceArray | None) -> None:
    """Compute the result of each row into ``results``, or their sum into the report, and write ``out``."""
    is_few = _is_few(call, logits, out)
    count = -(-logits.count // ROWS_OF_BLOCK) if is_few else logits.count  # of numbers that add up to the total
    into = results if results is not None else empty(logits.array.library, (2 * count,), "float64")  # and shares
    if is_few:
        _run_few_classes(call, logits, out, into, results is None)
    else:
        (_run_rows if _is_matrix(call, logits, out) else _run_lone_rows)(call, logits, out, into)
    if results is None:
        add_up_losses(into, count, call.report)


def _all(call: Call, logits: Rows, out: Rows | None) -> list[Rows]:
    return [rows for rows in (logits, out, call.mass_rows) if rows is not None]


def _is_matrix(call: Call, logits: Rows, out: Rows | None) -> bool:
    return all(rows.is_matrix for rows in _all(call, logits, out))


def _is_aligned(logits: Rows, out: Rows | None) -> bool:
    """Whether chunks of the logits and of what is written lie alike."""
    lanes = lanes_of(logits.array)
    return out is None or (
        logits.phase(lanes) == out.phase(lanes) and (logits.count <= 1 or (logits.step - out.step) % lanes == 0)
    )


def _is_few(call: Call, logits: Rows, out: Rows | None) -> bool:
    return (
        logits.classes * (8 if call.job.is_float64 else 4) <= REGISTER_BYTES
        and _is_matrix(call, logits, out)
        and all(rows.step == rows.classes for rows in _all(call, logits, out))
        and _is_aligned(logits, out)
    )


def _written(logits: Rows, out: Rows | None) -> Any:
    """What kernels get to write to: an empty array for those that write nothing."""
    return logits.array.flat()[:0] if out is None else out.array.flat()


def _run_few_classes(call: Call, logits: Rows, out: Rows | None, results: DeviceArray, adds_up: bool) -> None:
    per_block = ROWS_OF_BLOCK
    launch(
        few_classes_kernel(call.job, logits.classes, per_block), -(-logits.count // per_block), per_block, logits.array,
        logits.array.flat(), _written(logits, out), logits.count, logits.phase(lanes_of(logits.array)), call.targets,
        call.options, call.upstream, call.report.flat(), results.flat(), adds_up,
    )  # fmt: skip


def _run_lone_rows(call: Call, logits: Rows, out: Rows | None, results: DeviceArray) -> None:
    nowhere = Cube(0, 0, 0, 0)
    launch(
        lone_rows_kernel(call.job), -(-logits.count // LONE_THREADS), LONE_THREADS, logits.array,
        logits.array.flat(), _written(logits, out), logits.count, logits.classes, logits.inner, logits.cube,
        nowhere if out is None else out.cube, nowhere if call.mass_rows is None else call.mass_rows.cube, call.targets,
        call.options, call.upstream, call.report.flat(), results.flat(),
    )  # fmt: skip


def _run_rows(call: Call, logits: Rows, out: Rows | None, results: DeviceArray) -> None:
    lanes = lanes_of(logits.array)
    chunks = most_chunks(logits, lanes)
    parts = -(-chunks // ROOM_CHUNKS)
    threads = lanes_for(chunks)
    shape = Shape(
        logits.count, logits.classes, logits.step, 0 if out is None else out.step,
        0 if call.mass_rows is None else call.mass_rows.step, logits.phase(lanes), _is_aligned(logits, out),
        parts, -(-chunks // (parts * LINE_CHUNKS)) * LINE_CHUNKS, WHOLE,
    )  # fmt: skip
    library = logits.array.library
    cut_rows = logits.count if parts > 1 else 0  # only their parts tell each other something
    states = empty(library, (cut_rows * parts * FIELDS + 1,), "float64").flat()
    posted = (zeros if cut_rows else empty)(library, (cut_rows + 1,), "int32").flat()
    per_block = THREADS // threads
    blocks = logits.count * parts if parts > 1 else -(-logits.count // per_block)
    kernel, written = rows_kernel(call.job), _written(logits, out)
    for stage in stages(call.job, parts, library):
        launch(
            kernel, blocks, (threads, per_block), logits.array,
            logits.array.flat(), written, shape._replace(stage=stage), call.targets, call.options, call.upstream,
            call.report.flat(), results.flat(), states, posted,
        )  # fmt: skip


def most_chunks(logits: Rows, lanes: int) -> int:
    """The chunks that a row takes, which is one more where rows begin between multiples of 16 bytes."""
    is_aligned = logits.phase(lanes) == 0 and (logits.step % lanes == 0 or logits.count <= 1)
    return -(-(logits.classes + (0 if is_aligned else lanes - 1)) // lanes)


def lanes_for(chunks: int) -> int:
    """Threads for a row of so many chunks: a warp or a part of one, else all threads of a block."""
    lanes = FEWEST_LANES
    while lanes <= WARP and chunks > lanes * CHUNKS_OF_THREAD:
        lanes *= 2
    return lanes if lanes <= WARP else THREADS


def stages(job: Job, parts: int, library: Library) -> list[int]:
    """Parts of rows wait for each other if all of a row's run at once; else their states are found first."""
    if parts == 1 or not job.writes or parts <= blocks_at_once(library):
        return [WHOLE]
    return [STATES_ONLY, KNOWN_STATES]


def blocks_at_once(library: Library) -> int:
    """Blocks that surely run at once; the simulator runs one."""
    if config.ENABLE_CUDASIM:
        return 1
    return driver.attribute(driver.MULTIPROCESSORS, library.device) * BLOCKS_OF_MULTIPROCESSOR


def sums_of_blocks(library: Library, values: Any, count: int) -> tuple[DeviceArray, int]:
    """The sums of blocks of numbers, and how many blocks there are."""
    blocks = max(1, -(-count // PER_BLOCK))
    totals = empty(library, (blocks,), "float64")
    launch(sum_up, blocks, SUM_THREADS, totals, values, count, PER_BLOCK, totals.flat(), 0)
    return totals, blocks


def add_up(values: DeviceArray, count: int, report: DeviceArray, field: int) -> None:
    """The sum of numbers in float64, in the same order every time, as a field of the report."""
    if count <= PER_BLOCK:
        launch(sum_up, 1, SUM_THREADS, report, values.flat(), count, PER_BLOCK, report.flat(), field)
        return
    totals, blocks = sums_of_blocks(values.library, values.flat(), count)
    launch(sum_up, 1, SUM_THREADS, totals, totals.flat(), blocks, blocks, report.flat(), field)


def add_up_losses(losses: DeviceArray, count: int, report: DeviceArray) -> None:
    """The total loss in the report, and that of the shares if it is not finite; shares may follow the losses."""
    flat, totals = report.flat(), losses
    while True:
        blocks = max(1, -(-count // PER_BLOCK))
        into, at = (report, TOTAL_LOSS) if blocks == 1 else (empty(report.library, (2 * blocks,), "float64"), 0)
        launch(sum_up_losses, blocks, SUM_THREADS, report, totals.flat(), count, PER_BLOCK, flat, into.flat(), at)
        if blocks == 1:
            return
        totals, count = into, blocks


def numbers_of(array: DeviceArray) -> Any:
    """The elements as a NumPy array, once the device has come to them."""
    return array.flat().copy_to_host()
