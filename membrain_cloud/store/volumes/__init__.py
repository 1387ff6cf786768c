"""Chunked volumes on disk: strict Zarr arrays, OME-Zarr volumes, and arrays in scratch files.

Imports of the store `objects` only.

- `zarr_array` : one chunked Zarr array, read with no silent fill
- `array_format` : the metadata of an array, Zarr version 2 and 3
- `files_store` : a store of zarr over `Files`, strict on absent chunks
- `checked_codecs` : Blosc with the length checked before decoding
- `multiscales` : the metadata of OME-Zarr groups, 0.4 and 0.5
- `ome_zarr` : OME-Zarr volumes: how they are opened and made
- `pyramid` : the coarser levels of a volume
- `inline_loop` : zarr's coroutines in the calling thread
- `labels` : label arrays as unsigned integers
- `scratch_array` : arrays in files that end with the process
"""

__all__ = [
    "array_format",
    "checked_codecs",
    "files_store",
    "inline_loop",
    "labels",
    "multiscales",
    "ome_zarr",
    "pyramid",
    "scratch_array",
    "zarr_array",
]
