"""The only floor that knows copick, Zarr, Parquet and files."""
