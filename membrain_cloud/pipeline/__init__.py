"""Settings, plan, stages and run: the only floor that knows Dask."""
