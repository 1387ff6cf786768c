"""Points on a surface, and what a survey of the surface about them finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on a surface, held by faces: nothing is snapped to vertices.

    faces : (N,) int64.  weights : (N, 3) float64, barycentric, non-negative, sum 1.
    positions : (N, 3) float64, xyz in Å.  distances : (N,) float64, Å from the points they were projected from.
    """

    faces: NDArray[np.int64]
    weights: NDArray[np.float64]
    positions: NDArray[np.float64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, eq=False)
class Survey:
    """What `Surface.survey` finds about each of S sources; lengths in Å, areas in Å².

    distances : (S, T) geodesic, inf beyond the cut-off or on another part.
    to_boundary : (S,) geodesic distance to the nearest boundary, inf where there is none within the cut-off; seams do
    not count, they have their own in to_seam.
    annulus_areas : (S, B) area of the surface in [edges[i], edges[i + 1]).
    """

    distances: NDArray[np.float64]
    to_boundary: NDArray[np.float64]
    to_seam: NDArray[np.float64]
    annulus_areas: NDArray[np.float64]
