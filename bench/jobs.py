"""What the record measures: one list of jobs, each a function of fastce on data of a shape."""

from dataclasses import dataclass, replace

from bench.tiny import IS_TINY

STATS = ("logsumexp", "argmax", "entropy", "target_log_prob", "target_rank")


@dataclass(frozen=True)
class Job:
    """A function and what it is asked to do, in terms that every engine understands.

    Attributes
    ----------
    function : str
        A function of fastce.
    shape, dtype
        Of the logits.
    place : str
        Where a result of the logits' shape goes: "out", "in place", or "" where there is none.
    axis : int
        The axis of the classes.
    targets : str
        "classes", "probabilities", "sparse" (two classes a row), "pairs" (the diagonal) or "binary".
    label_smoothing, weighted, reduction
        As `label_smoothing`, `weight` and `reduction` of the function.
    """

    function: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    place: str = ""
    axis: int = 1
    targets: str = "classes"
    label_smoothing: float = 0.1
    weighted: bool = False
    reduction: str = "mean"

    @property
    def loss(self) -> str:
        """The function without its gradient."""
        return self.function.removesuffix("_value_and_grad").removesuffix("_grad_and_hess")

    @property
    def wants_gradient(self) -> bool:
        return self.loss != self.function

    @property
    def name(self) -> str:
        """The function, and what is not as usual."""
        is_loss = self.loss == "cross_entropy"
        words = [
            (self.targets == "probabilities", "probability targets"),
            (self.targets == "sparse", "sparse targets"),
            (self.weighted, "class weights"),
            (is_loss and not self.label_smoothing, "no smoothing"),
            (self.reduction == "none", "each row"),
            (self.axis != 1, f"axis {self.axis}"),
        ]
        place = "in place" if self.place == "in place" else ""
        return ", ".join([f"{self.function} {place}".strip(), *(word for applies, word in words if applies)])

    @property
    def problem(self) -> str:
        return f"{' x '.join(f'{n:,}' for n in self.shape)} {self.dtype}"

    @property
    def id(self) -> str:
        """For `pytest -k`."""
        return f"{self.problem}-{self.name}".replace(",", "").replace(" x ", "x").replace(" ", "-")

    def tiny(self) -> "Job":
        """The same on few numbers, to see that it works."""
        return replace(self, shape=(1, 5000) if self.shape[0] == 1 else (33, 33, 2, 3)[: len(self.shape)])


SQUARE = (8192, 8192)
SMALL = 1 << 23  # bytes of logits that stay in the cache between two calls
EVERY_PLACE = ("out", "in place")


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


JOBS = [
    *losses(SQUARE),
    *_with_gradients("cross_entropy", SQUARE, targets="probabilities"),
    *_with_gradients("cross_entropy", SQUARE, targets="sparse"),
    *contrastive(SQUARE),
    *_with_gradients("binary_cross_entropy_with_logits", SQUARE, targets="binary"),
    *[Job(function, SQUARE, place=place) for function in ("softmax", "log_softmax") for place in EVERY_PLACE],
    Job("row_stats", SQUARE),
    Job("cross_entropy_grad_and_hess", SQUARE, place="out", label_smoothing=0.0, reduction="none"),
    *losses((4096, 32768)),
    *losses((65536, 1024)),
    *losses((1024, 151936)),
    *losses(SQUARE, dtype="float64"),
    *losses(SQUARE, dtype="float16"),
    *losses(SQUARE, dtype="bfloat16"),
    *_few_classes((1_000_000, 10), label_smoothing=0.0),
    *_few_classes((1_000_000, 10), weighted=True),
    *_few_classes((1_000_000, 17), label_smoothing=0.0),
    *_few_classes((200_000, 100), label_smoothing=0.0),
    *losses((1024, 1024), ("out",)),
    *losses((257, 300_007), ("out",)),
    *losses((8, 4_000_000), ("out",)),
    *losses((1, 64_000_000), ("out",)),
    *losses(SQUARE, ("out",), axis=0),
    *losses((8, 21, 512, 512), ("out",)),
]
if IS_TINY:
    JOBS = list(dict.fromkeys(job.tiny() for job in JOBS))


def of_matrix(shape: tuple[int, int], dtype: str) -> list[Job]:
    """What a matrix of the user's own is measured with."""
    softmaxes = [Job(function, shape, dtype, place="out") for function in ("softmax", "log_softmax")]
    return [*losses(shape, dtype=dtype), *softmaxes, *(contrastive(shape, dtype=dtype) if shape[0] == shape[1] else [])]
