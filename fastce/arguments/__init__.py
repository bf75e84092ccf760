"""The front door: what callers give, read and checked."""
