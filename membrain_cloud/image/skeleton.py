"""The skeleton of a membrane mask: the thin, centred sheet that Surface-Dice compares.

The method of the MemBrain-seg paper (Lamm et al. 2024): the distance transform is smoothed, the strongest eigenvector
of its Hessian is the sheet's normal, and non-maximum suppression along it leaves the ridge. The normal is used as an
axis only (`+n` and `-n` alike), so no orientation is treated differently.

Whether a voxel is kept depends on the mask within a bounded distance only: every filter has a finite reach, and none
counts voxels from the corner of a block. A volume may be processed in blocks, and the result is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from membrain_cloud.geometry import Box, Zyx, iterate_chunks

Read = Callable[[Box], NDArray[Any]]

# Smoothing of the distance transform, in voxels. It has to bridge the steps of a tilted binary mask (period of a few
# voxels); more would merge the sheets of membranes that run close to each other.
_SIGMA = 1.0
# Distances that differ by less are equal: rounding must not decide which of two equally central voxels stays.
_TIE = 1e-4
# A sheet's flanks have slope 1, its ridge about 0. On the flanks nothing but the mask's steps bends the distance, and
# the strongest eigenvector is noise: no ridge is looked for there.
_FLANK = 0.75
# How far the distances reach that decide on a voxel: one voxel for its derivatives, three for the Gaussian.
_REACH = 4
# Distances are exact up to _DEEPEST voxels and cut off there: what is thicker than twice _THICKEST is no sheet.
_DEEPEST, _THICKEST = 32, 28
# Where nothing is deeper than this, as in membranes, no larger surroundings are read.
_SHALLOW = 12
_BLOCK = 128


def skeletonize(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Compute the centred sheet of a mask, about one voxel thick.

    Parameters
    ----------
    mask : array_like, shape (Z, Y, X)
        Nonzero is membrane.

    Returns
    -------
    ndarray, shape (Z, Y, X), bool
        A subset of the mask: voxels whose smoothed distance from the mask's surface is not exceeded one voxel further
        along the normal of the sheet, on either side. These lie within half a voxel of the mid-surface, one for each
        voxel area. Parts thicker than 56 voxels have no skeleton.
    """
    mask = np.asarray(mask)
    shape: Zyx = (mask.shape[0], mask.shape[1], mask.shape[2])
    result = np.zeros(shape, bool)
    for box in skeleton_blocks(shape):
        result[box.slices] = skeletonize_box(lambda wanted: mask[wanted.slices], shape, box)
    return result


def skeleton_blocks(shape: Zyx) -> list[Box]:
    """Return boxes that tile a volume, each of which takes at most about 0.3 GB of memory to skeletonize.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).

    Returns
    -------
    list of Box
        Boxes of at most 128³ voxels.
    """
    return list(iterate_chunks(shape, (_BLOCK, _BLOCK, _BLOCK)))


def skeletonize_box(read: Read, shape: Zyx, box: Box) -> NDArray[np.bool_]:
    """Compute the skeleton of one box of a volume from the box and its surroundings.

    Parameters
    ----------
    read : callable
        Takes a box of the volume and returns its voxels, (Z, Y, X); nonzero is membrane.
    shape : tuple of int
        Voxels of the volume along (z, y, x).
    box : Box
        Part of the volume.

    Returns
    -------
    ndarray, the shape of the box, bool
        What `skeletonize` gives there.
    """
    result = np.zeros(box.shape, bool)
    for depth in (_SHALLOW, _DEEPEST):
        around = _grown(box, _REACH + depth, shape)
        mask = np.asarray(read(around)) != 0
        found = ndimage.find_objects(mask[box.within(around)].view(np.uint8))
        if not found:
            return result
        z, y, x = found[0]
        tight = Box(
            (box.start[0] + z.start, box.start[1] + y.start, box.start[2] + x.start),
            (box.start[0] + z.stop, box.start[1] + y.stop, box.start[2] + x.stop),
        )
        near = _grown(tight, _REACH + depth, shape)
        thin = _thin(mask[near.within(around)], near, tight, shape, depth)
        if thin is not None:
            result[tight.within(box)] = thin
            return result
    raise AssertionError("the last depth always gives a skeleton")


def _grown(box: Box, margin: int, shape: Zyx) -> Box:
    """Return a box with a margin on each side, clipped to the volume."""
    z, y, x = (max(0, a - margin) for a in box.start)
    stop = tuple(min(n, b + margin) for b, n in zip(box.stop, shape, strict=True))
    return Box((z, y, x), (stop[0], stop[1], stop[2]))


def _thin(mask: NDArray[np.bool_], around: Box, core: Box, shape: Zyx, depth: int) -> NDArray[np.bool_] | None:
    """Return the skeleton in `core` of a mask known in `around`; None where it is deeper than `depth`."""
    # beyond the volume the mask goes on as at its border: a membrane that is cut there has no rim there
    pads = [
        (_REACH if a == 0 else 0, _REACH if b == n else 0)
        for a, b, n in zip(around.start, around.stop, shape, strict=True)
    ]
    mask = np.pad(mask, pads, mode="edge")
    lower = tuple(c - a + pad[0] for c, a, pad in zip(core.start, around.start, pads, strict=True))
    inner = tuple(slice(a, a + n) for a, n in zip(lower, core.shape, strict=True))
    deciding = tuple(slice(s.start - _REACH, s.stop + _REACH) for s in inner)
    distance = _signed_distance(mask)
    if depth < _DEEPEST and distance[deciding].max() > depth:
        return None
    distance = ndimage.gaussian_filter(distance[deciding], _SIGMA, truncate=3.0, mode="nearest")
    voxels = np.argwhere(mask[inner]) + _REACH
    at = _flat(distance, voxels)
    gradient = _gradient(distance, at)
    kept = (distance.ravel()[at] < _THICKEST) & (np.sqrt(sum(g * g for g in gradient)) < _FLANK)
    voxels, at, gradient = voxels[kept], at[kept], [g[kept] for g in gradient]
    ridge = voxels[_is_ridge(gradient, _hessian(distance, at))] - _REACH
    thin = np.zeros(core.shape, bool)
    thin[tuple(ridge.T)] = True
    return thin


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance from the mask's surface in voxels; negative outside, where 0 would make false ridges."""
    if mask.all():  # no surface to be near to
        return np.full(mask.shape, _DEEPEST, np.float32)
    distance = np.minimum(ndimage.distance_transform_edt(mask), _DEEPEST).astype(np.float32)
    distance -= ndimage.distance_transform_edt(~mask)
    result: NDArray[np.float32] = distance
    return result


def _flat(values: NDArray[Any], voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the flat indices of voxels (N, 3)."""
    return np.asarray(voxels @ np.array(_strides(values)))


def _strides(values: NDArray[Any]) -> tuple[int, int, int]:
    return values.shape[1] * values.shape[2], values.shape[2], 1


def _gradient(values: NDArray[np.float32], at: NDArray[np.intp]) -> list[NDArray[np.float64]]:
    """Return the central differences along (z, y, x)."""
    flat = values.ravel().astype(np.float64)
    return [(flat[at + step] - flat[at - step]) / 2.0 for step in _strides(values)]


def _hessian(values: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the Hessians by central differences, (N, 3, 3) zyx."""
    flat, steps = values.ravel().astype(np.float64), _strides(values)
    hessian = np.empty((len(at), 3, 3))
    for i in range(3):
        hessian[:, i, i] = flat[at + steps[i]] - 2.0 * flat[at] + flat[at - steps[i]]
        for j in range(i):
            plus, minus = steps[i] + steps[j], steps[i] - steps[j]
            mixed = (flat[at + plus] + flat[at - plus] - flat[at + minus] - flat[at - minus]) / 4.0
            hessian[:, i, j] = hessian[:, j, i] = mixed
    return hessian


def _is_ridge(gradient: list[NDArray[np.float64]], hessian: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether the value at each voxel is not exceeded one voxel away along the normal, to second order."""
    curvatures, vectors = np.linalg.eigh(hessian)
    normals = vectors[:, :, 0]  # the direction in which the values fall off most steeply to both sides
    # canonical sign, for ties only: the component largest in size is positive
    largest = np.take_along_axis(normals, np.abs(normals).argmax(axis=1)[:, None], axis=1)[:, 0]
    slope = sum(g * normals[:, i] for i, g in enumerate(gradient)) * np.where(largest < 0, -1.0, 1.0)
    ahead, behind = curvatures[:, 0] / 2.0 + slope, curvatures[:, 0] / 2.0 - slope
    return np.asarray((ahead <= _TIE) & (behind < -_TIE))
