"""In PyTorch: differentiable losses of tensors, on the CPU without a copy, and as modules.

>>> import torch, fastce.torch
>>> logits = torch.tensor([[2.0, 0.5, -1.0], [0.1, 1.2, 0.3]], requires_grad=True)
>>> loss = fastce.torch.cross_entropy(logits, torch.tensor([0, 2]))
>>> loss.backward()
>>> round(loss.item(), 4), logits.grad.shape
(0.8474, torch.Size([2, 3]))

They stand in for PyTorch's functions of the same names, with the same arguments:

- `cross_entropy`, `binary_cross_entropy_with_logits`, `logsumexp`, `softmax`, `log_softmax`, and `CrossEntropyLoss`
- `linear_cross_entropy`: of what a linear layer takes, without the matrix of its logits

and for the losses of open_clip and others, from features, without the matrix of their products:

- `clip_loss_from_features`, `siglip_loss`, `info_nce`, `nt_xent`, `sup_con`, and `clip_loss` of a matrix
- `ClipLoss` and `SigLipLoss`: modules that take what open_clip's of these names take

A step of a language model's head:

>>> head = torch.nn.Linear(16, 50_257, bias=False)
>>> hidden, next_tokens = torch.randn(2, 5, 16, requires_grad=True), torch.randint(50_257, (2, 5))
>>> fastce.torch.linear_cross_entropy(hidden, head.weight, next_tokens).backward()

and of CLIP, with the learned scale:

>>> log_scale = torch.nn.Parameter(torch.tensor(2.66))
>>> images, texts = (torch.nn.functional.normalize(torch.randn(8, 32, requires_grad=True)) for _ in range(2))
>>> fastce.torch.ClipLoss()(images, texts, log_scale.exp()).backward()

**What is computed when.** Value and gradients come from one pass, forward; backward multiplies these by what comes
after, in place where the graph is not kept, and not at all where that is 1. Nothing but the value is computed where no
gradient is asked for: in ``torch.no_grad()``, or of tensors that do not require grad. A frozen side of features, or
of a linear layer, costs no products. Gradients of losses that are not
reduced (``reduction="none"``), and of float16, are computed backward, when it is known what they are multiplied by.

**Dtypes.** float32, float64, bfloat16 (with the package ml_dtypes) and float16 are computed as in `fastce`. The loss
has the dtype of the first argument, as in PyTorch, but float32 within ``torch.autocast``, where halves are read as they
are. Gradients of float16 features are rounded before a loss scale multiplies them: scale features, or take bfloat16.

**Learned numbers.** `logit_scale` of all losses, `logit_bias` and `temperature` of contrastive ones may be tensors that
require grad; the scale of cross entropies on the CPU alone.

**torch.compile** keeps these functions whole, also with ``fullgraph=True``: they are operators of `torch.library`.

**Threads** are fastce's, as many as `fastce.set_num_threads` says; PyTorch's own rest meanwhile.

**Not there**: second derivatives (``create_graph=True``), `torch.func`, forward-mode derivatives, gradients of targets
and weights. Each is an error that says so. Losses that are not reduced have the gradient of any weighted sum of them
among those of rows; contrastive ones that of their sum or mean. Features of other processes are not gathered.

It needs PyTorch 2.4 or newer, which `import fastce` does not import.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError("fastce.torch needs PyTorch: pip install torch", name=_error.name) from None

from fastce.torch.contrastive import (
    clip_loss,
    clip_loss_from_features,
    info_nce,
    nt_xent,
    siglip_loss,
    sup_con,
)
from fastce.torch.modules import ClipLoss, CrossEntropyLoss, SigLipLoss
from fastce.torch.rows import binary_cross_entropy_with_logits, cross_entropy, linear_cross_entropy
from fastce.torch.softmax import log_softmax, logsumexp, softmax

__all__ = [
    "ClipLoss",
    "CrossEntropyLoss",
    "SigLipLoss",
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "clip_loss_from_features",
    "cross_entropy",
    "info_nce",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nt_xent",
    "siglip_loss",
    "softmax",
    "sup_con",
]
