"""The lamella that a tomogram was taken of: two nearly flat surfaces where a beam has cut the cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid

# A surface that reaches the volume's end in more than this share of its columns was not imaged.
MOST_AT_END = 0.5
# Rounds of fitting in which columns far from the plane, holes in the mask, are left out.
ROUNDS = 5


@dataclass(frozen=True)
class Lamella:
    """top, bottom : (normal x, y, z, offset) of planes with normal · position = offset at the surface, and less inside;
    None where the volume ends within the lamella.
    """

    top: tuple[float, float, float, float] | None
    bottom: tuple[float, float, float, float] | None

    def depths(self, positions_xyz: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) Å from positions (N, 3) to the nearer surface, below 0 outside; inf where no surface is known."""
        found = np.full(len(positions_xyz), np.inf)
        for plane in (self.top, self.bottom):
            if plane is not None:
                found = np.minimum(found, plane[3] - np.asarray(positions_xyz, np.float64) @ np.array(plane[:3]))
        return found


def lamella_of(mask: NDArray[np.bool_ | np.number[Any]], grid: Grid) -> Lamella:
    """Planes through the upper and lower end, along z, of a mask of the lamella (zyx; above 0 is inside).

    Raises ValueError for a mask of another shape than the grid's, and for one without a voxel.
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
) -> tuple[float, float, float, float] | None:
    """The plane through the outer faces of the voxels, by least squares without outliers."""
    used = ~at_end
    if at_end.mean() > MOST_AT_END or used.sum() < 3:
        return None
    terms = np.stack([x, y, np.ones(len(x))], axis=1).astype(np.float64)
    height = z + 0.5 * up
    for _ in range(ROUNDS):
        slopes = np.linalg.lstsq(terms[used], height[used], rcond=None)[0]
        rest = np.abs(height - terms @ slopes)
        used = ~at_end & (rest <= max(3.0 * 1.4826 * float(np.median(rest[used])), 1.0))
    normal = up * np.array([-slopes[0], -slopes[1], 1.0])
    length = float(np.linalg.norm(normal))
    a, b, c = (normal / length).tolist()
    return a, b, c, float(up * slopes[2] / length * grid.voxel_spacing_angstrom)
