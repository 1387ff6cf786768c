"""Assignment of particles from elsewhere to membranes."""

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
    """Return the membrane that each particle sits on: the one with the nearest vertex.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Meshes by the membranes' numbers. Vertices that are not finite are left out.
    positions : (N, 3) float64
        xyz in Å; one that is not finite is on no membrane.
    within_angstrom : float
        Largest distance to the vertex, Å.

    Returns
    -------
    (N,) int64
        Numbers of the membranes, of several equally near the lowest; 0 where none is within reach.
    """
    nearest = np.full(len(positions), np.inf)
    numbers = np.zeros(len(positions), np.int64)
    finite = np.flatnonzero(np.isfinite(positions).all(axis=1))
    for number in sorted(meshes):
        vertices = meshes[number].vertices
        vertices = vertices[np.isfinite(vertices).all(axis=1)]
        if not len(vertices) or not len(finite):
            continue
        distances, _ = cKDTree(vertices).query(positions[finite], distance_upper_bound=within_angstrom)
        nearer = distances < nearest[finite]
        nearest[finite[nearer]], numbers[finite[nearer]] = distances[nearer], number
    return numbers
