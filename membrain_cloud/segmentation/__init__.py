"""From scores of windows to membrane instances: sliding window, score encoding, instances, uncertainty.

It may import `image`, `geometry`, `tiling`, `errors` and `jit`; no storage, no torch, no Dask.

Modules
-------
density_statistics : mean and standard deviation of a tomogram, without outliers and padding.
sliding_window : windows over a volume, averaged plane by plane.
regridding : scores on another voxel grid.
score_encoding : scores in one or two bytes.
uncertainty : variance over the mirrors.
uncertain_regions : boxes in which the network is least sure.
instances : numbered membranes.
split_touching : membranes that touch or cross.
"""

__all__ = [
    "density_statistics",
    "instances",
    "regridding",
    "score_encoding",
    "sliding_window",
    "split_touching",
    "uncertain_regions",
    "uncertainty",
]
