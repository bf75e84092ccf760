"""Calls of every public function with all their arrays between closed pages, compared with calls of plain copies.

Run in a process of its own: a fault ends it. What is being called stands in the file that it is given.
"""

import faulthandler
import os
import zlib
from importlib import import_module

import ml_dtypes
import numpy as np
from guard import ENDS, LAYOUTS, Guarded, new_arrays_guarded
from scipy import sparse

import fastce

DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)

# Vectors have 16 lanes at most, groups 128 rows, few classes are 256 and blocks 2048.
TAILS = (*range(1, 36), 63, 64, 65, 127, 128, 129, 130)
CLASSES = (*TAILS, *range(254, 262), 271, 272, 273, 288, 289, 2047, 2048, 2049, 2063, 4097)
ROWS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 127, 128, 129, 131)
WIDTHS = (*range(1, 36), 64, 65)


class Memory:
    """Where the arrays of a call lie: ``read`` and ``written`` give them, all drawn from the same numbers."""

    def __init__(self, rng, dtype, rows, classes, place=None):
        self.rng, self.dtype, self.rows, self.classes, self.place = rng, dtype, rows, classes, place
        self.all = []

    def read(self, values, dtype=None):
        return self._laid(np.asarray(values, dtype), False)

    def written(self, shape, dtype=None):
        return self._laid(np.full(shape, 77).astype(dtype or self.dtype), True)

    def _laid(self, values, is_written):
        if self.place is None or values.size == 0:
            return values
        self.all.append(Guarded(values, *self.place, is_written=is_written))
        return self.all[-1].array

    def normal(self, *shape, dtype=None, is_written=False):
        return self._laid((self.rng.normal(size=shape) * 3).astype(dtype or self.dtype), is_written)

    def logits(self, **options):
        return self.normal(self.rows, self.classes, **options)

    def cube(self, **options):
        return self.normal(2, self.classes, self.rows, **options)

    def labels(self, *shape):
        kind = self.rng.choice(["i8", "i4", "i2", "u8", "u2"])
        return self.read(self.rng.integers(0, self.classes, shape or self.rows), kind)

    def probabilities(self, *shape):
        shape = shape or (self.rows, self.classes)
        return self.read(self.rng.random(shape), self.rng.choice(["f4", "f8", "f2"]))

    def sparse(self):
        """Up to three masses in every row."""
        each = min(3, self.classes)
        starts = np.arange(self.rows + 1) * each
        columns = np.sort(self.rng.random((self.rows, self.classes)).argsort(1)[:, :each], axis=1)
        masses = self.rng.random(columns.size) + 0.1
        made = sparse.csr_array((self.rows, self.classes))
        made.data, made.indices = self.read(masses), self.read(columns.ravel(), "i4")
        made.indptr = self.read(starts, "i4")
        return made

    def weight(self):
        return self.read(self.rng.random(self.classes) + 0.1, self.rng.choice(["f4", "f8", "f2"]))

    def sample_weight(self, *shape):
        return self.read(self.rng.random(shape or self.rows) + 0.1, self.rng.choice(["f4", "f8", "f2"]))

    def features(self, rows=None):
        return self.read(self.rng.normal(size=(rows or self.rows, self.classes)), self.dtype)


# --- calls -----------------------------------------------------------------------------------------------------------


def of_scipy(name):
    function = getattr(fastce, name)
    has_out = name != "logsumexp"

    def calls(m):
        x = m.logits()
        yield function(x, axis=1)
        yield function(x)
        yield function(m.cube(), axis=1)
        if has_out:
            yield function(x, axis=1, out=m.written(x.shape))
            yield function(x, axis=0, out=m.written(x.shape))
            replaced = m.logits(is_written=True)
            yield function(replaced, axis=1, out=replaced)
        else:
            yield function(x, axis=0)
            yield function(x, axis=1, b=m.normal(m.rows, m.classes, dtype="f4"), return_sign=True)
            yield function(x, axis=1, b=m.weight())

    return calls


def with_twin(name, arguments, replaced=None, **more):
    """A loss, and its value and gradient: new, into ``out``, and in place of the ``replaced`` kind of array."""
    function, twin = getattr(fastce, name), getattr(fastce, f"{name}_value_and_grad")

    def calls(m):
        given, options = arguments(m)
        yield function(*given, **options)
        yield twin(*given, **options, **{key: make(m) for key, make in more.items()})
        if replaced is not None:
            yield twin(*given, out=m.written(given[0].shape), **options)
            given = (replaced(m), *given[1:])
            yield twin(*given, out=given[0], **options)

    return calls


def logits_of(m):
    return m.logits(is_written=True)


def cube_of(m):
    return m.cube(is_written=True)


def upstream(m):
    return m.sample_weight()


def weights_of(m):
    return {"weight": m.weight(), "sample_weight": m.sample_weight(), "reduction": "none"}


def hard(m):
    return (m.logits(), m.labels()), {"reduction": "none"}


def hard_and_weighted(m):
    return (m.logits(), m.labels()), {"label_smoothing": 0.1, "z_loss": 0.01, **weights_of(m)}


def hard_and_capped(m):
    return (m.logits(), m.labels()), {"softcap": 4.0, "logit_scale": 1.3, "sample_weight": m.sample_weight()}


def soft(m):
    return (m.logits(), m.probabilities()), {"weight": m.weight(), "label_smoothing": 0.1}


def few(m):
    return (m.logits(), m.sparse()), {"sample_weight": m.sample_weight(), "reduction": "sum"}


def cubes(m):
    weights = {"weight": m.weight(), "sample_weight": m.sample_weight(2, m.rows), "reduction": "none"}
    return (m.cube(), m.labels(2, m.rows)), weights


def soft_cubes(m):
    return (m.cube(), m.probabilities(2, m.classes, m.rows)), {"reduction": "none"}


def grad_and_hess(m):
    for (logits, targets), options in (hard_and_weighted(m), soft(m)):
        options.pop("reduction", None)
        yield fastce.cross_entropy_grad_and_hess(logits, targets, **options)
        outs = m.written(logits.shape), m.written(logits.shape)
        yield fastce.cross_entropy_grad_and_hess(logits, targets, out=outs, hessian="lightgbm", **options)
    replaced = m.logits(is_written=True)
    yield fastce.cross_entropy_grad_and_hess(replaced, m.labels(), out=(replaced, None))


STATISTICS = ("logsumexp", "argmax", "max", "entropy", "target_log_prob", "target_rank", "in_top_k")


def row_stats(m):
    yield tuple(fastce.row_stats(m.logits(), m.labels(), outputs=STATISTICS).values())
    yield tuple(fastce.row_stats(m.cube(), m.labels(2, m.rows), outputs=STATISTICS).values())
    yield tuple(fastce.row_stats(m.logits(), m.sparse(), outputs=STATISTICS).values())


def of_log_probabilities(m):
    return (m.logits(), m.labels()), {"weight": m.weight(), "sample_weight": m.sample_weight()}


def binary(m):
    return (m.logits(), m.probabilities()), {"reduction": "none"}


def binary_weighted(m):
    weights = {"weight": m.sample_weight(m.rows, m.classes), "pos_weight": m.weight(), "reduction": "none"}
    return (m.logits(), m.probabilities()), weights


def binary_of_cubes(m):
    return (m.cube(), m.probabilities(2, m.classes, m.rows)), {}


def pairs(m):
    m.rows = m.classes = min(m.rows, m.classes)
    return (m.logits(),), {"logit_scale": 1.3, "label_smoothing": 0.1}


def any_pairs(m):
    return (m.logits(), m.sparse()), {"logit_scale": 1.3}


def two_views(m):
    return (m.features(), m.features()), {}


def clip(m):
    return (m.features(), m.features(), 1.3), {"normalize": True, "reduction": "none"}


def siglip(m):
    return (m.features(), m.features(), 1.3, -0.5), {}


def info_nce(m):
    return (m.features(), m.features(), m.features(7)), {"reduction": "none"}


def info_nce_own(m):
    return (m.features(), m.features(), m.normal(m.rows, 5, m.classes)), {}


def sup_con(m):
    return (m.features(), m.read(np.arange(m.rows) // 3)), {"reduction": "none"}


def linear(m):
    width, m.classes = m.classes, int(m.rng.choice([1, 2, 9, 17, 33, 255, 257, 273]))
    features = m.read(m.rng.normal(size=(m.rows, width)), m.dtype)
    linear_weight = m.read(m.rng.normal(size=(m.classes, width)) / width, m.dtype)
    bias = m.read(m.rng.normal(size=m.classes), m.dtype)
    return (features, linear_weight, m.labels()), {"linear_bias": bias, **weights_of(m)}


def of_scale(name, arguments, replaced=None):
    """The derivative by the scale; with the gradient of the logits too, into ``out`` and in their place."""
    function = getattr(fastce, f"{name}_value_and_grad_logit_scale")

    def calls(m):
        given, options = arguments(m)
        yield function(*given, **options)
        if replaced is not None:
            yield function(*given, out=m.written(given[0].shape), **options)
            given = (replaced(m), *given[1:])
            yield function(*given, out=given[0], **options)

    return calls


GROUPS = {
    "special": {name: of_scipy(name) for name in ("logsumexp", "softmax", "log_softmax")},
    "hard targets": {
        "cross_entropy": with_twin("cross_entropy", hard, logits_of),
        "cross_entropy, weighted": with_twin("cross_entropy", hard_and_weighted, logits_of, grad_output=upstream),
        "cross_entropy, capped": with_twin("cross_entropy", hard_and_capped, logits_of),
        "cross_entropy, more axes": with_twin("cross_entropy", cubes, cube_of),
    },
    "other targets": {
        "cross_entropy, probabilities": with_twin("cross_entropy", soft, logits_of),
        "cross_entropy, probabilities, more axes": with_twin("cross_entropy", soft_cubes, cube_of),
        "cross_entropy, sparse": with_twin("cross_entropy", few, logits_of),
        "grad_and_hess": grad_and_hess,
    },
    "scale": {
        "of the scale": of_scale("cross_entropy", hard, logits_of),
        "of the scale, weighted": of_scale("cross_entropy", hard_and_weighted, logits_of),
        "of the scale, capped": of_scale("cross_entropy", hard_and_capped, logits_of),
        "of the scale, more axes": of_scale("cross_entropy", cubes, cube_of),
        "of the scale, probabilities": of_scale("cross_entropy", soft, logits_of),
        "of the scale, sparse": of_scale("cross_entropy", few, logits_of),
        "of the scale of a layer": of_scale("linear_cross_entropy", linear),
    },
    "others of rows": {
        "nll_loss": with_twin("nll_loss", hard, logits_of, grad_output=upstream),
        "nll_loss, more axes": with_twin("nll_loss", cubes, cube_of),
        "nll_loss, weighted": with_twin("nll_loss", of_log_probabilities, logits_of),
        "row_stats": row_stats,
    },
    "binary and clip": {
        "binary": with_twin("binary_cross_entropy_with_logits", binary, logits_of),
        "binary, weighted": with_twin("binary_cross_entropy_with_logits", binary_weighted, logits_of),
        "binary, more axes": with_twin("binary_cross_entropy_with_logits", binary_of_cubes, cube_of),
        "clip_loss": with_twin("clip_loss", pairs, logits_of),
        "clip_loss, sparse": with_twin("clip_loss", any_pairs, logits_of),
    },
    "features": {
        "clip_loss_from_features": with_twin("clip_loss_from_features", clip),
        "siglip_loss": with_twin("siglip_loss", siglip),
        "info_nce": with_twin("info_nce", two_views),
        "info_nce, shared negatives": with_twin("info_nce", info_nce),
        "info_nce, own negatives": with_twin("info_nce", info_nce_own),
        "nt_xent": with_twin("nt_xent", two_views),
        "sup_con": with_twin("sup_con", sup_con),
        "linear_cross_entropy": with_twin("linear_cross_entropy", linear),
    },
}  # fmt: skip


# --- comparison ------------------------------------------------------------------------------------------------------


def flat(result):
    if isinstance(result, tuple):
        return [array for part in result for array in flat(part)]
    return [] if result is None else [np.asarray(result)]


def assert_same(ours, plain, dtype, is_exact):
    """The same bits, or as close as other ways of summing up come; a number from elsewhere is far off."""
    eps = {"float64": 1e-11, "float32": 2e-5}.get(dtype.name, 2e-5)
    for a, b in zip(flat(ours), flat(plain), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if is_exact or a.dtype.kind in "iub":
            assert a.tobytes() == b.tobytes(), f"{a} is not {b}"
            continue
        rounding = 4 * float(ml_dtypes.finfo(a.dtype).eps) + eps
        wide = b.astype(np.float64)
        scale = np.abs(wide).max(initial=0)
        np.testing.assert_allclose(a.astype(np.float64), wide, rtol=rounding, atol=eps * scale + rounding * 1e-3)


def check(calls, dtype, rows, classes, layout, end, seed, are_products=False):
    new = lambda place=None: Memory(np.random.default_rng(seed), dtype, rows, classes, place)  # noqa: E731
    expected = list(calls(new()))
    memory = new((layout, end))
    with new_arrays_guarded(end):
        results = list(calls(memory))
    for guarded in memory.all:
        guarded.check()
    is_exact = layout == "C" or (layout == "rows apart" and not are_products)  # whose roundings BLAS decides
    assert_same(tuple(results), tuple(expected), dtype, is_exact)


# --- selections ------------------------------------------------------------------------------------------------------


def shrink():
    """What is done to large arrays is done to small ones: blocks, tiles, pieces of rows, stores past the cache."""
    for module, name, size in (
        ("cpu.threads", "INLINE_BYTES", 1 << 12), ("cpu.threads", "BLOCK_BYTES", 1 << 11),
        ("cpu.threads", "SMALLEST_RUN_BYTES", 1 << 10), ("cpu.layout", "INLINE_BYTES", 1 << 12),
        ("cpu.columns", "BLOCK_BYTES", 1 << 11),
        ("cpu.layout", "PAST_CACHE_BYTES", 0), ("cpu.pieces", "PIECE", 600), ("products.tiles", "LARGEST_EDGE", 49),
        ("products.tiles", "SMALLEST_EDGE", 33), ("products.panels", "MOST_ROWS", 49),
        ("products.panels", "QUERIES_AT_A_TIME", 49),
    ):  # fmt: skip
        assert hasattr(import_module(f"fastce.{module}"), name)
        setattr(import_module(f"fastce.{module}"), name, size)
    import_module("fastce.cpu.engine").Cpu.columns_at_a_time = 49


def sizes(rng, group):
    """(rows, classes), or the width of features."""
    rows, classes = int(rng.choice(ROWS)), int(rng.choice(WIDTHS if group == "features" else CLASSES))
    while rows > 3 and rows * classes > 1 << 13:
        rows = int(rng.choice(ROWS))
    return rows, classes


def cases(name, dtypes, is_quick, share):
    """(dtype, layout, end, seed): one of each, or for the quick selection one end or the other; of so many a share."""
    for dtype in dtypes:
        for layout in LAYOUTS[zlib.crc32(name.encode()) % share :: share]:
            for end in ENDS:
                seed = zlib.crc32(f"{name} {dtype} {layout} {end}".encode())
                if not is_quick or end == ENDS[zlib.crc32(f"{name} {layout}".encode()) % 2]:
                    yield DTYPES[dtype], layout, end, seed


def run(groups, report, dtypes=tuple(DTYPES), is_quick=False, share=1):
    """Go through the cases of these groups, each of which is first written into the file ``report``."""
    descriptor = os.open(report, os.O_CREAT | os.O_WRONLY)
    faulthandler.enable()
    for group in groups:
        for name, calls in GROUPS[group].items():
            for dtype, layout, end, seed in cases(name, dtypes, is_quick, share):
                rows, classes = sizes(np.random.default_rng(seed), group)
                case = f"{name}: {rows} x {classes} {dtype}, {layout}, closed {end}, seed {seed}"
                os.pwrite(descriptor, case.ljust(200).encode(), 0)
                check(calls, dtype, rows, classes, layout, end, seed, are_products=group == "features")
