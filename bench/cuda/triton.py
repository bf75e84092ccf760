"""Cross entropy as one would write it in Triton: a program for each row, which it reads twice."""

import torch
import triton
import triton.language as tl

LARGEST_BLOCK = 32768


@triton.jit
def cross_entropy_rows(
    logits, out, targets, losses, smoothing, scale, CLASSES: tl.constexpr, WRITES: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * CLASSES
    out += row * CLASSES
    target = tl.load(targets + row)
    at_target = tl.load(logits + target).to(tl.float32)  # first: ``out`` may be the logits
    top = float("-inf")
    total = 0.0
    plain_sum = 0.0
    for start in range(0, CLASSES, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < CLASSES, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher))
        plain_sum += tl.sum(tl.where(columns < CLASSES, x, 0.0))
        top = higher
    lse = top + tl.log(total)
    tl.store(losses + row, lse - (1.0 - smoothing) * at_target - smoothing * plain_sum / CLASSES)
    if WRITES:
        for start in range(0, CLASSES, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(logits + columns, mask=columns < CLASSES, other=float("-inf")).to(tl.float32)
            gradient = tl.exp(x - lse) - smoothing / CLASSES - tl.where(columns == target, 1.0 - smoothing, 0.0)
            tl.store(out + columns, (gradient * scale).to(out.dtype.element_ty), mask=columns < CLASSES)


def settings(classes):
    """(block, warps): many elements for each thread, at most 32 for those of the largest block."""
    block = min(LARGEST_BLOCK, triton.next_power_of_2(classes))
    return block, 32 if block >= 32768 else 16 if block >= 8192 else 8 if block >= 2048 else 4 if block >= 128 else 1


def cross_entropy(logits, targets, smoothing, out=None):
    """The mean loss, as a tensor; the gradient goes to ``out``."""
    rows, classes = logits.shape
    block, warps = settings(classes)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cross_entropy_rows[(rows,)](
        logits, logits if out is None else out, targets, losses, smoothing, 1.0 / rows,
        CLASSES=classes, WRITES=out is not None, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return losses.mean()
