"""What the record of the CUDA target measures. Nothing here needs a GPU, or what is installed for one."""

import math
from dataclasses import dataclass, replace

from fastce.profile.jobs import Job

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
TARGET_BYTES = 8  # of a class index


@dataclass(frozen=True)
class CudaJob(Job):
    """As `Job`; nothing is smoothed unless it says so."""

    label_smoothing: float = 0.0

    @property
    def has_targets(self) -> bool:
        return self.loss in ("cross_entropy", "clip_loss")

    @property
    def logits_bytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def nbytes(self) -> int:
        """What must be read and written at least: each matrix once, class indices, and results of rows."""
        matrices = 1 + bool(self.place) + (self.targets == "probabilities")
        of_rows = TARGET_BYTES if self.loss == "cross_entropy" and self.targets == "classes" else 0
        if self.function == "logsumexp":
            of_rows = ITEMSIZE[self.dtype]
        return matrices * self.logits_bytes + of_rows * self.shape[0]

    @property
    def is_small(self) -> bool:
        """Whether a call costs what a call costs, whatever the device does."""
        return self.logits_bytes < 1 << 23

    @property
    def is_key(self) -> bool:
        """Whether it is one of those that the target's speed is judged by; these are measured with every engine."""
        functions = ("cross_entropy_value_and_grad", "logsumexp")
        return self.shape in KEY_SHAPES and self in _usual(self.shape, self.dtype) and self.function in functions

    def tiny(self) -> "CudaJob":
        """The same on few numbers, to see that it works."""
        return replace(self, shape=(33, 33) if self.loss == "clip_loss" else (33, 35))


KEY_SHAPES = [(16_384, 32_768), (4_096, 131_072), (10_000_000, 10)]
SHAPES = [*KEY_SHAPES, (8_192, 50_257), (65_536, 1_024), (1_000_000, 100), (64, 1_000_000)]
SMALL_SHAPES = [(32, 10), (256, 1_000), (1_024, 1_024)]
DTYPES = ("float32", "bfloat16")
ONE_SHAPE = SHAPES[0]  # of other dtypes and options


def _usual(shape, dtype):
    """What every shape is measured with."""
    return [
        CudaJob("cross_entropy_value_and_grad", shape, dtype, "out"),
        CudaJob("logsumexp", shape, dtype),
        CudaJob("cross_entropy_value_and_grad", shape, dtype, "in place"),
        CudaJob("cross_entropy", shape, dtype),
        CudaJob("softmax", shape, dtype, "out"),
    ]


def _gradient(shape=ONE_SHAPE, dtype="float32", **options):
    return CudaJob("cross_entropy_value_and_grad", shape, dtype, "out", **options)


def _all_jobs():
    """Those first that the target's speed is judged by: a run may be stopped by its limit of time."""
    usual = [job for shape in SHAPES for dtype in DTYPES for job in _usual(shape, dtype)]
    others = [
        *(CudaJob("clip_loss_value_and_grad", (n, n), dtype, "out", targets="pairs") for n in (16_384, 32_768)
          for dtype in DTYPES),
        _gradient(label_smoothing=0.1),
        _gradient(weighted=True),
        _gradient(targets="probabilities"),
        _gradient(softcap=30.0),
        *(job for dtype in ("float16", "float64") for job in _usual(ONE_SHAPE, dtype)[:2]),
        *(_gradient(shape) for shape in SMALL_SHAPES),
    ]  # fmt: skip
    jobs = usual + others
    return [job for job in jobs if job.is_key] + [job for job in jobs if not job.is_key]


JOBS = _all_jobs()
QUICK_JOBS = [
    _gradient(ONE_SHAPE),
    _gradient(dtype="bfloat16"),
    CudaJob("logsumexp", ONE_SHAPE),
    _gradient(KEY_SHAPES[2]),
]


def chosen(words: list[str], jobs: list[CudaJob]) -> list[CudaJob]:
    """The jobs whose id holds one of these; all if there are none. "a+b" means both a and b."""
    return [job for job in jobs if not words or any(all(part in job.id for part in word.split("+")) for word in words)]


def buffers_for(nbytes: int, cache: int) -> int:
    """How many inputs to go round, so that between two uses of one the cache is filled several times over."""
    return min(MOST_BUFFERS, 1 + max(1, -(-TIMES_CACHE * cache // nbytes)))


TIMES_CACHE = 4
MOST_BUFFERS = 64  # small problems stay in the cache whatever is done
