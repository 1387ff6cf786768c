"""Resample tomograms to another voxel spacing in Fourier space, and labels by the nearest voxel.

The method and its defaults are those of MemBrain-seg (Lamm et al. 2024): the spectrum is cropped or padded, and outside
of an ellipsoid 12.5 voxels within its border it fades over 12 voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.geometry import Box, Zyx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from membrain_cloud.image.fourier import Advance, Kernel

SMALLEST_AXIS = 16
_BORDER, _FADE = 12.5, 12.0
# Bytes a voxel that a distance transform holds at its peak.
_DISTANCE_BYTES = 100


def resampled_shape(shape: Zyx, voxel_spacing_angstrom: float, target_spacing_angstrom: float) -> Zyx:
    """Return the shape of a volume at another voxel spacing, as MemBrain-seg rounds it.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    voxel_spacing_angstrom, target_spacing_angstrom : float
        Voxel spacings before and after, in Å.

    Returns
    -------
    tuple of int
        Each axis scaled, rounded, and made even by adding one; `shape` where the spacings are equal.

    Raises
    ------
    VoxelSpacingError
        If an axis would have fewer than 16 voxels.
    """
    ratio = voxel_spacing_angstrom / target_spacing_angstrom
    if abs(ratio - 1) < 1e-6:
        return shape
    rounded = [int(np.round(n * ratio)) for n in shape]
    z, y, x = (n + n % 2 for n in rounded)
    if min(z, y, x) < SMALLEST_AXIS:
        raise VoxelSpacingError(
            f"from {voxel_spacing_angstrom:g} to {target_spacing_angstrom:g} Å a voxel leaves {z} x {y} x {x} voxels",
            f"check the voxel spacing, or take a target that leaves {SMALLEST_AXIS} on each axis",
        )
    return z, y, x


def smooth_border(shape: Zyx, target: Zyx, *, memory_bytes: int) -> Kernel:
    """Return a kernel that fades the spectrum towards the border of what two spectra share.

    It is 1 inside of an ellipsoid, falls as a cosine over 12 voxels around it, and is 0 beyond.

    The half axes are n / 2 - 12.5 voxels, as in MemBrain-seg. There an axis of fewer than 25 voxels inverts the half
    axis, and one of 26 leaves almost nothing; here the border lies within a quarter of the highest frequency at most,
    so results differ for axes of fewer than 34 voxels. Distances to the ellipsoid are computed for one octant: nearest
    voxels lie towards the centre, so a band of rows needs only the 12 rows before it.

    Parameters
    ----------
    shape, target : tuple of int
        Voxels along (z, y, x) before and after.
    memory_bytes : int
        Memory for a band of rows.

    Returns
    -------
    Kernel
        Takes rows of y and returns their factors, (Z, rows, X // 2 + 1) float32.
    """
    common = [min(n, m) for n, m in zip(shape, target, strict=True)]
    radii = [n / 2 - min(_BORDER, 3 * n / 8) for n in common]
    highest = [n // 2 for n in common]
    z2, x2 = (((np.arange(h + 1)) / r) ** 2 for h, r in ((highest[0], radii[0]), (highest[2], radii[2])))
    group = max(1, memory_bytes // (_DISTANCE_BYTES * len(z2) * len(x2)) - int(_FADE))

    def octant(low: int, high: int) -> NDArray[np.float32]:
        first = max(0, low - int(_FADE))
        y2 = (np.arange(first, high) / radii[1]) ** 2
        # In the order of MemBrain-seg's sum, so that voxels on the surface fall on the same side.
        outside = np.sqrt(z2[:, None, None] + y2[:, None] + x2) > 1
        if outside.all():
            return np.zeros((len(z2), high - low, len(x2)), np.float32)
        distance = distance_transform_edt(outside)[:, low - first :]
        fade = 0.5 * (1 + np.cos(np.pi * distance / _FADE))
        return np.where(distance <= _FADE, fade, 0.0).astype(np.float32)

    def kernel(rows: range) -> NDArray[np.float32]:
        out = np.zeros((target[0], len(rows), target[2] // 2 + 1), np.float32)
        lengths = np.minimum(np.arange(rows.start, rows.stop), target[1] - np.arange(rows.start, rows.stop))
        to_z = np.minimum(np.arange(target[0]), target[0] - np.arange(target[0]))
        inside_z = np.flatnonzero(to_z <= highest[0])
        for low in range(int(lengths.min()), min(int(lengths.max()), highest[1]) + 1, group):
            high = min(low + group, min(int(lengths.max()), highest[1]) + 1)
            part = octant(low, high)
            places = np.flatnonzero((lengths >= low) & (lengths < high))
            for place in places:
                out[inside_z, place, : len(x2)] = part[to_z[inside_z], lengths[place] - low]
        return out

    return kernel


def nearest_indices(length: int, target: int) -> NDArray[np.int64]:
    """Return the nearest source voxel of each target voxel along one axis.

    Parameters
    ----------
    length, target : int
        Voxels before and after, over the same extent; voxel 0 lies on voxel 0.

    Returns
    -------
    ndarray, shape (target,), int64
        Indices of source voxels. Ties go up. Computed in integers, so that no rounding error moves a voxel.
    """
    places = np.arange(target, dtype=np.int64)
    return np.minimum((2 * places * length + target) // (2 * target), length - 1)


def resampled_labels(
    read: Callable[[Box], NDArray[Any]], shape: Zyx, target: Zyx, *, planes: int, advance: Advance
) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Resample a label volume by the nearest voxel, in its own dtype.

    No values are mixed, so instance numbers stay as they are. Voxel i is read at i * n / m, where Fourier resampling
    puts it. MemBrain-seg aligns the centres of the first and last voxels instead, which shifts labels by up to a voxel
    against the tomogram.

    Parameters
    ----------
    read : callable
        Takes a box and returns its voxels, (Z, Y, X).
    shape, target : tuple of int
        Voxels along (z, y, x) before and after, over the same extent.
    planes : int
        Planes of the result at a time.
    advance : callable
        Called with numbers of planes, as they are finished.

    Yields
    ------
    Box, ndarray, shape (Z, Y, X)
        Planes of the result.

    Raises
    ------
    UsageError
        If there are values that are not whole numbers.
    """
    along_z, along_y, along_x = (nearest_indices(n, m) for n, m in zip(shape, target, strict=True))
    for start in range(0, target[0], planes):
        stop = min(start + planes, target[0])
        wanted = along_z[start:stop]
        first = int(wanted[0])
        part = read(Box((first, 0, 0), (int(wanted[-1]) + 1, *shape[1:])))
        if part.dtype.kind == "f" and not np.array_equal(part, np.rint(part)):
            raise UsageError("the values are no labels: there are fractions among them", "resample them as a density")
        yield Box((start, 0, 0), (stop, *target[1:])), part[np.ix_(wanted - first, along_y, along_x)]
        advance(stop - start)
