"""The density around a membrane: along its normals, or in small boxes turned with it. What a picker sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from membrain_cloud.geometry import Box, FloatArray, Grid, orientations_from_normals

PROFILE_OFFSETS_ANGSTROM: NDArray[np.float64] = np.linspace(-25.0, 22.5, 20)
"""Where MemBrain-pick samples: 20 points from -25 to +22.5 Å along the normal."""

Read = Callable[[Box], NDArray[np.generic]]
"""A box of the volume -> its voxels, zyx, any real type."""

_POINTS_AT_ONCE = 65_536
# Points are gone through in blocks of so many voxels an axis, and only what lies around a block's points is read.
_BLOCK = 96
# A cubic spline's coefficients feel what lies farther away than this by less than 1e-7.
_SPLINE_MARGIN = 12


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
    samples_of = _along(points_xyz_angstrom, normals, offsets)
    profiles = np.empty((len(points_xyz_angstrom), len(offsets)), np.float32)
    everyone = np.arange(len(profiles))
    _interpolate(profiles, everyone, samples_of, density, box, grid, outside=outside, spline_order=spline_order)
    return profiles


def profiles_from_volume(
    read: Read,
    grid: Grid,
    points_xyz_angstrom: FloatArray,
    normals: FloatArray,
    offsets_angstrom: FloatArray,
    *,
    outside: float,
    spline_order: int,
) -> NDArray[np.float32]:
    """`sample_along_normals` of a volume of any size: reads only what lies around the points, block by block.

    outside : the value of samples outside the volume.  The others as there. With cubic splines the samples may differ
    by 1e-6 of the density's range from those of the volume as a whole.
    """
    offsets = np.asarray(offsets_angstrom, np.float64)
    samples_of = _along(points_xyz_angstrom, normals, offsets)
    reach = float(np.abs(offsets).max(initial=0.0))
    profiles = np.empty((len(points_xyz_angstrom), len(offsets)), np.float32)
    for members, box in _near(grid, points_xyz_angstrom, reach, spline_order):
        _interpolate(profiles, members, samples_of, read(box), box, grid, outside=outside, spline_order=spline_order)
    return profiles


def subvolumes_from_volume(
    read: Read,
    grid: Grid,
    points_xyz_angstrom: FloatArray,
    normals: FloatArray,
    *,
    edge: int,
    spacing_angstrom: float,
    outside: float,
) -> NDArray[np.float32]:
    """(V, edge, edge, edge) float32 boxes around points, turned so that their first axis runs along the normals.

    read, grid, outside : as `profiles_from_volume`.  points_xyz_angstrom, normals : (V, 3).
    edge, spacing_angstrom : voxels an axis of a box, and their size, whatever the tomogram's is.

    The box's middle is the point; its other axes are y and x of `geometry.orientations_from_normals`. Trilinear.
    """
    points = np.asarray(points_xyz_angstrom, np.float64).reshape(-1, 3)
    frames = orientations_from_normals(normals) if len(points) else np.zeros((0, 3, 3))
    steps = (np.arange(edge) - (edge - 1) / 2) * spacing_angstrom
    z, y, x = (axis.ravel() for axis in np.meshgrid(steps, steps, steps, indexing="ij"))
    lattice = np.stack([x, y, z], axis=1)

    def samples_of(members: NDArray[np.int64]) -> NDArray[np.float64]:
        return points[members, None, :] + lattice[None] @ frames[members].transpose(0, 2, 1)

    found = np.empty((len(points), edge**3), np.float32)
    reach = float(np.linalg.norm(lattice[0])) if len(lattice) else 0.0
    for members, box in _near(grid, points, reach, 1):
        _interpolate(found, members, samples_of, read(box), box, grid, outside=outside, spline_order=1)
    return found.reshape(-1, edge, edge, edge)


def _along(
    points: FloatArray, normals: FloatArray, offsets: NDArray[np.float64]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    places, directions = np.asarray(points, np.float64), np.asarray(normals, np.float64)
    return lambda members: places[members, None, :] + offsets[None, :, None] * directions[members, None, :]


def _near(grid: Grid, points: FloatArray, reach_angstrom: float, spline_order: int) -> Iterator[tuple[NDArray, Box]]:
    """Points in portions, each with the box of voxels that samples within `reach_angstrom` of them are made of."""
    voxels = grid.to_voxels(np.asarray(points, np.float64).reshape(-1, 3))
    blocks = np.floor(voxels / _BLOCK).astype(np.int64)
    _, portion = np.unique(blocks, axis=0, return_inverse=True)
    order = np.argsort(portion.ravel(), kind="stable")
    margin = reach_angstrom / grid.voxel_spacing_angstrom + (_SPLINE_MARGIN if spline_order > 1 else 1)
    for members in np.split(order, np.flatnonzero(np.diff(portion.ravel()[order])) + 1):
        if not len(members):
            continue
        low = np.floor(voxels[members].min(axis=0) - margin).astype(int)
        high = np.ceil(voxels[members].max(axis=0) + margin).astype(int) + 1
        # what lies wholly beside the volume is outside whatever is read: one voxel then
        size = np.array(grid.shape)
        low, high = np.clip(low, 0, size - 1), np.clip(high, 1, size)
        start, stop = low.tolist(), np.maximum(high, low + 1).tolist()
        yield members, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _interpolate(
    found: NDArray[np.float32],
    members: NDArray[np.int64],
    samples_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    density: NDArray[np.generic],
    box: Box,
    grid: Grid,
    *,
    outside: float,
    spline_order: int,
) -> None:
    """Fill the rows `members` of (V, S) with the density at their samples (n, S, 3)."""
    source = density.astype(np.float32)
    if spline_order > 1:
        source = scipy.ndimage.spline_filter(source, order=spline_order, output=np.float32, mode="mirror")
    for part in _parts(len(members), max(1, _POINTS_AT_ONCE // max(1, found.shape[1]))):
        chosen = members[part]
        voxels = grid.to_voxels(samples_of(chosen)) - np.array(box.start)
        values = scipy.ndimage.map_coordinates(
            source, np.moveaxis(voxels, -1, 0), order=spline_order, mode="constant", cval=outside, prefilter=False
        )
        # The spline of an in-box neighbour reaches half a voxel out; samples beyond the last voxel are `outside`.
        beyond = (voxels < 0).any(axis=-1) | (voxels > np.array(box.shape) - 1).any(axis=-1)
        values[beyond] = outside
        found[chosen] = values


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
