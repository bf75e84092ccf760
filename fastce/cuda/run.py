"""Which kernel takes the rows of a call, and how it is launched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastce.cuda._kernels.elements import has_one_point
from fastce.cuda._kernels.few_classes import REGISTER_BYTES, few_classes_kernel
from fastce.cuda._kernels.few_rooms import Stand
from fastce.cuda._kernels.jobs import (
    KNOWN_STATES,
    STATES_ONLY,
    WHOLE,
    Cube,
    Job,
    LoneShape,
    Options,
    Shape,
    Targets,
)
from fastce.cuda._kernels.lone_rows import THREADS as LONE_THREADS
from fastce.cuda._kernels.lone_rows import lone_rows_kernel
from fastce.cuda._kernels.primitives import ROOM_CHUNKS
from fastce.cuda._kernels.rows import THREADS, rows_kernel
from fastce.cuda._kernels.scale import nothing_by
from fastce.cuda._kernels.states import WARP
from fastce.cuda._kernels.sums import PER_BLOCK, PER_GROUP, ScaleTally, Tally, add_up_all, sum_up
from fastce.cuda._kernels.sums import THREADS as SUM_THREADS
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.flat import nothing
from fastce.cuda.launching import blocks_at_once, launch
from fastce.cuda.layout import Rows, lanes_of
from fastce.cuda.rooms import Rooms, rooms_of

CHUNKS_OF_THREAD = ROOM_CHUNKS // THREADS
FEWEST_LANES = 4
ROWS_OF_BLOCK = 128  # of few classes
LINE_CHUNKS = 8  # of 128 bytes: parts of rows begin at multiples of them


class Call(NamedTuple):
    """What a kernel is told of a call, beside the arrays of its rows."""

    job: Job
    options: Options
    targets: Targets
    mass_rows: Rows | None  # of probabilities
    upstream: Any


@dataclass(frozen=True)
class Plan:
    """The kernel that takes the rows of a call, and what it needs room for."""

    call: Call
    logits: Rows
    out: Rows | None
    start: Callable[["Plan", Any, Rooms, Tally | ScaleTally], None]
    losses: int  # that are added up: of rows or blocks; 0 if the results of rows are asked for
    parts: int = 1  # of a row

    @property
    def groups(self) -> int:
        """How many sums of losses there are before that of all."""
        return groups_of(self.losses)

    @property
    def cut_rows(self) -> int:
        """Rows whose parts tell each other something."""
        return self.logits.count if self.parts > 1 else 0

    @property
    def tickets(self) -> int:
        """How many counters the kernel needs."""
        return tickets_of(self.losses) + (self.cut_rows + 1 if self.cut_rows else 0)

    @property
    def numbers(self) -> int:
        """How many numbers in float64: losses and sums, with their shares and slopes; states of parts."""
        return self._at_states + self.cut_rows * self.parts * len(nothing_by(self.call.job))

    @property
    def _each(self) -> int:
        """How many numbers each loss has, and each group of them: with its share, and its derivative by the scale."""
        return 3 if self.call.job.by_scale else 2

    @property
    def _at_states(self) -> int:
        return self._each * (self.losses + self.groups)

    def run(self, rooms: Rooms, results: Any = None) -> None:
        """Compute the result of each row into ``results``, or their sum into the report, and write ``out``."""
        numbers, tickets = rooms.numbers, tickets_of(self.losses)
        at_sums, at_states = self._each * self.losses, self._at_states
        own = Rooms(rooms.report, rooms.tickets[tickets : self.tickets], numbers[at_states : self.numbers])
        losses, slopes = numbers[: 2 * self.losses], numbers[2 * self.losses : at_sums]
        of_losses = Tally(numbers[at_sums:at_states], rooms.tickets[:tickets], group_bits())
        tally: Tally | ScaleTally = of_losses
        if self.call.job.by_scale:
            tally = ScaleTally(*of_losses, slopes, nothing("float64") if results is None else results)
        self.start(self, losses if self.losses else results, own, tally)


def groups_of(losses: int) -> int:
    """How many groups so many losses are added up in."""
    return -(-losses // PER_GROUP)


def group_bits() -> int:
    """The binary logarithm of the size of a group."""
    return PER_GROUP.bit_length() - 1


def tickets_of(losses: int) -> int:
    """How many counters that needs."""
    return 1 + groups_of(losses) if losses else 0


def plan_of(call: Call, logits: Rows, out: Rows | None, adds_up: bool) -> Plan:
    """How to compute the rows of a call; with ``adds_up`` their sum is asked for, else the result of each.

    Where the derivative by the scale is asked for, of which there is but a sum, that of the results is there, too.
    """
    adds_up = adds_up or call.job.by_scale
    if _is_few(call, logits, out):
        return Plan(call, logits, out, _start_few_classes, adds_up * -(-logits.count // ROWS_OF_BLOCK))
    if not _is_matrix(call, logits, out):
        return Plan(call, logits, out, _start_lone_rows, adds_up * -(-logits.count // LONE_THREADS))
    parts = -(-most_chunks(logits, lanes_of(logits.array)) // ROOM_CHUNKS)
    return Plan(call, logits, out, _start_rows, adds_up * logits.count, parts)


def run(call: Call, logits: Rows, out: Rows | None, results: Any, report: Any) -> None:
    """Compute the result of each row, with rooms of its own, for a report that is there."""
    plan = plan_of(call, logits, out, adds_up=False)
    rooms = Rooms(report, nothing("int32"), nothing("float64"))
    if plan.tickets:
        rooms = rooms_of(logits.array.library, plan.tickets, plan.numbers)._replace(report=report)
    plan.run(rooms, results)


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


def _is_plain(call: Call) -> bool:
    """Whether losses are those of class indices, with no weights, smoothing or z_loss."""
    targets, options = call.targets, call.options
    has_weights = targets.class_weight.size > 0 or targets.row_weight.size > 0
    return has_one_point(call.job) and not has_weights and options.keep == 1.0 and options.z_loss == 0.0


def _written(logits: Rows, out: Rows | None) -> Any:
    """What kernels get to write to: an empty array for those that write nothing."""
    return logits.array.flat()[:0] if out is None else out.array.flat()


def _start_few_classes(plan: Plan, results: Any, rooms: Rooms, tally: Tally | ScaleTally) -> None:
    call, logits, lanes = plan.call, plan.logits, lanes_of(plan.logits.array)
    stand = Stand(logits.classes, ROWS_OF_BLOCK, lanes, logits.phase(lanes))
    job = call.job._replace(is_plain=_is_plain(call))
    launch(
        few_classes_kernel(job, stand), -(-logits.count // stand.rows), stand.rows, logits.array,
        logits.array.flat(), _written(logits, plan.out), logits.count, call.targets, call.options, call.upstream,
        rooms.report, results, tally,
    )  # fmt: skip


def _start_lone_rows(plan: Plan, results: Any, rooms: Rooms, tally: Tally | ScaleTally) -> None:
    call, logits, out, nowhere = plan.call, plan.logits, plan.out, Cube(0, 0, 0, 0)
    shape = LoneShape(
        logits.count, logits.classes, logits.inner, logits.cube, nowhere if out is None else out.cube,
        nowhere if call.mass_rows is None else call.mass_rows.cube,
    )  # fmt: skip
    launch(
        lone_rows_kernel(call.job), -(-logits.count // LONE_THREADS), LONE_THREADS, logits.array,
        logits.array.flat(), _written(logits, out), shape, call.targets, call.options, call.upstream, rooms.report,
        results, tally,
    )  # fmt: skip


def _start_rows(plan: Plan, results: Any, rooms: Rooms, tally: Tally | ScaleTally) -> None:
    call, logits, out, parts = plan.call, plan.logits, plan.out, plan.parts
    lanes = lanes_of(logits.array)
    chunks = most_chunks(logits, lanes)
    threads = lanes_for(chunks)
    shape = Shape(
        logits.count, logits.classes, logits.step, 0 if out is None else out.step,
        0 if call.mass_rows is None else call.mass_rows.step, logits.phase(lanes), _is_aligned(logits, out),
        parts, -(-chunks // (parts * LINE_CHUNKS)) * LINE_CHUNKS, WHOLE,
    )  # fmt: skip
    per_block = THREADS // threads
    blocks = logits.count * parts if parts > 1 else -(-logits.count // per_block)
    kernel, where, flat, written = rows_kernel(call.job), logits.array, logits.array.flat(), _written(logits, out)
    told = call.targets, call.options, call.upstream, rooms.report, results, rooms.numbers, rooms.tickets, tally
    at_once = 1
    if parts > 1 and call.job.writes:
        at_once = blocks_at_once(kernel, THREADS, where, flat, written, shape, *told)
    for stage in stages(call.job, parts, at_once):
        launch(kernel, blocks, (threads, per_block), where, flat, written, shape._replace(stage=stage), *told)


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


def stages(job: Job, parts: int, at_once: int) -> list[int]:
    """Parts of rows wait for each other if all of a row's run at once; else their states are found first."""
    return [WHOLE] if parts == 1 or not job.writes or parts <= at_once else [STATES_ONLY, KNOWN_STATES]


def add_up(values: DeviceArray, count: int, report: DeviceArray, field: int) -> None:
    """The sum of numbers in float64, in the same order every time, as a field of the report."""
    flat, blocks = values.flat(), max(1, -(-count // PER_BLOCK))
    if blocks > 1:
        totals = empty(values.library, (blocks,), "float64")
        launch(sum_up, blocks, SUM_THREADS, totals, flat, count, PER_BLOCK, totals.flat(), 0)
        flat, count = totals.flat(), blocks
    launch(sum_up, 1, SUM_THREADS, report, flat, count, max(count, 1), report.flat(), field)


def add_up_losses(losses: DeviceArray, count: int, report: Any) -> None:
    """The total loss in the report, and that of the shares if it is not finite."""
    groups = groups_of(count)
    if groups:
        rooms = rooms_of(losses.library, tickets_of(count), 2 * groups)
        launch(
            add_up_all, groups, SUM_THREADS, losses, losses.flat(), count, report,
            Tally(rooms.numbers, rooms.tickets, group_bits()),
        )  # fmt: skip


def numbers_of(array: DeviceArray) -> Any:
    """The elements as a NumPy array, once the device has come to them."""
    return array.flat().copy_to_host()
