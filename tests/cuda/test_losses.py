"""cross_entropy and its gradient by kernels, in the simulator: against the formulas and against fastce on the CPU."""

import numpy as np
import pytest
from crosscheck import INTEGERS, LAYOUTS, check, filled, of_dtype, pairwise, targets_of

pytest.importorskip("numba_cuda")

pytestmark = pytest.mark.usefixtures("small_blocks")

OPTIONS = {
    "none": {},
    "ignored inside": {"ignore_index": 0},
    "ignored outside": {"ignore_index": -1},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing over others": {"label_smoothing": 0.2, "smoothing_over": "others"},
    "z_loss": {"z_loss": 0.01},
    "softcap": {"softcap": 5.0},
    "logit_scale": {"logit_scale": 7.0},
    "all": {
        "label_smoothing": 0.1, "smoothing_over": "all", "z_loss": 0.001, "softcap": 30.0, "logit_scale": 0.25,
    },
}  # fmt: skip
CASES = pairwise(
    dtype=["float32", "float64", "float16", "bfloat16", "int32", "bool"],
    classes=[1, 2, 3, 10, 31, 32, 33, 40, 100, 129, 300, 1000],
    layout=list(LAYOUTS),
    kind=[*INTEGERS, "probabilities", "other probabilities", "sparse"],
    option=list(OPTIONS),
    weights=["none", "class", "sample", "both"],
    reduction=["none", "sum", "mean"],
    upstream=["1", "-2.5", "rows"],
    out=[None, "new", "strided", "in place"],
    rows=[1, 2, 3],
)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_pair_of_options_layouts_and_dtypes(device, rng, number):
    case = CASES[number]
    dtype, out, layout, kind = of_dtype(case["dtype"]), case["out"], case["layout"], case["kind"]
    logits, axis = filled(layout, lambda shape: 3 * rng.normal(size=shape), case["rows"], case["classes"], dtype)
    at = 1 if axis is None else axis % logits.ndim
    lead = logits.shape[:at] + logits.shape[at + 1 :]
    targets = targets_of(kind, rng, logits.shape, at, dtype)
    if kind == "sparse" and logits.ndim == 3:
        axis = at
    options = dict(OPTIONS[case["option"]])
    if kind not in INTEGERS:
        options.pop("ignore_index", None)
    elif case["option"] == "ignored outside" and kind.startswith("int"):
        targets[..., 0] = -1
    if case["weights"] in ("class", "both"):
        options["weight"] = rng.random(case["classes"])
    if case["weights"] in ("sample", "both"):
        options["sample_weight"] = rng.random(lead) * (rng.random(lead) < 0.8)
    upstream = {"1": 1.0, "-2.5": -2.5, "rows": rng.normal(size=lead)}[case["upstream"]]
    if case["reduction"] != "none" and np.ndim(upstream):
        upstream = 0.5
    if out == "in place" and (dtype.kind in "ib" or not logits.flags.writeable):
        out = "new"
    check(device, logits, targets, axis=axis, reduction=case["reduction"], grad_output=upstream, out=out, **options)
