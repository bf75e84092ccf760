"""The tasks of a call: a layer of Dask's graph, and the arrays that come of it."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from fastce.apart import apart, here
from fastce.arguments.numbers import checked_num_threads
from fastce.cpu.engine import Cpu
from fastce.dask.share import share

Key: TypeAlias = tuple[Any, ...]


class Stripe(NamedTuple):
    """A chunk of rows."""

    number: int
    rows: slice

    @property
    def length(self) -> int:
        """The number of rows."""
        return int(self.rows.stop - self.rows.start)

    def of(self, name: str) -> str:
        """What it is called in errors."""
        return f"stripe {self.number} of {name}: rows {self.rows.start} to {self.rows.stop}"


def stripes_of(chunks: Sequence[int]) -> list[Stripe]:
    """Those of an array whose chunks have so many rows."""
    ends = np.cumsum([0, *chunks]).tolist()
    return [Stripe(k, slice(start, stop)) for k, (start, stop) in enumerate(itertools.pairwise(ends))]


class Tasks:
    """The tasks of a call of the function ``name`` with these arrays and options, which no other call has.

    They are one layer of the graphs of all arrays that come of it, and all are added before the call returns.
    """

    def __init__(
        self, name: str, arrays: Sequence[Any], options: Any, n_threads: Any, *, multiplies: bool = True
    ) -> None:
        self.name = name
        self.n_threads: int | None = None if n_threads is None else checked_num_threads(n_threads)
        self.multiplies = multiplies
        self.arrays = arrays
        self.token: str = tokenize(name, *arrays, options, self.n_threads)
        self.tasks: dict[Key, Any] = {}

    def add(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        stripe: Stripe | None = None,
        kind: str | None = None,
        **options: Any,
    ) -> Key:
        """The key of a task: function(engine, *args, **options), where keys among the args stand for results.

        Dask shows of which ``kind`` it is: by default the name of the function.
        """
        where = None if stripe is None else stripe.of(self.name)
        run = partial(_run, function, where, self.n_threads, self.multiplies, options)
        return self._key(kind or function.__name__, run, *args)

    def constant(self, value: Any) -> Key:
        """The key of a value."""
        return self._key("constant", partial(_itself, value))

    def picked(self, key: Key, place: int | slice) -> Key:
        """The key of one of several results of a task, or of some rows of it, that can travel without the others."""
        return self._key("picked", itemgetter(place), key)

    def _key(self, kind: str, *task: Any) -> Key:
        key = f"{self.name}-{kind.strip('_')}-{self.token}", len(self.tasks)
        self.tasks[key] = task
        return key

    def tree(self, function: Callable[..., Any], keys: Sequence[Key], *args: Key) -> Key:
        """The key of all results merged, by function(engine, pair, *args): few are in memory at once.

        Which pairs are merged depends on their number alone.
        """
        while len(keys) > 1:
            pairs = [list(keys[k : k + 2]) for k in range(0, len(keys), 2)]
            keys = [pair[0] if len(pair) == 1 else self.add(function, pair, *args) for pair in pairs]
        return keys[0]

    def array(self, kind: str, keys: Sequence[Key], chunks: Any, dtype: Any, place: Any = None) -> Any:
        """The array whose chunks, the last axis first, are these results, or one of several in each."""
        name = f"{self.name}-{kind}-{self.token}"
        pick = _itself if place is None else itemgetter(place)
        places = itertools.product(*(range(len(sizes)) for sizes in chunks))
        parts: dict[Any, Any] = {(name, *at): (pick, key) for at, key in zip(places, keys, strict=True)}
        whole = HighLevelGraph.from_collections(f"{self.name}-{self.token}", self.tasks, dependencies=self.arrays)
        layers = {**whole.layers, name: parts}
        dependencies = {**whole.dependencies, name: {f"{self.name}-{self.token}"}}
        return da.Array(HighLevelGraph(layers, dependencies), name, chunks, dtype=dtype)

    def number(self, kind: str, key: Key, place: int | None = None) -> Any:
        """An array of shape ()."""
        return self.array(kind, [key], (), np.float64, place)


def in_share(function: Callable[..., Any], n_threads: Any) -> Callable[..., Any]:
    """The function for tasks of Dask's own making, within its share; it multiplies no matrices."""
    return partial(_shared, function, None if n_threads is None else checked_num_threads(n_threads))


def _shared(function: Callable[..., Any], n_threads: int | None, *args: Any, **options: Any) -> Any:
    if here.has_small_stack:
        return apart(partial(_shared, function, n_threads, *args, **options))
    with share(n_threads, multiplies=False):
        return function(*args, **options)


def _run(
    function: Callable[..., Any], where: str | None, n_threads: int | None, multiplies: bool, options: Any, *args: Any
) -> Any:
    """Compute a task within its share; an error names the stripe."""
    if here.has_small_stack:
        return apart(partial(_run, function, where, n_threads, multiplies, options, *args))
    engine = Cpu(1 if n_threads is None else n_threads)
    try:
        with share(n_threads, multiplies=multiplies), engine.working():
            return function(engine, *args, **options)
    except Exception as error:
        if where is not None:
            error.add_note(where)
        raise


def _itself(result: Any) -> Any:
    return result
