"""Search in sorted arrays."""

from fastce.cuda._kernels.primitives import device


@device
def first_not_below(value, values, low, high):
    """The first k from low on with values[k] >= value, or high if there is none."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
