"""The tensors of a job, in as many buffers as it takes to find the cache cold, and what is right on them."""

from functools import cached_property

import torch

from bench.cuda.jobs import CudaJob

CHUNK = 1 << 26  # elements that the reference converts to float64 at a time
SAMPLE = 48  # rows of gradients and probabilities that are looked at
# The largest errors: of fastce, as it promises, and of a peer that at least computes the same thing. Gradients count
# before the division by the number of rows, as absolute errors, which half precision adds its own rounding to.
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 6e-3}
PEER_TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}


class Problem:
    """Logits that all buffers hold alike, targets, weights, and room for results.

    Parameters
    ----------
    job : CudaJob
    device : str
    buffers : int
    """

    def __init__(self, job: CudaJob, device: str, buffers: int):
        self.job, self.device, self.buffers = job, device, buffers
        self.dtype = getattr(torch, job.dtype)
        torch.manual_seed(0)
        self.original = self._normal()
        self.logits = [self.original.clone() for _ in range(buffers)]
        is_in_place = job.place == "in place"
        self.out = self.logits if is_in_place else [torch.empty_like(x) for x in self.logits] if job.place else None

    def _normal(self):
        tensor = torch.empty(self.job.shape, dtype=self.dtype, device=self.device)
        return tensor.normal_(0.0, 4.0)

    @cached_property
    def targets(self):
        rows, classes = self.job.shape
        if self.job.targets == "probabilities":
            return torch.softmax(self._normal(), 1)
        if self.job.targets == "pairs":
            return torch.arange(rows, device=self.device)
        return torch.randint(classes, (rows,), device=self.device)

    @cached_property
    def weight(self):
        if not self.job.weighted:
            return None
        real = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.rand(self.job.shape[1], dtype=real, device=self.device) + 0.5

    def poison(self, k: int) -> None:
        """Make sure that what is found afterwards was written."""
        if self.out is not None and self.job.place != "in place":
            self.out[k].fill_(float("nan"))

    def restore(self, k: int) -> None:
        """Undo what was written over the logits."""
        if self.job.place == "in place":
            self.logits[k].copy_(self.original)

    @cached_property
    def sample(self):
        """Some rows: the first, the last, and others."""
        rows = self.job.shape[0]
        some = torch.randint(rows, (min(SAMPLE, rows),), device=self.device)
        some[0], some[-1] = 0, rows - 1
        return some

    @cached_property
    def right(self):
        """The results by name, in float64: the value over all rows, whatever has the logits' shape on the sample."""
        return _right_of_pairs(self) if self.job.loss == "clip_loss" else _right_of_rows(self)

    def errors(self, found: dict) -> dict[str, float]:
        """How far results are from what is right; gradients before they are divided by the number of rows."""
        return {name: self._error(name, result) for name, result in found.items()}

    def _error(self, name, result):
        expected = self.right[name]
        if name == "value":
            return abs(float(result) - expected) / max(1.0, abs(expected))
        if name == "rows":
            return float(((result.double() - expected).abs() / expected.abs().clamp_min(1.0)).max())
        error = float((result[self.sample].double() - expected).abs().max())
        return error * self.scale if name == "grad" else error

    @cached_property
    def scale(self):
        """What gradients were divided by, about."""
        return float(self.job.shape[0])

    def is_wrong(self, errors: dict[str, float], is_peer: bool) -> bool:
        """Whether an error, or a NaN, is beyond what can be the engine's precision."""
        limit = (PEER_TOLERANCE if is_peer else TOLERANCE)[self.job.dtype]
        return not all(error <= limit for error in errors.values())


def _masses(problem, rows, classes_of_rows):
    """The target masses q of some rows: (1 - e) t + e / K, times the class weights."""
    job = problem.job
    keep, spread = 1.0 - job.label_smoothing, job.label_smoothing / job.shape[1]
    if job.targets == "probabilities":
        q = keep * classes_of_rows.double() + spread
    else:
        q = torch.full((len(rows), job.shape[1]), spread, dtype=torch.float64, device=problem.device)
        q.scatter_add_(1, classes_of_rows[:, None], torch.full_like(q[:, :1], keep))
    return q if problem.weight is None else q * problem.weight.double()


def _elements(problem, rows):
    """(x, dx / dlogit) of some rows in float64."""
    logits, cap = problem.original[rows].double(), problem.job.softcap
    if cap is None:
        return logits, 1.0
    x = cap * torch.tanh(logits / cap)
    return x, 1.0 - (x / cap) ** 2


def _right_of_rows(problem):
    job = problem.job
    rows, classes = job.shape
    step = max(1, CHUNK // classes)
    everything = torch.arange(rows, device=problem.device)
    sampled = _elements(problem, problem.sample)
    if job.function == "softmax":
        return {"softmax": torch.softmax(sampled[0], 1)}
    if job.function == "logsumexp":
        parts = [torch.logsumexp(_elements(problem, part)[0], 1) for part in everything.split(step)]
        return {"rows": torch.cat(parts)}
    total, weight = 0.0, float(rows)
    if problem.weight is not None and job.targets == "classes":
        weight = float(problem.weight.double()[problem.targets].sum())
    for part in everything.split(max(1, step // 4)):
        x, _ = _elements(problem, part)
        total += float(-(_masses(problem, part, problem.targets[part]) * torch.log_softmax(x, 1)).sum())
    q = _masses(problem, problem.sample, problem.targets[problem.sample])
    gradient = (torch.softmax(sampled[0], 1) * q.sum(1, keepdim=True) - q) * sampled[1] / weight
    return {"value": total / weight, "grad": gradient}


def _right_of_pairs(problem):
    """clip_loss: half the mean over rows, half the mean over columns."""
    rows = problem.job.shape[0]
    step = max(1, CHUNK // rows)
    x = problem.original
    of_rows = torch.cat([torch.logsumexp(part.double(), 1) for part in x.split(step)])
    of_columns = torch.cat([torch.logsumexp(part.double(), 0) for part in x.split(step, dim=1)])
    value = float((0.5 * (of_rows + of_columns) - x.diagonal().double()).mean())
    some = x[problem.sample].double()
    gradient = torch.exp(some - of_rows[problem.sample, None]) + torch.exp(some - of_columns)
    gradient.scatter_add_(1, problem.sample[:, None], torch.full_like(gradient[:, :1], -2.0))
    return {"value": value, "grad": gradient / (2 * rows)}
