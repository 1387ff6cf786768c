"""The lamella that a tomogram was taken of: two nearly flat surfaces milled by an ion beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid

# A surface is unknown if the mask reaches the volume's end in more than this share of its columns.
MAX_SHARE_AT_END = 0.5
# Rounds of least squares. Each leaves out the columns that lie far from the previous plane, e.g. holes in the mask.
FIT_ROUNDS = 5

Plane = tuple[float, float, float, float]
"""Unit normal x, y, z and offset in Å: points of the plane satisfy normal · position = offset."""


@dataclass(frozen=True)
class Lamella:
    """The upper and lower surface of a lamella, as planes.

    Parameters
    ----------
    top, bottom : tuple of 4 floats or None
        Outward unit normal x, y, z and offset in Å. Inside the lamella, normal · position is below the offset. None if
        the volume ends inside the lamella, so that the surface was not imaged.
    """

    top: Plane | None
    bottom: Plane | None

    def depths(self, positions_xyz: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distance from positions to the nearer surface of the lamella.

        Parameters
        ----------
        positions_xyz : (N, 3) floating array
            Positions x, y, z in Å.

        Returns
        -------
        (N,) float64 array
            Distance in Å, negative outside the lamella; infinity if neither surface is known.
        """
        depths = np.full(len(positions_xyz), np.inf)
        for plane in (self.top, self.bottom):
            if plane is not None:
                depths = np.minimum(depths, plane[3] - np.asarray(positions_xyz, np.float64) @ np.array(plane[:3]))
        return depths


def lamella_of(mask: NDArray[np.bool_ | np.number[Any]], grid: Grid) -> Lamella:
    """Fit planes to the upper and lower end, along z, of a mask of the lamella.

    Parameters
    ----------
    mask : (Z, Y, X) array of bool or numbers
        Above 0 inside the lamella.
    grid : Grid
        Voxel grid of the mask.

    Returns
    -------
    Lamella
        Both surfaces, each None where it lies outside the volume.

    Raises
    ------
    ValueError
        If the mask does not have the grid's shape, or has no voxel.
    """
    if mask.shape != grid.shape:
        raise ValueError(f"a lamella of {mask.shape} voxels does not fit a grid of {grid.shape}")
    inside = mask > 0
    columns = inside.any(axis=0)
    if not columns.any():
        raise ValueError("the lamella has no voxel")
    y, x = np.nonzero(columns)
    low = inside.argmax(axis=0)[columns]
    high = mask.shape[0] - 1 - inside[::-1].argmax(axis=0)[columns]
    return Lamella(_plane(x, y, high, high == mask.shape[0] - 1, 1.0, grid), _plane(x, y, low, low == 0, -1.0, grid))


def _plane(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    z: NDArray[np.int64],
    at_end: NDArray[np.bool_],
    up: float,
    grid: Grid,
) -> Plane | None:
    """Fit a plane to the outer faces of the end voxels, by least squares without outliers.

    x, y, z are the (N,) end voxels of the mask's columns, and `at_end` tells which of them touch the volume's end. `up`
    is 1 for the upper surface, -1 for the lower one. Returns None if too few columns end inside the volume.
    """
    used = ~at_end
    if at_end.mean() > MAX_SHARE_AT_END or used.sum() < 3:
        return None
    terms = np.stack([x, y, np.ones(len(x))], axis=1).astype(np.float64)
    height = z + 0.5 * up
    for _ in range(FIT_ROUNDS):
        slopes = np.linalg.lstsq(terms[used], height[used], rcond=None)[0]
        residuals = np.abs(height - terms @ slopes)
        # 1.4826 times the median absolute deviation estimates the standard deviation.
        used = ~at_end & (residuals <= max(3.0 * 1.4826 * float(np.median(residuals[used])), 1.0))
    normal = up * np.array([-slopes[0], -slopes[1], 1.0])
    length = float(np.linalg.norm(normal))
    a, b, c = (normal / length).tolist()
    return a, b, c, float(up * slopes[2] / length * grid.voxel_spacing_angstrom)
