"""Pure science: arrays, meshes and points in and out. Knows no Dask, Zarr, copick or files."""
