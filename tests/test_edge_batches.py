"""Batches at the edge of what a contrastive loss is defined for, of every dtype and size, in tiles and in one."""

import calls
import edge_batches
import magnitudes
import pytest
from checks import REDUCTIONS, dtype_of
from covering import covering

pytestmark = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")
NAMES = ["float32", "float64", "float16", "bfloat16"]
SCALES = (0.25, 1.0, 64.0, 1024.0, 2.0**30)


@covering({"batch": edge_batches.BATCHES, "form": calls.CONTRASTIVE}, quick=1)
def test_values_and_gradients_are_those_of_the_formula(small_tiles, rng, form, batch):
    for k, scale in enumerate(SCALES):
        options = {"reduction": REDUCTIONS[k % 3], "memory_budget": (1 << 28) ** (k % 2)}
        for size in (-4.0, 4.0):
            edge_batches.check(form, batch, rng, size, dtype_of(NAMES[k % 4]), scale, **options)
    for k, name in enumerate(NAMES):
        options = {"label_smoothing": 0.1} if form == "clip_loss_from_features" else {}
        options |= {"reduction": REDUCTIONS[k % 3], "normalize": True}
        edge_batches.check(form, batch, rng, 1.0, dtype_of(name), 8.0, **options)
