"""Another voxel spacing for a tomogram (in Fourier space) and for labels (the nearest voxel).

The method and its defaults are MemBrain-seg's (Lamm et al. 2024): the spectrum is cropped or padded, and what lies
outside an ellipsoid 12.5 voxels within its border fades over 12 voxels.
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
    """Each axis scaled, rounded, and made even by adding one, as MemBrain-seg does; unchanged for equal spacings.

    Raises VoxelSpacingError where an axis would have fewer than 16 voxels.
    """
    ratio = voxel_spacing_angstrom / target_spacing_angstrom
    if abs(ratio - 1) < 1e-6:
        return shape
    rounded = [int(np.round(n * ratio)) for n in shape]
    z, y, x = (n + n % 2 for n in rounded)
    if min(z, y, x) < SMALLEST_AXIS:
        raise VoxelSpacingError(
            f"from {voxel_spacing_angstrom:g} to {target_spacing_angstrom:g} Å a voxel leaves {z} x {y} x {x} voxels",
            f"check the voxel spacing (--voxel-spacing), or take a target that leaves {SMALLEST_AXIS} on each axis",
        )
    return z, y, x


def smooth_border(shape: Zyx, target: Zyx, *, memory_bytes: int) -> Kernel:
    """1 inside an ellipsoid within the common part of two spectra, a cosine's fall over 12 voxels around it, then 0.

    The ellipsoid's half axes are n / 2 - 12.5 voxels, as in MemBrain-seg. There an axis of fewer than 25 voxels turns
    the half axis over and one of 26 leaves next to nothing; here the border is never more than three quarters of the
    way to the highest frequency (so the results differ where an axis has fewer than 34 voxels).
    Distances are to the voxels of the ellipsoid, computed for one octant: nearest voxels lie towards the centre, so a
    band of rows needs no more than the 12 before it.
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
    """For each of `target` voxels the nearest of `length` voxels over the same extent; voxel 0 lies on voxel 0.

    Half-way goes up. In integers, so that no rounding error moves a voxel.
    """
    places = np.arange(target, dtype=np.int64)
    return np.minimum((2 * places * length + target) // (2 * target), length - 1)


def resampled_labels(
    read: Callable[[Box], NDArray[Any]], shape: Zyx, target: Zyx, *, planes: int, advance: Advance
) -> Iterator[tuple[Box, NDArray[Any]]]:
    """A label volume at `target` voxels over the same extent, by planes, in its own type.

    Each voxel takes the label of the nearest one: no value is mixed, so instance numbers stay what they are. Voxel i
    is looked up at i * n / m, which is where Fourier resampling puts it. (MemBrain-seg stretches the first and last
    voxel's centres onto each other, which moves labels by up to a voxel against the tomogram.)

    planes : of the result at a time.
    Raises UsageError for values that are no whole numbers.
    """
    along_z, along_y, along_x = (nearest_indices(n, m) for n, m in zip(shape, target, strict=True))
    for start in range(0, target[0], planes):
        stop = min(start + planes, target[0])
        wanted = along_z[start:stop]
        first = int(wanted[0])
        part = read(Box((first, 0, 0), (int(wanted[-1]) + 1, *shape[1:])))
        if part.dtype.kind == "f" and not np.array_equal(part, np.rint(part)):
            raise UsageError(
                "the values are no labels: there are fractions among them", "resample a density with match-pixel-size"
            )
        yield Box((start, 0, 0), (stop, *target[1:])), part[np.ix_(wanted - first, along_y, along_x)]
        advance(stop - start)
