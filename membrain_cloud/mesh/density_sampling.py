"""Density around a membrane as pickers see it: along its normals, or in small boxes oriented by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from membrain_cloud.geometry import Box, FloatArray, Grid, orientations_from_normals

Read = Callable[[Box], NDArray[np.generic]]
"""Returns the voxels in a box of the volume: an array of the box's shape, zyx, any real type."""

_POINTS_AT_ONCE = 65_536
# Points are sampled in blocks of so many voxels along each axis, and only what lies around a block's points is read.
_BLOCK = 96
# A cubic spline's coefficients depend by less than 1e-7 on voxels farther away than this.
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

    Parameters
    ----------
    density : (Z, Y, X) any real type
        The part of the tomogram that `box` covers.
    box : Box
        Where it lies in the tomogram, voxels.
    grid : Grid
        The tomogram's grid.
    points_xyz_angstrom : (V, 3) floating
        Points, xyz in Å.
    normals : (V, 3) floating
        Unit vectors, xyz.
    offsets_angstrom : (C,) floating
        Offsets along the normals, Å.
    outside : float
        Value of samples outside the box, in the density's units (the tomogram's mean).
    spline_order : int
        1 (trilinear) or 3 (cubic, as MemBrain-pick).

    Returns
    -------
    (V, C) float32
        Samples, not rounded for a density of integers.

    Raises
    ------
    ValueError
        If the density has another shape than the box.
    """
    if density.shape != box.shape:
        raise ValueError(f"a density of shape {density.shape} does not cover a box of shape {box.shape}")
    offsets = np.asarray(offsets_angstrom, np.float64)
    samples_of = _along(points_xyz_angstrom, normals, offsets)
    profiles = np.empty((len(points_xyz_angstrom), len(offsets)), np.float32)
    members = np.arange(len(profiles))
    _interpolate(profiles, members, samples_of, _Part(density, box, grid), outside=outside, spline_order=spline_order)
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
    """Sample a volume of any size at points + offset * normal; block by block, only what lies around them is read.

    With cubic splines the samples may differ by 1e-6 of the density's range from those of the volume as a whole.

    Parameters
    ----------
    read : callable
        Returns the density in a box of the volume.
    grid : Grid
        The volume's grid.
    points_xyz_angstrom : (V, 3) floating
        Points, xyz in Å.
    normals : (V, 3) floating
        Unit vectors, xyz.
    offsets_angstrom : (C,) floating
        Offsets along the normals, Å.
    outside : float
        Value of samples outside the volume, in the density's units (its mean).
    spline_order : int
        1 (trilinear) or 3 (cubic, as MemBrain-pick).

    Returns
    -------
    (V, C) float32
        Samples.
    """
    offsets = np.asarray(offsets_angstrom, np.float64)
    samples_of = _along(points_xyz_angstrom, normals, offsets)
    reach = float(np.abs(offsets).max(initial=0.0))
    profiles = np.empty((len(points_xyz_angstrom), len(offsets)), np.float32)
    for members, box in _near(grid, points_xyz_angstrom, reach, spline_order):
        part = _Part(read(box), box, grid)
        _interpolate(profiles, members, samples_of, part, outside=outside, spline_order=spline_order)
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
    """Sample boxes around points, oriented so that their first axis runs along the normals (trilinear).

    Parameters
    ----------
    read : callable
        Returns the density in a box of the volume.
    grid : Grid
        The volume's grid.
    points_xyz_angstrom : (V, 3) floating
        Middles of the boxes, xyz in Å.
    normals : (V, 3) floating
        Unit vectors, xyz.
    edge : int
        Voxels along each axis of a box.
    spacing_angstrom : float
        Their size, Å, which need not be the volume's.
    outside : float
        Value of samples outside the volume, in the density's units (its mean).

    Returns
    -------
    (V, edge, edge, edge) float32
        Boxes; their second and third axes are y and x of `geometry.orientations_from_normals`.
    """
    points = np.asarray(points_xyz_angstrom, np.float64).reshape(-1, 3)
    frames = orientations_from_normals(normals) if len(points) else np.zeros((0, 3, 3))
    steps = (np.arange(edge) - (edge - 1) / 2) * spacing_angstrom
    z, y, x = (axis.ravel() for axis in np.meshgrid(steps, steps, steps, indexing="ij"))
    lattice = np.stack([x, y, z], axis=1)

    def samples_of(members: NDArray[np.int64]) -> NDArray[np.float64]:
        return points[members, None, :] + lattice[None] @ frames[members].transpose(0, 2, 1)

    samples = np.empty((len(points), edge**3), np.float32)
    reach = float(np.linalg.norm(lattice[0])) if len(lattice) else 0.0
    for members, box in _near(grid, points, reach, 1):
        _interpolate(samples, members, samples_of, _Part(read(box), box, grid), outside=outside, spline_order=1)
    return samples.reshape(-1, edge, edge, edge)


class _Part(NamedTuple):
    """A part of a volume: its density, the box that it covers, and the volume's grid."""

    density: NDArray[np.generic]
    box: Box
    grid: Grid


def _along(
    points: FloatArray, normals: FloatArray, offsets: NDArray[np.float64]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function from indices (n,) of points to where they are sampled (n, C, 3), Å."""
    places, directions = np.asarray(points, np.float64), np.asarray(normals, np.float64)
    return lambda members: places[members, None, :] + offsets[None, :, None] * directions[members, None, :]


def _near(
    grid: Grid, points: FloatArray, reach_angstrom: float, spline_order: int
) -> Iterator[tuple[NDArray[np.int64], Box]]:
    """Yield indices of points in portions, each with the box of voxels that samples within reach of them depend on."""
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
        # samples of points wholly beside the volume are `outside` whatever is read: one voxel then
        size = np.array(grid.shape)
        low, high = np.clip(low, 0, size - 1), np.clip(high, 1, size)
        start, stop = low.tolist(), np.maximum(high, low + 1).tolist()
        yield members, Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _interpolate(
    samples: NDArray[np.float32],
    members: NDArray[np.int64],
    samples_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    part: _Part,
    *,
    outside: float,
    spline_order: int,
) -> None:
    """Fill the rows `members` of `samples` (V, S) with the density where `samples_of` places them."""
    box, source = part.box, part.density.astype(np.float32)
    if spline_order > 1:
        source = scipy.ndimage.spline_filter(source, order=spline_order, output=np.float32, mode="mirror")
    step = max(1, _POINTS_AT_ONCE // max(1, samples.shape[1]))
    for start in range(0, len(members), step):
        rows = members[start : start + step]
        voxels = part.grid.to_voxels(samples_of(rows)) - np.array(box.start)
        values = scipy.ndimage.map_coordinates(
            source, np.moveaxis(voxels, -1, 0), order=spline_order, mode="constant", cval=outside, prefilter=False
        )
        # The spline of an in-box neighbour reaches half a voxel out; samples beyond the last voxel are `outside`.
        beyond = (voxels < 0).any(axis=-1) | (voxels > np.array(box.shape) - 1).any(axis=-1)
        values[beyond] = outside
        samples[rows] = values
