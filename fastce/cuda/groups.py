"""How many threads take a row together, in kernels that go through rows of any strides."""

from fastce.cuda._kernels.groups import THREADS
from fastce.cuda._kernels.states import WARP
from fastce.cuda.layout import Rows

CLASSES_OF_THREAD = 8  # before a row takes more threads of a warp
CLASSES_OF_WARP = 1024  # before it takes a whole block


def group_for(rows: Rows) -> tuple[int, tuple[int, int]]:
    """(blocks, threads of a block along classes and rows).

    Neighbouring threads take neighbouring classes; or rows, where it is those that lie side by side.
    """
    lanes = 1
    if rows.cube.class_step == 1 or rows.inner < WARP:
        while lanes < WARP and rows.classes > lanes * CLASSES_OF_THREAD:
            lanes *= 2
        if rows.classes > CLASSES_OF_WARP:
            lanes = THREADS
    of_block = THREADS // lanes
    return -(-rows.count // of_block), (lanes, of_block)
