"""What is profiled: a matrix of logits with its targets, and the room for its gradient."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Problem:
    """A matrix of logits and what is asked of it.

    Attributes
    ----------
    logits : ndarray, shape (rows, classes)
        C-contiguous; float32, float64, float16 or bfloat16.
    targets : ndarray of int64, shape (rows,)
        The class of each row, for the cross entropies. `clip_loss` takes the diagonal.
    label_smoothing : float
        For the cross entropies and for `clip_loss`.
    n_threads : int
        Threads of every engine that can be told how many to use.
    origin : str
        Where the logits come from, in words.
    buffers : dict
        The matrices behind `out`, `second_out`, `work` and `labels`, made when they are first asked for.
    """

    logits: Array
    targets: Array
    label_smoothing: float = 0.1
    n_threads: int = 1
    origin: str = ""
    buffers: dict[str, Array] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return int(self.logits.shape[0])

    @property
    def classes(self) -> int:
        return int(self.logits.shape[1])

    @property
    def is_square(self) -> bool:
        return self.rows == self.classes

    @property
    def dtype(self) -> str:
        return str(self.logits.dtype.name)

    @property
    def out(self) -> Array:
        """Room for a gradient, its pages already touched."""
        return self._buffer("out")

    @property
    def second_out(self) -> Array:
        """Room for a Hessian."""
        return self._buffer("second_out")

    @property
    def labels(self) -> Array:
        """The targets as a matrix of ones and zeros, for the binary cross entropies."""
        if "labels" not in self.buffers:
            labels = np.zeros_like(self.logits)
            labels[np.arange(self.rows), self.targets] = 1
            self.buffers["labels"] = labels
        return self.buffers["labels"]

    @property
    def work(self) -> Array:
        """A copy of the logits that jobs in place may overwrite; see `restore`."""
        return self._buffer("work")

    def restore(self) -> None:
        """Put the logits back into `work`."""
        np.copyto(self.work, self.logits)

    def block(self, rows: int) -> "Problem":
        """The first rows as a problem of their own; the logits are not copied."""
        return replace(self, logits=self.logits[:rows], targets=self.targets[:rows], buffers={})

    def without_smoothing(self) -> "Problem":
        """The same problem with hard targets, in the same memory."""
        return replace(self, label_smoothing=0.0)

    def _buffer(self, name: str) -> Array:
        if name not in self.buffers:
            self.buffers[name] = self.logits.copy()
        return self.buffers[name]
