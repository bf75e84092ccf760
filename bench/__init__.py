"""Measures fastce, its memory and its errors: each module that is run is run as `python -m bench.NAME`."""
