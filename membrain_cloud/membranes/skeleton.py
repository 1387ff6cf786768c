"""Skeleton of a membrane mask: the thin, centred sheet that Surface-Dice compares.

The way of the MemBrain-seg paper (Lamm et al. 2024): distance transform, smoothed; the Hessian's strongest eigenvector
is the sheet's normal; non-maximum suppression along it. The normal is only ever used as an axis (`+n` and `-n`
alike), so no orientation is treated differently from another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Smoothing of the distance transform, in voxels. It has to bridge the steps of a tilted binary mask (period of a few
# voxels); more would merge the sheets of membranes that run close to each other.
_SIGMA = 1.0
# Distances that differ by less are equal: which of two equally central voxels stays must not hang on rounding.
_TIE = 1e-4
# A sheet's flanks have slope 1, its ridge about 0. On the flanks nothing but the mask's steps bends the distance, and
# the strongest eigenvector is noise: no ridge is looked for there.
_FLANK = 0.75
_MARGIN = 6


def skeletonize(mask: NDArray) -> NDArray[np.bool_]:
    """The centred sheet of a mask, about one voxel thick.

    Parameters
    ----------
    mask : (Z, Y, X) bool, or anything where nonzero is membrane.

    Returns
    -------
    (Z, Y, X) bool, a subset of the mask: the voxels whose smoothed distance from the mask's surface is not exceeded
    one voxel further along the sheet's normal, on either side. That keeps the voxels within half a voxel of the
    mid-surface: one voxel per voxel area, whatever the orientation.
    """
    mask = np.asarray(mask) != 0
    result = np.zeros(mask.shape, bool)
    if not mask.any():
        return result
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    # beyond the volume the mask goes on as at its border: a membrane that is cut there has no rim there
    padded = np.pad(mask[box], _MARGIN)
    for axis in range(3):
        _continue_at_border(padded, axis, low=box[axis].start == 0, high=box[axis].stop == mask.shape[axis])
    distance = ndimage.gaussian_filter(_signed_distance(padded), _SIGMA, truncate=3.0, mode="nearest")
    inner = (slice(_MARGIN, -_MARGIN),) * 3
    voxels = np.argwhere(mask[box]) + _MARGIN
    voxels = voxels[_slope(distance, voxels) < _FLANK]
    normals = _normals(distance, voxels)
    kept = voxels[_is_ridge(distance, voxels, normals)]
    thin = np.zeros(padded.shape, bool)
    thin[tuple(kept.T)] = True
    result[box] = thin[inner]
    return result


def _continue_at_border(padded: NDArray[np.bool_], axis: int, *, low: bool, high: bool) -> None:
    """Repeat the first or last slice of the mask into the margin, along one axis, in place."""
    view = np.moveaxis(padded, axis, 0)
    if low:
        view[:_MARGIN] = view[_MARGIN]
    if high:
        view[-_MARGIN:] = view[-_MARGIN - 1]


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance from the mask's surface in voxels, negative outside: cut off at 0 it would have false ridges there."""
    inside = ndimage.distance_transform_edt(mask).astype(np.float32)
    outside = ndimage.distance_transform_edt(~mask).astype(np.float32)
    return inside - outside


def _slope(values: NDArray[np.float32], voxels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Length of the gradient at each voxel."""
    squared = np.zeros(len(voxels))
    for axis in range(3):
        step = np.eye(3, dtype=np.intp)[axis]
        squared += ((values[tuple((voxels + step).T)] - values[tuple((voxels - step).T)]) / 2.0) ** 2
    return np.sqrt(squared)


def _normals(values: NDArray[np.float32], voxels: NDArray[np.intp]) -> NDArray[np.float64]:
    """(N, 3) zyx unit vectors: the direction in which the values fall off most steeply to both sides."""
    strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
    flat, at = values.ravel(), voxels @ strides
    hessian = np.empty((len(voxels), 3, 3))
    for i in range(3):
        hessian[:, i, i] = flat[at + strides[i]] - 2.0 * flat[at] + flat[at - strides[i]]
        for j in range(i):
            plus, minus = strides[i] + strides[j], strides[i] - strides[j]
            mixed = (flat[at + plus] + flat[at - plus] - flat[at + minus] - flat[at - minus]) / 4.0
            hessian[:, i, j] = hessian[:, j, i] = mixed
    _, vectors = np.linalg.eigh(hessian)
    normals = vectors[:, :, 0]
    # canonical sign, for ties only: the component largest in size is positive
    largest = np.take_along_axis(normals, np.abs(normals).argmax(axis=1)[:, None], axis=1)
    return normals * np.where(largest < 0, -1.0, 1.0)


def _is_ridge(values: NDArray[np.float32], voxels: NDArray[np.intp], normals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the value at each voxel is not exceeded one voxel away along the normal, interpolated cubically."""
    spline = ndimage.spline_filter(values, order=3, output=np.float32)
    here = values[tuple(voxels.T)]
    sides = [
        ndimage.map_coordinates(spline, (voxels + sign * normals).T, order=3, prefilter=False, output=np.float64)
        for sign in (1.0, -1.0)
    ]
    return (here >= sides[0] - _TIE) & (here > sides[1] + _TIE)
