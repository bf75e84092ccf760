"""What the record measures: one list of jobs, each a function of fastce on data of a shape."""

from bench.tiny import IS_TINY
from fastce.profile.jobs import BINARY, EVERY_PLACE, OF_SCALE, Job
from fastce.profile.peers import ENGINES as ALL_ENGINES

ENGINES = {name: engine for name, engine in ALL_ENGINES.items() if name != "numpy/scipy"}  # here they are two
SQUARE = (8192, 8192)
SMALL = 1 << 23  # bytes of logits that stay in the cache between two calls


def losses(shape, places=EVERY_PLACE, **options):
    """What every shape and dtype is measured with."""
    return [Job("logsumexp", shape, **options), *_with_gradients("cross_entropy", shape, places, **options)]


def contrastive(shape, **options):
    return _with_gradients("clip_loss", shape, targets="pairs", **options)


def _with_gradients(function, shape, places=("out",), **options):
    gradients = [Job(f"{function}_value_and_grad", shape, place=place, **options) for place in places]
    return [Job(function, shape, **options), *gradients]


def _few_classes(shape, **options):
    """The losses of single rows: a loss is a tenth of such a row, and counts."""
    return _with_gradients("cross_entropy", shape, reduction="none", **options)


def _narrow(shape):
    """Rows of very few classes, where whatever is done to targets and weights takes longer than exp."""
    return [
        *_with_gradients("cross_entropy", shape, label_smoothing=0.0),
        *_with_gradients("cross_entropy", shape, label_smoothing=0.0, targets="ignored"),
        *_with_gradients("cross_entropy", shape, label_smoothing=0.0, targets="sparse"),
        *_with_gradients(BINARY, shape, targets="binary", weighted=True),
        Job("nll_loss_value_and_grad", shape, place="out"),
        _boosting(shape),
    ]


def _boosting(shape):
    return Job("cross_entropy_grad_and_hess", shape, place="out", label_smoothing=0.0, reduction="none")


# With place="out" where there is a gradient. nll_loss itself has no floor: it reads a logit a row.
JOBS = [
    *losses(SQUARE),
    *_with_gradients("cross_entropy", SQUARE, targets="probabilities"),
    *_with_gradients("cross_entropy", SQUARE, targets="sparse"),
    *contrastive(SQUARE),
    *_with_gradients(BINARY, SQUARE, targets="binary"),
    *[Job(function, SQUARE, place=place) for function in ("softmax", "log_softmax") for place in EVERY_PLACE],
    Job("row_stats", SQUARE),
    Job(OF_SCALE, SQUARE),
    _boosting(SQUARE),
    *losses((4096, 32768)),
    Job(OF_SCALE, (4096, 32768)),
    *losses((65536, 1024)),
    *losses((1024, 151936)),
    *losses(SQUARE, dtype="float64"),
    *losses(SQUARE, dtype="float16"),
    *losses(SQUARE, dtype="bfloat16"),
    *_few_classes((1_000_000, 10), label_smoothing=0.0),
    Job(OF_SCALE, (1_000_000, 10), label_smoothing=0.0),
    *_few_classes((1_000_000, 10), weighted=True),
    *_few_classes((1_000_000, 17), label_smoothing=0.0),
    *_few_classes((200_000, 100), label_smoothing=0.0),
    *losses((1024, 1024), ("out",)),
    *losses((257, 300_007), ("out",)),
    *losses((8, 4_000_000), ("out",)),
    *losses((1, 64_000_000), ("out",)),
    *losses(SQUARE, ("out",), axis=0),
    *losses((8, 21, 512, 512), ("out",)),
    *_narrow((500_000, 2)),
    *_narrow((100_000, 10)),
    _boosting((8, 21, 256, 256)),
    Job("logsumexp", (8, 21, 256, 256), axis=(0, 2)),
    *[Job(function, (8, 21, 256, 256), axis=(0, 2), place="out") for function in ("softmax", "log_softmax")],
]
if IS_TINY:
    JOBS = list(dict.fromkeys(job.tiny() for job in JOBS))


def of_matrix(shape: tuple[int, int], dtype: str) -> list[Job]:
    """What a matrix of the user's own is measured with."""
    softmaxes = [Job(function, shape, dtype, place="out") for function in ("softmax", "log_softmax")]
    return [*losses(shape, dtype=dtype), *softmaxes, *(contrastive(shape, dtype=dtype) if shape[0] == shape[1] else [])]


def cases(jobs: list[Job] = JOBS) -> list[tuple[Job, str]]:
    """Every job with every engine that has it."""
    return [(job, name) for job in jobs for name, engine in ENGINES.items() if engine.has(job)]
