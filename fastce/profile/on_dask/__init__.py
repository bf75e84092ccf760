"""`fastce profile --dask` and `--scheduler`: functions on Dask's workers, beside the plain ones in this process."""
