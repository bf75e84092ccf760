"""Kernels: arrays, numbers and outputs. Their source is looked at before any of them is imported."""

from fastce.cpu._vectors import sources as sources
