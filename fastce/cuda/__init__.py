"""The functions of fastce for arrays on a GPU, by kernels in Numba CUDA; imported when such an array is first given."""
