"""row_stats for arrays on a GPU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, class_axis, not_integers
from fastce.arguments.numbers import chosen, integer
from fastce.arguments.statistics import OUTPUTS, asks_for_targets, checked_top_k, numbers_of_classes
from fastce.cuda._kernels.jobs import SPARSE, Targets, options_of
from fastce.cuda._kernels.states import WARP
from fastce.cuda._kernels.statistics import Asked, best_points, statistics_kernel
from fastce.cuda._kernels.statistics_ends import NO_CLASS, OF_KNOWN, THREADS, Statistics, parts_kernel
from fastce.cuda.arrays import DeviceArray, device_array, empty
from fastce.cuda.cross_entropy import float_array, readable_rows, real_of
from fastce.cuda.flat import nothing
from fastce.cuda.groups import group_for
from fastce.cuda.launching import launch
from fastce.cuda.layout import Rows, blocks_for, lanes_of, rows_of
from fastce.cuda.products import on_device
from fastce.cuda.rooms import rooms_of
from fastce.cuda.run import numbers_of
from fastce.cuda.sparse import is_sparse
from fastce.cuda.targets import INTEGERS, DeviceTargets, described_targets, no_targets
from fastce.cuda.verdicts import check, verdict

DTYPES = {"rest": "float64", "argmax": "int64", "target_rank": "int64", "in_top_k": "bool"}  # the others are of reals
OF_SUMS = {"logsumexp", "rest", "entropy", "target_log_prob"}
FEWEST_IN_CHUNKS = 128  # classes; of more, a chunk for each thread of a warp
MOST_OF_BLOCK = 1 << 14  # classes, where rows are so few that parts of them have blocks of their own
MANY_BLOCKS = 1 << 10  # that keep any GPU busy
MOST = 1 << 62  # of ranks that count


def row_stats(**given: Any) -> dict[str, Any]:
    """See `fastce.row_stats`."""
    names = chosen(given["outputs"], "outputs", OUTPUTS)
    logits = float_array(given["logits"], "logits")
    axis = class_axis(logits, given["axis"], "logits")  # type: ignore[arg-type]  # it has a shape
    lead, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis]
    targets = _targets(given, names, logits, axis)
    limit, count = min(checked_top_k(given["top_k"]), MOST), math.prod(lead)
    real = real_of(logits)
    results = {name: empty(logits.library, lead, DTYPES.get(name, real.name)) for name in names}
    if targets is not None:
        check(targets, count, classes, False, 1.0)
    report = rooms_of(logits.library, 0, 0).report if targets is None else targets.report
    if count:
        rows = readable_rows(logits, axis)
        of_rows, ignored = _classes_of_rows(targets, rows) if asks_for_targets(names, targets) else (None, NO_CLASS)
        _launch(rows, results, of_rows, ignored, limit, report)
    if targets is not None:
        verdict(targets, count, classes)
    return {name: results[name].given for name in names}


def store_statistics(rows: Rows, results: Mapping[Any, DeviceArray]) -> None:
    """Store what needs no targets: "max", say, or "rest", by the names of `Statistics`."""
    _launch(rows, results, None, NO_CLASS, MOST, rooms_of(rows.array.library, 0, 0).report)


def _launch(
    rows: Rows, results: Mapping[Any, DeviceArray], classes: Any, ignored: int, top_k: int, report: Any
) -> None:
    logits, names = rows.array, set(results)
    real = real_of(logits)
    in_chunks = rows.is_matrix and rows.classes > FEWEST_IN_CHUNKS
    asked = Asked(real == np.float64, bool(names & OF_SUMS), "entropy" in names, in_chunks)
    rooms = (results[k].flat() if k in results else nothing(DTYPES.get(k, real.name)) for k in Statistics._fields)
    told = (
        nothing("int64") if classes is None else classes, ignored, top_k, options_of(real), report, Statistics(*rooms)
    )  # fmt: skip
    blocks, group = group_for(rows)
    parts = _parts_of(rows, group)
    found = empty(logits.library, (rows.count * parts * OF_KNOWN if parts > 1 else 0,), "float64").flat()
    launch(
        statistics_kernel(asked), blocks * parts, group, logits,
        logits.flat(), rows.count, rows.classes, rows.inner, rows.cube, rows.phase(lanes_of(logits)),
        parts, MOST_OF_BLOCK if parts > 1 else rows.classes, found, *told,
    )  # fmt: skip
    if parts > 1:
        of_block = THREADS // WARP
        launch(
            parts_kernel(asked.sums), -(-rows.count // of_block), (WARP, of_block), logits,
            logits.flat(), rows.count, rows.inner, rows.cube, parts, found, *told,
        )  # fmt: skip


def _parts_of(rows: Rows, group: tuple[int, int]) -> int:
    """How many blocks take a row; by its shape alone, so that bits are the same in every run."""
    is_cut = group[1] == 1 and rows.count < MANY_BLOCKS
    return -(-rows.classes // MOST_OF_BLOCK) if is_cut else 1


def _targets(given: dict[str, Any], names: Sequence[str], logits: DeviceArray, axis: int) -> DeviceTargets | None:
    """The targets, described; whether outputs need them is seen here, as on the CPU."""
    targets, ignored = given["targets"], integer(given["ignore_index"], "ignore_index")
    asks_for_targets(names, targets)
    if targets is None:
        return None
    lead, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis]
    if is_sparse(targets):
        if ignored >= 0:
            raise ValueError(f"ignore_index applies to class indices, got {ignored} with sparse targets")
    else:
        array = device_array(targets, "targets", logits.library)
        if array.shape == (math.prod(lead), classes) != lead:
            raise numbers_of_classes(array.shape)
        if array.dtype_name not in INTEGERS:
            is_float = array.dtype_name.startswith("float")
            raise not_integers(f"dtype {array.dtype_name}", "row_stats", is_float=is_float)
    return described_targets(
        targets, logits, axis, weight=None, sample_weight=None, ignore_index=ignored, spread=0.0, real="float64"
    )


def _classes_of_rows(targets: DeviceTargets | None, rows: Rows) -> tuple[Any, int]:
    """(the class of each row, that of rows without any)."""
    assert targets is not None
    if targets.points != SPARSE:
        return targets.arrays.classes, targets.arrays.ignore_index
    best = _best_of(targets.arrays, rows, targets.report)
    targets.kept.append(best)
    return best.flat(), NO_CLASS


def _best_of(points: Targets, rows: Rows, report: Any) -> DeviceArray:
    """The class of the best point of each row, NO_CLASS where there is none."""
    best = empty(rows.array.library, (rows.count,), "int64")
    launch(
        best_points, blocks_for(rows.count), THREADS, rows.array,
        rows.array.flat(), rows.count, rows.inner, rows.cube, points, report, best.flat(),
    )  # fmt: skip
    return best


def best_ranks(panel: DeviceArray, first: Array, classes: Array) -> Array:
    """The rank of the best of the classes of each row, ``first[i]`` to ``first[i + 1]`` of these, on the host."""
    library, rows = panel.library, rows_of(panel, 1)
    assert rows is not None
    sent = [on_device(numbers, library) for numbers in (classes, first, np.ones(classes.size))]
    rank = empty(library, (rows.count,), "int64")
    if rows.count and classes.size:
        flat = [one.flat() for one in sent]
        report = rooms_of(library, 0, 0).report
        points = no_targets("float64")._replace(classes=flat[0], first_points=flat[1], masses=flat[2])
        best = _best_of(points, rows, report)
        _launch(rows, {"target_rank": rank}, best.flat(), NO_CLASS, 1, report)
    return numbers_of(rank) if rows.count and classes.size else np.full(rows.count, NO_CLASS)
