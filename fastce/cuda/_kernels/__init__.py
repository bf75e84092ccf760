"""Numba CUDA kernels: arrays and numbers in, arrays filled."""
