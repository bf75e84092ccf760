"""Short programs that each solve one problem with fastce, on real data, within a minute on two cores once compiled.

    python -m bench.examples.numpy_clip

prints the figures that it reaches and draws bench/examples/numpy_clip.png. Each module has `main(folder)`, which draws
into that folder and returns its figures by name; tests/test_examples.py holds every one to what it promises. They are
seeded. matplotlib draws, and some need scikit-learn, PyTorch or LightGBM.
"""

import os

# Before NumPy is imported: products this small only lose time to a second thread, above all on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
