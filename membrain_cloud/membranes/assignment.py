"""Which membrane a particle from elsewhere sits on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Mesh


def nearest_membranes(
    meshes: Mapping[int, Mesh], positions: NDArray[np.float64], *, within_angstrom: float
) -> NDArray[np.int64]:
    """(N, 3) xyz positions in Å -> (N,) number of the membrane with the nearest vertex; 0 where none is within reach.

    Of membranes equally near, the lowest number.
    """
    nearest = np.full(len(positions), np.inf)
    numbers = np.zeros(len(positions), np.int64)
    for number in sorted(meshes):
        if not len(meshes[number].vertices) or not len(positions):
            continue
        distances, _ = cKDTree(meshes[number].vertices).query(positions, distance_upper_bound=within_angstrom)
        nearer = distances < nearest
        nearest[nearer], numbers[nearer] = distances[nearer], number
    return numbers
