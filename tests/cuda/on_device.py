"""The functions of fastce for arrays of NumPy, by way of a device."""

from types import SimpleNamespace

import numpy as np
import scipy.sparse

import fastce


class OnDevice:
    """Stands in for `fastce`: arguments go to a device, where a function of fastce finds them, and results come back.

    ``to_device`` is how an array gets there: Numba's simulator and the interpreter of PTX leave it in the same memory.
    """

    def __init__(self, to_device, to_host=lambda array: getattr(array, "_ary", array)):
        self.to_device, self.to_host = to_device, to_host

    def __getattr__(self, name):
        function = getattr(fastce, name)

        def call(*args, **kwargs):
            named = {key: self.there(value) for key, value in kwargs.items()}
            return self.back(function(*(self.there(value) for value in args), **named))

        return call

    def there(self, value):
        if isinstance(value, np.ndarray):
            return self.to_device(value)
        if isinstance(value, tuple):  # of a gradient and a Hessian
            return tuple(map(self.there, value))
        if scipy.sparse.issparse(value):
            parts = {name: self.there(getattr(value, name)) for name in ("data", "indices", "indptr")}
            matrix = SimpleNamespace(shape=value.shape, dtype=value.dtype, **parts)
            matrix.tocsr = lambda: matrix
            return matrix
        return value

    def back(self, value):
        if isinstance(value, dict):
            return {name: self.back(part) for name, part in value.items()}
        if isinstance(value, tuple):
            parts = [self.back(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value if value is None or np.isscalar(value) else self.to_host(value)


class TakingLists(OnDevice):
    """The same for tests that give numbers as lists: these go to the device as arrays."""

    def __getattr__(self, name):
        function = super().__getattr__(name)
        plain = {"axis", "outputs", "k"}

        def call(*args, **kwargs):
            named = {key: value if key in plain else as_array(value) for key, value in kwargs.items()}
            return function(*map(as_array, args), **named)

        return call


def as_array(value):
    return np.array(value) if isinstance(value, list) else value
