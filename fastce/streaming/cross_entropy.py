"""Cross entropy of logits that come in pieces, and its gradient piece by piece."""

from typing import Any

from fastce.products.gradients import MEMORY_BUDGET
from fastce.streaming.call import Call
from fastce.typing import Index, Number, Pieces, ProgressOption, Reduction, SmoothingOver, ValueAndGrad


def cross_entropy(
    logits: Any,
    targets: Any = None,
    *,
    pieces: Pieces = "rows",
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    read_ahead: bool | None = None,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    """Cross entropy of logits that need not fit into memory, a piece at a time.

    Parameters
    ----------
    logits : array_like, path or iterable
        A matrix of N rows and C classes: an array, a `numpy.memmap`, the path of a .npy file, or anything that has
        ``shape``, ``dtype`` and slices (of Zarr, of HDF5). Or its pieces in their order, an iterable of arrays: blocks
        of rows, each as ``logits``, ``(logits, targets)`` or ``(logits, targets, sample_weight)``; with
        ``pieces="classes"`` blocks of classes, each with all rows.
    targets : array_like, optional
        Those of all rows, if they do not come with blocks: of any kind that `fastce.cross_entropy` takes. Probabilities
        may be whatever logits may be, but no iterable. For blocks of classes they are class indices.
    pieces : {"rows", "classes"}, default: "rows"
        What an iterable gives.
    weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss, reduction, \
n_threads
        As in `fastce.cross_entropy`.
    memory_budget : int, default: 256 MiB
        Bytes for the parts of a matrix that are in memory at a time; at least one row, or one chunk of what it is
        stored in. Blocks of an iterable are as large as they are.
    read_ahead : bool, optional
        Whether a thread reads the next part while one is computed. By default that is so but for iterables, which may
        give the same memory again, and maps of files, whose pages are sent for without a thread.
    progress : bool or callable, optional
        As in `fastce.clip_loss_from_features`, by blocks; the total of an iterable without a length is 0.

    Returns
    -------
    float or ndarray
        As of `fastce.cross_entropy`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As of `fastce.cross_entropy`. What reading or a block raises says which block it was.

    Examples
    --------
    >>> import numpy as np, fastce.streaming
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
    >>> fastce.streaming.cross_entropy([(logits[:1], [0]), (logits[1:], [1])])
    0.5200020140806532
    >>> fastce.streaming.cross_entropy([logits[:, :2], logits[:, 2:]], [0, 1], pieces="classes")
    0.52000201408065
    """
    options = {
        "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    call = Call(logits, targets, pieces, options, memory_budget, read_ahead, progress, n_threads)
    return call.value()


def cross_entropy_value_and_grad(
    logits: Any,
    targets: Any = None,
    *,
    out: Any,
    pieces: Pieces = "rows",
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    memory_budget: int = MEMORY_BUDGET,
    read_ahead: bool | None = None,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> ValueAndGrad:
    """Cross entropy of logits that need not fit into memory, and its gradient, a piece at a time.

    Parameters
    ----------
    logits, targets, pieces, weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, \
softcap, z_loss, reduction, memory_budget, read_ahead, progress, n_threads
        As in `cross_entropy`. Blocks of classes are read twice: an iterable of them is a sequence, or a function that
        gives a new iterator. Where targets come with blocks of rows, their number is not known before the end, and the
        gradient of a mean cannot be begun: take a sum then.
    out : ndarray, memmap, path, array_like or callable
        What receives the gradient, of the shape and dtype of `logits`: an array, a `numpy.memmap`, anything whose
        slices can be assigned, the path of a .npy file, which is made anew, or a function ``out(rows, columns,
        gradient)``, which is called with two slices for every part of the gradient, in their order.
    grad_output : float or array_like, optional
        As in `fastce.cross_entropy_value_and_grad`.

    Returns
    -------
    ValueAndGrad
        ``value`` as of `cross_entropy`; ``grad`` is `out`, but None if that is a function.

    Raises
    ------
    IndexError, ValueError, TypeError
        As of `cross_entropy`; parts of the gradient may have been written then.

    Examples
    --------
    >>> import numpy as np, fastce.streaming
    >>> logits, grad = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]]), np.empty((2, 3))
    >>> fastce.streaming.cross_entropy_value_and_grad(logits, [0, 1], out=grad).value
    0.5200020140806532
    >>> grad.round(4)
    array([[-0.1705,  0.1212,  0.0493],
           [ 0.0987, -0.2318,  0.1332]])
    """
    options = {
        "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    call = Call(logits, targets, pieces, options, memory_budget, read_ahead, progress, n_threads)
    return ValueAndGrad(*call.value_and_grad(out, grad_output))
