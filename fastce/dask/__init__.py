"""On a cluster: losses and statistics of Dask's arrays, for what more than one machine holds.

>>> import dask, dask.array as da, numpy as np, fastce
>>> logits = da.random.default_rng(0).normal(size=(4000, 5000), chunks=(1000, 2500))  # nothing is computed yet
>>> targets = np.arange(4000) % 5000
>>> loss = fastce.cross_entropy(logits, targets)
>>> loss.shape, round(float(loss.compute()), 4)
((), 9.0205)

The plain functions of these names take Dask arrays, and so do those of this module: the same arguments, but for ``out``
and what only one machine has. They give Dask arrays, of shape () for numbers, and compute nothing. What belongs
together is computed together, so that the work is done once:

>>> features = [da.random.default_rng(k).normal(size=(300, 16), chunks=(100, 16)) for k in range(2)]
>>> result = fastce.clip_loss_from_features_value_and_grad(*features, 0.5, normalize=True)
>>> value, grad_image_features, *_ = dask.compute(*result)
>>> round(float(value), 4), grad_image_features.shape
(5.7057, (300, 16))

It needs the extra ``dask``: ``pip install "fastce[dask]"``.

**Chunks.** Logits may be cut along rows, classes or both. Where a chunk has all classes of its rows, it is read once
for the loss and its gradient, as on one machine. Else it is read twice for a gradient, and what travels between are
some numbers of each row. Chunks of 64 to 512 MiB are good: a task takes Dask a millisecond or a few. Of features, a
*stripe* is a chunk of rows of the first argument, and all rows of the second one go to each worker: as many stripes as
there are workers, or a few times that. A stripe gives the gradient of its own rows and a part of the other side's
gradient, of that one's size; parts add up two by two. No matrix of products crosses the network, or ever exists as a
whole.

**Data.** Let tasks load it where it is used: `dask.array.from_zarr`, `dask.array.from_array` of a memmap or an HDF5 set
on a disk that all workers see, or `dask.array.map_blocks` of a function that reads a part. What is scattered to one
worker is lost with it; what tasks have loaded is loaded again. ``logits.persist()`` keeps chunks in the memory of the
workers.

**Threads.** A task computes with one thread, whatever else its process has: a thread of a Dask worker is one core. So
do NumPy's products in it. ``n_threads=4`` is for workers of one thread and four cores, say.

**The same bits.** The same chunks give the same bits, on any number of workers, after a worker was lost, and on the
synchronous scheduler. Other chunks may change the last bit. Products are NumPy's: other machines may differ in theirs.

**Errors.** Arguments are checked when a function is called, values when they are computed. What a task raises keeps its
type, and says which stripe it was of: ``stripe 3 of cross_entropy: rows 3000 to 4000``.

**A cluster on this machine**, of two processes of one thread each, and what it costs beside one process:

    fastce profile --dask 2

In a program it is ``client = distributed.Client(n_workers=2, threads_per_worker=1)``; a cluster that runs already is
``distributed.Client(address)``, and for the measurement ``fastce profile --scheduler ADDRESS``. All functions use
it from then on. How time grows with workers, and what limits it, is in bench/README.md, The plan past these machines.
"""

try:
    import dask.array  # noqa: F401
    import threadpoolctl  # noqa: F401
except ImportError as _error:
    raise ImportError(f'fastce.dask needs {_error.name}: pip install "fastce[dask]"', name=_error.name) from None

from fastce.dask.clip_from_features import clip_loss_from_features, clip_loss_from_features_value_and_grad
from fastce.dask.cross_entropy import cross_entropy, cross_entropy_value_and_grad
from fastce.dask.info_nce import info_nce, info_nce_value_and_grad
from fastce.dask.linear import linear_cross_entropy, linear_cross_entropy_value_and_grad
from fastce.dask.siglip import siglip_loss, siglip_loss_value_and_grad
from fastce.dask.softmax import log_softmax, logsumexp, softmax
from fastce.dask.statistics import row_stats

__all__ = [
    "clip_loss_from_features",
    "clip_loss_from_features_value_and_grad",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "info_nce",
    "info_nce_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "logsumexp",
    "row_stats",
    "siglip_loss",
    "siglip_loss_value_and_grad",
    "softmax",
]
