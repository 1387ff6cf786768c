"""Points on a surface, and the results of a survey of the surface about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """N points on a surface, held by faces: nothing is snapped to vertices.

    Attributes
    ----------
    faces : (N,) int64
        Face of each point.
    weights : (N, 3) float64
        Barycentric weights, non-negative, sum 1.
    positions : (N, 3) float64
        xyz in Å.
    distances : (N,) float64
        Å from the points they were projected from.
    """

    faces: NDArray[np.int64]
    weights: NDArray[np.float64]
    positions: NDArray[np.float64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, eq=False)
class Survey:
    """Results of `Surface.survey` for S sources, T targets and B annuli.

    Attributes
    ----------
    distances : (S, T) float64
        Geodesic distance of each target in Å; infinite beyond the cut-off or on another component.
    to_boundary : (S,) float64
        Geodesic distance to the nearest boundary in Å, infinite where there is none within the cut-off; seams do not
        count.
    to_seam : (S,) float64
        The same to the nearest seam between groups.
    annulus_areas : (S, B) float64
        Area of the surface at distances in [edges[i], edges[i + 1]), Å².
    """

    distances: NDArray[np.float64]
    to_boundary: NDArray[np.float64]
    to_seam: NDArray[np.float64]
    annulus_areas: NDArray[np.float64]
