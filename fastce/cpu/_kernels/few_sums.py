"""The sum of a few numbers, which NumPy takes longer to be asked for than to add."""

from numba import types

from fastce.cpu._vectors.compiler import kernel, vector

MOST = 128  # numbers that NumPy adds in this order; it cuts more in halves
LANES = 8


@kernel(lambda storage: (vector(types.float64),))
def sum_of_few(numbers):
    """The bits of ``np.add.reduce``: eight sums of every eighth number, added by pairs, then what is left."""
    count = numbers.shape[0]
    whole = count - count % LANES
    if whole == 0:
        total = 0.0
    else:
        a, b, c, d, e, f, g, h = (
            numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7],
        )  # fmt: skip
        for i in range(LANES, whole, LANES):
            a += numbers[i]
            b += numbers[i + 1]
            c += numbers[i + 2]
            d += numbers[i + 3]
            e += numbers[i + 4]
            f += numbers[i + 5]
            g += numbers[i + 6]
            h += numbers[i + 7]
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(whole, count):
        total += numbers[i]
    return total
