"""What the tests of compiled kernels for losses and logsumexp share: their data, and what the launches of a device did.

The fixtures `start` and `data_of_its_own` are theirs, too.
"""

import checks
import numpy as np
import scipy.sparse
from ptx.device import aligned

RNG = np.random.default_rng(14)


def near_zero(dtype):
    """In eps of float32: what losses of half precision may be off by, whose differences are rounded; see `checks`."""
    return 3 if np.dtype(dtype).itemsize == 2 else 0


def reports(device, name):
    """What the launches of one kernel did."""
    return [one.report for one in device.launches if one.kernel.__name__ == name]


def kernels(device):
    known = ("rows", "few_classes", "lone_rows")
    return {one.kernel.__name__ for one in device.launches} & set(known)


def lanes_of(dtype):
    return 16 // dtype.itemsize


def placed(array, offset=0, step=None):
    """A copy whose first element lies so far after a multiple of 256 bytes, and whose rows are so far apart."""
    rows, classes = array.shape
    room = aligned((rows, step or classes), array.dtype, offset)
    room[:, classes:] = 77
    room[:, :classes] = array
    return room[:, :classes]


def case(rows, classes, dtype, offset=0, step=None, share=0.5):
    """Logits, of which many rows are difficult, and class indices, of which some are ignored."""
    x, y = checks.mixture(RNG, rows, classes, dtype, share)
    y[RNG.random(rows) < 0.2] = -100
    return placed(x, offset, step), y


def check_special(name, x, axis):
    """logsumexp, softmax or log_softmax; 2 ulp, since exp2 in float32 is the GPU's own instruction."""
    checks.assert_as_scipy(name, getattr(checks.fastce, name)(x, axis=axis), x, axis, ulps=2)


OPTIONS = {
    "spread": {"label_smoothing": 0.1},
    "capped": {"softcap": 5.0, "z_loss": 0.01},
    "all": {"label_smoothing": 0.2, "smoothing_over": "others", "logit_scale": 1.5, "softcap": 6.0, "z_loss": 0.02},
}


def targets_of(kind, rows, classes, dtype):
    if kind == "classes":
        return RNG.integers(0, classes, rows)
    if kind == "probabilities":
        return (RNG.random((rows, classes)) / classes).astype(dtype)
    points = RNG.random((rows, classes)) * (RNG.random((rows, classes)) < 2 / classes)
    return scipy.sparse.csr_array(points.astype(np.float32))


def check_options(kind, classes, options):
    x = placed((RNG.normal(size=(21, classes)) * 4).astype(np.float32), 1)
    more = dict(OPTIONS[options])
    if options == "all":
        more |= {"weight": RNG.random(classes).astype(np.float32), "sample_weight": RNG.random(21)}
    upstream = RNG.normal(size=21)
    y = targets_of(kind, 21, classes, np.float32)
    checks.check(x, y, reductions=checks.REDUCTIONS, grad_output=upstream, near_zero=near_zero(x.dtype), **more)
