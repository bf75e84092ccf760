"""What a call of fastce.dask costs on a cluster: measured constants in, times out, a line for each term.

Nothing overlaps here: computing, network and scheduler add up, so that a total is rather too long than too short.
"""

from dataclasses import dataclass, replace
from math import ceil, log2

GIBI = 1 << 30
GRADIENTS_AT_ONCE = 3  # parts of the right side's gradient in a worker: its own, one that has come, and their sum
BUDGET = 256 << 20  # memory_budget of a task


@dataclass(frozen=True)
class Constants:
    """Of the machines.

    Attributes
    ----------
    operations_per_second : float
        Of one worker's thread, in matrix products, while all cores are busy.
    seconds_per_added_byte : float
        Of one array that is added to another.
    bytes_per_second : float
        From one worker to another.
    seconds_per_task : float
        Of the scheduler and the client.
    connections : int
        To so many a worker sends at once; others must ask again (distributed.worker.connections.outgoing).
    """

    operations_per_second: float
    seconds_per_added_byte: float
    bytes_per_second: float
    seconds_per_task: float
    connections: int = 50


@dataclass(frozen=True)
class Call:
    """What is computed.

    Attributes
    ----------
    name : str
    rows, columns, width : int
        Of the matrix of logits, and of features; 0 for logits that are there.
    products : int
        Matrix products of rows x columns x width: 1 for a value, 4 for CLIP's gradients, 3 where one sweep does.
    seconds_per_element : float
        What fastce does with an element between the products.
    bytes_per_column : int
        Of what is known of a column, which the stripes merge.
    fixed_tasks, tasks_per_stripe : float
    itemsize : int
    """

    name: str
    rows: int
    columns: int
    width: int
    products: int
    seconds_per_element: float
    bytes_per_column: int
    fixed_tasks: float
    tasks_per_stripe: float
    itemsize: int = 4

    @property
    def has_gradients(self) -> bool:
        return self.products > 1

    @property
    def operations(self) -> float:
        """A product has a multiplication and an addition for each element and each feature."""
        return 2.0 * self.rows * self.columns * self.width * self.products

    @property
    def left_bytes(self) -> float:
        return float(self.rows * self.width * self.itemsize)

    @property
    def right_bytes(self) -> float:
        return float(self.columns * self.width * self.itemsize)


@dataclass(frozen=True)
class Cost:
    """Of one call on so many workers; bytes are those of one of them, times in seconds."""

    workers: int
    operations: float
    held_bytes: float
    network_bytes: float
    computing: float
    network: float
    scheduler: float

    @property
    def total(self) -> float:
        return self.computing + self.network + self.scheduler

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(("computing", "network", "scheduler"), key=lambda name: getattr(self, name))


def pulls(workers: int, connections: int) -> int:
    """How long it takes until all have what one had, in times of one transfer.

    All ask at once, and at first only one has it: it serves so many at once, each at a fraction of its speed.
    """
    have, units = 1, 0
    while have < workers:
        served = min(workers - have, have * connections)
        units += ceil(served / have)
        have += served
    return units


def computing(call: Call, constants: Constants, workers: int, stripes: int, cores: int | None = None) -> float:
    """The products and what is done between them, of the worker that has most stripes; workers may share cores."""
    whole = call.operations / constants.operations_per_second + call.rows * call.columns * call.seconds_per_element
    share = ceil(stripes / workers) / stripes
    return whole * (share if cores is None else max(share, 1 / cores))


def adding(call: Call, constants: Constants, workers: int, stripes: int) -> float:
    """Parts of the right side's gradient: those of a worker's own stripes, then those that come, along a tree."""
    sums = ceil(stripes / workers) - 1 + depth(workers)
    return sums * call.right_bytes * constants.seconds_per_added_byte if call.has_gradients else 0.0


def depth(workers: int) -> int:
    """Of the tree in which workers' results merge."""
    return ceil(log2(workers))


def upwards(call: Call) -> float:
    """The bytes that a merge takes from another worker: states of columns, and a gradient."""
    return call.columns * call.bytes_per_column + (call.right_bytes if call.has_gradients else 0.0)


def cost(
    call: Call,
    constants: Constants,
    workers: int,
    stripes: int,
    *,
    cores: int | None = None,
    is_spread: bool = False,
) -> Cost:
    """What fastce.dask does: rows in stripes, all of the right side in every worker.

    Parameters
    ----------
    call : Call
    constants : Constants
    workers, stripes : int
    cores : int, optional
        Of all workers together, where there are fewer.
    is_spread : bool
        Whether the right side went in pieces that workers pass on to each other: it comes once, and leaves once.
    """
    alone = workers == 1
    times = 0 if alone or not call.width else 2 if is_spread else 1 + pulls(workers, constants.connections)
    way_up = depth(workers) * upwards(call)  # along the tree, one transfer after the other
    way_down = 0.0 if alone else call.columns * call.bytes_per_column * call.has_gradients  # what columns have come to
    received = 0.0 if alone else call.right_bytes + upwards(call) + way_down
    kept = call.right_bytes * (1 + GRADIENTS_AT_ONCE * call.has_gradients) + BUDGET if call.width else 0.0
    own = call.left_bytes if call.width else float(call.rows * call.columns * call.itemsize)
    return Cost(
        workers,
        call.operations,
        kept + own * (1 + call.has_gradients) / workers,
        received,
        computing(call, constants, workers, stripes, cores) + adding(call, constants, workers, stripes),
        (times * call.right_bytes + way_up + way_down) / constants.bytes_per_second,
        (call.fixed_tasks + call.tasks_per_stripe * stripes) * constants.seconds_per_task,
    )


def best_grid(call: Call, workers: int) -> tuple[int, int]:
    """Parts of rows and of columns, as many together as workers, of which one worker needs the fewest features."""
    divisors = [down for down in range(1, workers + 1) if workers % down == 0]
    down = min(divisors, key=lambda down: call.rows / down + call.columns * down / workers)
    return down, workers // down


def grid_cost(call: Call, constants: Constants, workers: int) -> Cost:
    """What another way would cost: each worker has a part of the rows and a part of the columns.

    A part of the rows goes to all workers that have it, and so does a part of the columns; their states and gradients
    merge among these.
    """
    down, across = best_grid(call, workers)
    of_rows = replace(call, rows=call.columns // across, columns=call.rows // down)  # the same, seen from the side
    of_columns = replace(call, rows=call.rows // down, columns=call.columns // across)
    parts = [cost(of_columns, constants, down, down), cost(of_rows, constants, across, across)]
    whole = cost(call, constants, workers, workers)
    sums = adding(of_columns, constants, down, down) + adding(of_rows, constants, across, across)
    return replace(
        whole,
        held_bytes=(of_columns.right_bytes + of_rows.right_bytes) * (1 + GRADIENTS_AT_ONCE * call.has_gradients)
        + BUDGET,
        network_bytes=sum(part.network_bytes for part in parts),
        computing=computing(call, constants, workers, workers) + sums,
        network=sum(part.network for part in parts),
    )
