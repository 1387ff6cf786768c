"""Orientation of particles: z is the membrane's normal, x the particle's long axis in the membrane, where it has one.

The long axis is the direction in which the scores around a pick rise slowest. A score is a distance from the particle,
its square therefore nearly a quadratic form of the position in the membrane, and the smallest eigenvalue belongs to the
long axis. (MemBrain v1, Lamm et al. 2022, takes principal components of the vertices that were gathered into a
particle; those depend as much on where neighbours, the rim or the volume's border end them.) An axis has no sign, so x
is known up to half a turn; round scores have no axis, and the angle is left open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.geometry import orientations_from_normals

if TYPE_CHECKING:
    from membrain_cloud.picking.clustering_options import ClusteringOptions

_REACH = 1.3  # in bandwidths: how far around a pick its scores show its orientation
_SAME_SIDE = 0.3  # cosine of normals that belong to one side
_FEWEST = 9  # vertices for a fit of six coefficients

Floats = NDArray[np.float64]


def orient(
    centers: Floats,
    center_normals: Floats,
    vertices: Floats,
    normals: Floats,
    scores: Floats,
    options: ClusteringOptions,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the orientations of picks on a surface, from the scores around them.

    Vertices within 1.3 bandwidths and of scores below the threshold show the axis, the lower the more; each shows that
    of the pick nearest to it on its side.

    Parameters
    ----------
    centers : (N, 3) float64
        Where the picks lie on the surface, xyz in Å.
    center_normals : (N, 3) float64
        Outward unit normals there.
    vertices, normals : (V, 3) float64
        Vertices of the surface, Å, and their outward unit normals.
    scores : (V,) float64
        Scores of the vertices; they grow with the distance from a particle.
    options : ClusteringOptions
        Bandwidth, threshold, and `least_elongation`: the minimum ratio of the slopes across and along the long axis.

    Returns
    -------
    orientations : (N, 3, 3) float64
        Rotations; x lies along the long axis where there is one (its largest component positive), otherwise in any
        defined direction in the membrane.
    in_plane : (N,) bool
        Whether there is a long axis.
    """
    frames = orientations_from_normals(center_normals)
    in_plane = np.zeros(len(center_normals), bool)
    if not len(centers):
        return frames, in_plane
    reach, threshold = _REACH * options.bandwidth_angstrom, options.score_threshold
    low = np.flatnonzero(scores < threshold)
    near_by = cKDTree(vertices[low]).query_ball_point(centers, reach, return_sorted=True)
    rivals = cKDTree(centers).query_ball_point(centers, 2.0 * reach, return_sorted=True)
    for k in range(len(centers)):
        near = low[np.asarray(near_by[k], np.int64)]
        near = near[normals[near] @ center_normals[k] > _SAME_SIDE]
        others = [r for r in rivals[k] if r != k and center_normals[r] @ center_normals[k] > _SAME_SIDE]
        near = _nearest_to(centers[k], centers[others], near, vertices)
        plane = (vertices[near] - centers[k]) @ frames[k, :, :2]
        axis = _long_axis(plane / reach, scores[near], (threshold - scores[near]) ** 2, options.least_elongation)
        if axis is None:
            continue
        x = frames[k, :, :2] @ axis
        x = x if x[np.abs(x).argmax()] > 0 else -x
        frames[k] = np.stack([x, np.cross(frames[k, :, 2], x), frames[k, :, 2]], axis=1)
        in_plane[k] = True
    return frames, in_plane


def _nearest_to(center: Floats, others: Floats, near: NDArray[np.int64], vertices: Floats) -> NDArray[np.int64]:
    """Keep the vertices `near` (n,) that are no farther from a centre (3,) than from the other ones (m, 3)."""
    away = np.linalg.norm(vertices[near] - center, axis=1)
    for other in others:
        nearest = away <= np.linalg.norm(vertices[near] - other, axis=1)
        near, away = near[nearest], away[nearest]
    return near


def _long_axis(plane: Floats, scores: Floats, weights: Floats, least_elongation: float) -> Floats | None:
    """Return the direction (2,) in which squared scores (P,) at points of a plane (P, 2) curve least, None for none.

    A paraboloid is fitted by weighted least squares.
    """
    if len(plane) < _FEWEST:
        return None
    x, y = plane.T
    terms = np.stack([x * x, 2.0 * x * y, y * y, x, y, np.ones(len(x))], axis=1)
    root = np.sqrt(weights)
    fit, _, rank, _ = np.linalg.lstsq(terms * root[:, None], scores**2 * root, rcond=None)
    curvatures, axes = np.linalg.eigh(np.array([[fit[0], fit[1]], [fit[1], fit[2]]]))
    if rank < terms.shape[1] or curvatures[1] <= 0 or curvatures[1] < least_elongation**2 * curvatures[0]:
        return None
    axis: Floats = axes[:, 0]
    return axis
