"""Which membrane a particle from elsewhere sits on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh


def nearest_membranes(
    meshes: Mapping[int, Mesh], positions: NDArray[np.float64], *, within_angstrom: float
) -> NDArray[np.int64]:
    """(N, 3) xyz positions in Å -> (N,) number of the membrane with the nearest vertex; 0 where none is within reach.

    Of membranes equally near, the lowest number. Vertices and positions that are not finite are near nothing.
    """
    nearest = np.full(len(positions), np.inf)
    numbers = np.zeros(len(positions), np.int64)
    placed = np.flatnonzero(np.isfinite(positions).all(axis=1))
    for number in sorted(meshes):
        vertices = meshes[number].vertices
        vertices = vertices[np.isfinite(vertices).all(axis=1)]
        if not len(vertices) or not len(placed):
            continue
        distances, _ = cKDTree(vertices).query(positions[placed], distance_upper_bound=within_angstrom)
        nearer = distances < nearest[placed]
        nearest[placed[nearer]], numbers[placed[nearer]] = distances[nearer], number
    return numbers
