"""The engine for arrays in the memory of the CPU: kernels, run over blocks on threads."""
