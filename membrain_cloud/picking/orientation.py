"""How a particle is turned: z is the membrane's normal, x the particle's long axis in the membrane, where it has one.

The long axis is the way the scores around a pick rise slowest. A score is a distance from the particle, its square
therefore nearly a quadratic form of the place in the membrane, and the smallest eigenvalue belongs to the long axis.
(MemBrain v1, Lamm et al. 2022, takes principal components of the vertices that were gathered into a particle; those
show where its neighbours, the rim or the volume's border end them, as much as how the particle lies.) An axis has no
sign, so x is known up to half a turn; round scores have no axis, and the angle is left open.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.geometry import orientations_from_normals

_SAME_WAY = 0.3  # cosine of normals that belong to one side
_FEWEST = 9  # vertices that six coefficients are fitted to

Floats = NDArray[np.float64]


def orient(
    centers: Floats,
    facing: Floats,
    vertices: Floats,
    normals: Floats,
    scores: Floats,
    *,
    reach_angstrom: float,
    score_threshold: float,
    least_elongation: float,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Orientations of N picks on a surface from the scores around them.

    centers, facing : (N, 3) where they lie on the surface, xyz in Å, and the outward normals there.
    vertices, normals, scores : (V, 3), (V, 3), (V,) of the surface; scores grow with the distance from a particle.
    reach_angstrom, score_threshold : vertices within reach and of lower scores tell the axis, the lower the more. Each
        tells that of the pick nearest to it on its side.
    least_elongation : the slopes across and along the long axis, larger over smaller; rounder ones have no axis.

    Returns (N, 3, 3) rotations, x along the long axis where there is one (its largest component positive) and
    otherwise any defined direction in the membrane; and (N,) whether x means something.
    """
    frames = orientations_from_normals(facing)
    known = np.zeros(len(facing), bool)
    if not len(centers):
        return frames, known
    low = np.flatnonzero(scores < score_threshold)
    near_by = cKDTree(vertices[low]).query_ball_point(centers, reach_angstrom, return_sorted=True)
    rivals = cKDTree(centers).query_ball_point(centers, 2.0 * reach_angstrom, return_sorted=True)
    for k in range(len(centers)):
        near = low[np.asarray(near_by[k], np.int64)]
        near = near[normals[near] @ facing[k] > _SAME_WAY]
        away = np.linalg.norm(vertices[near] - centers[k], axis=1)
        for other in rivals[k]:
            if other != k and facing[other] @ facing[k] > _SAME_WAY:
                nearest = away <= np.linalg.norm(vertices[near] - centers[other], axis=1)
                near, away = near[nearest], away[nearest]
        plane = (vertices[near] - centers[k]) @ frames[k, :, :2]
        axis = _long_axis(plane / reach_angstrom, scores[near], (score_threshold - scores[near]) ** 2, least_elongation)
        if axis is None:
            continue
        x = frames[k, :, :2] @ axis
        x = x if x[np.abs(x).argmax()] > 0 else -x
        frames[k] = np.stack([x, np.cross(frames[k, :, 2], x), frames[k, :, 2]], axis=1)
        known[k] = True
    return frames, known


def _long_axis(plane: Floats, scores: Floats, weights: Floats, least_elongation: float) -> Floats | None:
    """(2,) the way in which squared scores at points of a plane (P, 2) curve least; None where they have no such way.

    A paraboloid is fitted by weighted least squares.
    """
    if len(plane) < _FEWEST:
        return None
    x, y = plane.T
    terms = np.stack([x * x, 2.0 * x * y, y * y, x, y, np.ones(len(x))], axis=1)
    root = np.sqrt(weights)
    found, _, rank, _ = np.linalg.lstsq(terms * root[:, None], scores**2 * root, rcond=None)
    curvatures, axes = np.linalg.eigh(np.array([[found[0], found[1]], [found[1], found[2]]]))
    if rank < terms.shape[1] or curvatures[1] <= 0 or curvatures[1] < least_elongation**2 * curvatures[0]:
        return None
    axis: Floats = axes[:, 0]
    return axis
