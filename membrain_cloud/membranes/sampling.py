"""The density along the surface normals: what a picker sees of a membrane."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from membrain_cloud.geometry import Box, FloatArray, Grid

PROFILE_OFFSETS_ANGSTROM: NDArray[np.float64] = np.linspace(-25.0, 22.5, 20)
"""Where MemBrain-pick samples: 20 points from -25 to +22.5 Å along the normal."""

_POINTS_AT_ONCE = 65_536


def sample_along_normals(
    density: NDArray[np.generic],
    box: Box,
    grid: Grid,
    points_xyz_angstrom: FloatArray,
    normals: FloatArray,
    offsets_angstrom: FloatArray,
    *,
    outside: float,
    spline_order: int,
) -> NDArray[np.float32]:
    """Sample a density at points + offset * normal.

    density : array of `box.shape`, the part of the tomogram that `box` covers; any real type.
    points_xyz_angstrom, normals : (V, 3), xyz.  offsets_angstrom : (C,).
    outside : the value of samples outside the box, in the density's units (the tomogram's mean).
    spline_order : 1 (trilinear) or 3 (cubic; what MemBrain-pick takes).

    Returns (V, C) float32 whatever the density's type: an integer tomogram is not quantised again.
    Raises ValueError where the density is not of the box's shape.
    """
    if density.shape != box.shape:
        raise ValueError(f"density of shape {density.shape} does not cover a box of shape {box.shape}")
    offsets = np.asarray(offsets_angstrom, np.float64)
    points = np.asarray(points_xyz_angstrom, np.float64)
    directions = np.asarray(normals, np.float64)
    source = density.astype(np.float32)
    if spline_order > 1:
        source = scipy.ndimage.spline_filter(source, order=spline_order, output=np.float32, mode="mirror")
    profiles = np.empty((len(points), len(offsets)), np.float32)
    for part in _parts(len(points), max(1, _POINTS_AT_ONCE // max(1, len(offsets)))):
        samples = points[part, None, :] + offsets[None, :, None] * directions[part, None, :]
        voxels = grid.to_voxels(samples) - np.array(box.start)
        profiles[part] = scipy.ndimage.map_coordinates(
            source, np.moveaxis(voxels, -1, 0), order=spline_order, mode="constant", cval=outside, prefilter=False
        )
        # The spline of an in-box neighbour reaches half a voxel out; samples beyond the last voxel are `outside`.
        beyond = (voxels < 0).any(axis=-1) | (voxels > np.array(box.shape) - 1).any(axis=-1)
        profiles[part][beyond] = outside
    return profiles


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
