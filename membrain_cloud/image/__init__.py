"""Volumes as arrays: Fourier filters, the contrast transfer function, resampling, components, skeletons.

It may import `geometry`, `units`, `jit` and `errors`; no storage, no torch, no Dask.

Modules
-------
fourier : transforms and filters of volumes of any size.
ctf : the contrast transfer function.
deconvolution : the Wiener filter of the contrast transfer function.
amplitude_spectrum : radial spectra, and filters that match them.
resampling : other voxel spacings.
connected_components : components of masks of any size.
skeleton : the mid-surface of a mask.
rank_median : a fast median filter.
"""

__all__ = [
    "amplitude_spectrum",
    "connected_components",
    "ctf",
    "deconvolution",
    "fourier",
    "rank_median",
    "resampling",
    "skeleton",
]
