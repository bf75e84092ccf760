"""Statistics of rows, run over blocks: one kernel for all that is asked for."""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.statistics import Statistics, statistics_rows
from fastce.cpu.layout import Rows, cut_for
from fastce.cpu.threads import for_each
from fastce.typing import IntegerStatistic

INTEGERS = get_args(IntegerStatistic)


def statistics_of(rows: Rows, classes: Array, names: Sequence[str], n_threads: int | None) -> dict[str, Array]:
    """What outputs of these names are made of, in flat arrays; ``classes`` are the targets, if one needs them."""
    kernel = statistics_rows.compiled(rows.dtype)
    results = _room_for(names, rows.rows)

    def work(start: int, stop: int) -> None:
        kernel(rows.block(start, stop), classes[start:stop], Statistics(*(part[start:stop] for part in results)))

    for_each(cut_for(rows), work, n_threads)
    return results._asdict()


def _room_for(names: Sequence[str], rows: int) -> Statistics:
    """One element a row for what the kernel is to compute, none for the rest."""
    wanted = {"target_rank" if name == "in_top_k" else name for name in names}
    return Statistics(
        *(
            np.empty(rows if name in wanted else 0, np.int64 if name in INTEGERS else np.float64)
            for name in Statistics._fields
        )
    )
