"""Chunked volumes on disk: strict Zarr arrays, OME-Zarr volumes, and arrays in scratch files.

Imports of the store `objects` only.

- `zarr_array` : one chunked Zarr array, read with no silent fill
- `ome_zarr` : OME-Zarr volumes: their metadata, and how they are opened and made
- `pyramid` : the coarser levels of a volume
- `labels` : label arrays as unsigned integers
- `scratch_array` : arrays in files that end with the process
"""

__all__ = ["labels", "ome_zarr", "pyramid", "scratch_array", "zarr_array"]
