"""What is measured: a function of fastce and what it is asked to do, in terms that every engine understands."""

from dataclasses import dataclass, replace

BINARY = "binary_cross_entropy_with_logits"
OF_SCALE = "cross_entropy_value_and_grad_logit_scale"
FUNCTIONS = (
    "logsumexp", "softmax", "log_softmax", "row_stats",
    "cross_entropy", "cross_entropy_value_and_grad", OF_SCALE, "cross_entropy_grad_and_hess",
    "nll_loss", "nll_loss_value_and_grad", BINARY, f"{BINARY}_value_and_grad", "clip_loss", "clip_loss_value_and_grad",
)  # fmt: skip
DEFAULT_FUNCTIONS = ("logsumexp", "cross_entropy", "cross_entropy_value_and_grad", "clip_loss_value_and_grad")
STATS = ("logsumexp", "argmax", "entropy", "target_log_prob", "target_rank")  # outputs of row_stats
LOSSES = ("cross_entropy", "nll_loss", BINARY, "clip_loss")  # each with its twin
EVERY_PLACE = ("out", "in place")


@dataclass(frozen=True)
class Job:
    """A function and what it is asked to do.

    Attributes
    ----------
    function : str
        A function of fastce.
    shape, dtype
        Of the logits.
    place : str
        Where a result of the logits' shape goes: "out", "in place", or "" where there is none. An engine that has no
        such choice says "new array" in its `Work`.
    axis : int or tuple of int
        The axis of the classes; several for softmaxes and logsumexp.
    targets : str
        "classes", "ignored" (classes, three rows of ten without one), "probabilities", "sparse" (two classes a row),
        "pairs" (the diagonal) or "binary".
    label_smoothing, weighted, softcap, reduction
        As `label_smoothing`, `weight` (of each class; of binary losses `pos_weight`), `softcap` and `reduction` of the
        function.
    """

    function: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    place: str = ""
    axis: int | tuple[int, ...] = 1
    targets: str = "classes"
    label_smoothing: float = 0.1
    weighted: bool = False
    softcap: float | None = None
    reduction: str = "mean"

    @property
    def loss(self) -> str:
        """The function without its gradient."""
        function = self.function.removesuffix("_logit_scale")
        return function.removesuffix("_value_and_grad").removesuffix("_grad_and_hess")

    @property
    def wants_gradient(self) -> bool:
        """One of the shape of the logits."""
        return self.loss != self.function and not self.wants_slope

    @property
    def wants_slope(self) -> bool:
        """The derivative by the scale of the logits."""
        return self.function == OF_SCALE

    @property
    def smoothing(self) -> float:
        """The label smoothing of those that have any."""
        return self.label_smoothing if self.loss in ("cross_entropy", "clip_loss") else 0.0

    @property
    def name(self) -> str:
        """The function, and what is not as usual."""
        is_usual = self.loss != "cross_entropy" or self.label_smoothing == type(self).label_smoothing
        smoothing = f"label smoothing {self.label_smoothing:g}" if self.label_smoothing else "no smoothing"
        words = [
            (self.targets == "probabilities", "probability targets"),
            (self.targets == "sparse", "sparse targets"),
            (self.targets == "ignored", "30% of rows ignored"),
            (self.weighted, "pos_weight" if self.loss == BINARY else "class weights"),
            (not is_usual, smoothing),
            (self.softcap is not None, f"softcap {self.softcap or 0:g}"),
            (self.reduction == "none", "each row"),
            (self.axis != 1, f"axis {self.axis}" if isinstance(self.axis, int) else f"axes {self.axis}"),
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


def jobs_of(function: str, shape: tuple[int, ...], dtype: str, label_smoothing: float) -> list[Job]:
    """What is measured of one of `FUNCTIONS` on a matrix: cross entropy's gradient both in `out` and in place."""
    places = EVERY_PLACE if function == "cross_entropy_value_and_grad" else ("out",)
    if not function.endswith(("softmax", "_grad", "_hess")):
        places = ("",)
    targets = {BINARY: "binary", "clip_loss": "pairs"}.get(function.removesuffix("_value_and_grad"), "classes")
    job = Job(function, shape, dtype, targets=targets, label_smoothing=label_smoothing)
    if function.endswith("_hess"):
        job = replace(job, reduction="none")
    if job.loss == "clip_loss" and shape[0] != shape[1]:
        return []
    return [replace(job, place=place) for place in places]
