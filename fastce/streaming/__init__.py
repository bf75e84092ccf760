"""Larger than memory: losses and statistics of logits that come in pieces.

A file of logits, written here, may be far larger than the memory that is used to read it:

>>> import os, tempfile, numpy as np, fastce, fastce.streaming
>>> folder = tempfile.TemporaryDirectory()
>>> path, out = (os.path.join(folder.name, name) for name in ("logits.npy", "gradient.npy"))
>>> rng = np.random.default_rng(0)
>>> np.save(path, rng.normal(size=(1000, 500)).astype(np.float32))
>>> targets = rng.integers(0, 500, 1000)
>>> loss = fastce.streaming.cross_entropy(path, targets, memory_budget=1 << 20)
>>> loss == fastce.streaming.cross_entropy_value_and_grad(path, targets, out=out, memory_budget=1 << 20).value
True
>>> grad = np.load(out, mmap_mode="r")  # what is not looked at stays on the disk
>>> grad.shape, round(float(grad[0].sum()), 6)
((1000, 500), 0.0)

The functions here are those of `fastce` of the same names, with the same options, semantics and errors.

**A matrix somewhere.** The path of a .npy file, a `numpy.memmap`, an array of Zarr or HDF5, or anything else that has
``shape``, ``dtype`` and slices. It is read in blocks of rows, each once for a loss and its gradient together. Where
its chunks are too long for that, or a single row is longer than the budget, blocks have some classes of some rows, and
are read twice for a gradient. `memory_budget` bounds what is in memory of logits and gradients, a chunk at least. Parts
of a .npy file are mapped one after the other, never all of it. A thread reads the next block while one is computed.

**Blocks of rows**, as a loader gives them, with their targets or without:

>>> logits = np.load(path, mmap_mode="r")
>>> def batches():
...     for start in range(0, 1000, 100):
...         yield logits[start : start + 100], targets[start : start + 100]
>>> round(fastce.streaming.cross_entropy(batches()) / loss, 6)
1.0

**Blocks of classes**, a vocabulary in shards. Exactly one shard has each row's target; what shards know of a row
merges, and confident rows keep their digits, wherever their classes lie:

>>> shards = [logits[:, start : start + 200] for start in range(0, 500, 200)]
>>> round(fastce.streaming.cross_entropy(shards, targets, pieces="classes") / loss, 6)
1.0

**The gradient** goes into an array, a memmap, an array of Zarr or HDF5, or the path of a new .npy file; or to a
function of yours, which is called with each part:

>>> def take(rows, columns, part):
...     print(rows, columns, part.shape)
>>> result = fastce.streaming.cross_entropy_value_and_grad(shards, targets, pieces="classes", out=take)
slice(0, 1000, None) slice(0, 200, None) (1000, 200)
slice(0, 1000, None) slice(200, 400, None) (1000, 200)
slice(0, 1000, None) slice(400, 500, None) (1000, 100)

**Statistics** of rows, among them the perplexity of a language model's logits:

>>> stats = fastce.streaming.row_stats(path, targets, outputs=("target_log_prob", "in_top_k"), memory_budget=1 << 20)
>>> round(float(np.exp(-stats["target_log_prob"].mean(dtype=float))) / float(np.exp(loss)), 4)
1.0

**A sum that comes from anywhere.** `LogSumExp` is the running state of all of these, for blocks of your own, of any
axes; states of threads, processes or machines are pickled, sent and merged:

>>> halves = [fastce.LogSumExp().update(part, axis=1) for part in np.split(logits, 2, axis=1)]
>>> bool(np.allclose(halves[0].merge(halves[1]).result(), fastce.logsumexp(logits, axis=1), rtol=1e-6))
True
>>> folder.cleanup()

More than one machine: `fastce.dask`. Losses from features (`fastce.clip_loss_from_features` and others) read memmaps of
features a panel at a time anyhow. How fast this is: bench/README.md, Larger than memory.
"""

from fastce.streaming.cross_entropy import cross_entropy, cross_entropy_value_and_grad
from fastce.streaming.running import LogSumExp
from fastce.streaming.statistics import row_stats

__all__ = ["LogSumExp", "cross_entropy", "cross_entropy_value_and_grad", "row_stats"]
