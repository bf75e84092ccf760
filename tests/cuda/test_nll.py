"""nll_loss on a device: the tests of the CPU's by way of the simulator, and compiled kernels."""

import pytest
import test_nll_and_binary

pytest.importorskip("numba_cuda")

CHECKS = test_nll_and_binary  # for the fixtures
TOO_LARGE = {  # rows, or weights
    "test_nll_loss_of_many_rows_is_that_of_the_formula",
    "test_nll_losses_of_images_in_any_layout_have_the_bits_of_a_plain_copy",
}
for name, function in vars(CHECKS).items():
    if name.startswith(("test_nll", "test_the_ignored", "test_large_unsigned")) and name not in TOO_LARGE:
        globals()[name] = function

pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
