"""The same on a GPU: `python -m bench.cuda.record`, see bench/README.md."""
