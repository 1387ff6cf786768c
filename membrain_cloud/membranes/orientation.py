"""How a particle is turned: z is the membrane's normal, x the long axis of its footprint, where it has one.

As in MemBrain v1 (Lamm et al. 2022): the principal components of the vertices that were gathered into a particle, seen
along the normal. A footprint's axis has no sign, so x is known up to half a turn; a round footprint has no axis, and
the angle is left open.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.geometry import orientations_from_normals


def orient(
    normals: NDArray[np.float64],
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    owners: NDArray[np.integer],
    *,
    least_elongation: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Orientations of N particles from their normals (N, 3) and footprints.

    points : (P, 3) vertices, xyz.  weights : (P,), not negative.  owners : (P,) the particle each belongs to.
    least_elongation : of a footprint's standard deviations, the larger over the smaller; rounder ones have no axis.

    Returns (N, 3, 3) rotations, x along the footprint where it has an axis (its largest component positive) and
    otherwise any defined direction in the membrane; and (N,) whether x means something.
    """
    frames = orientations_from_normals(normals)
    known = np.zeros(len(normals), bool)
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(len(normals) + 1))
    for k in range(len(normals)):
        members = order[bounds[k] : bounds[k + 1]]
        weight = weights[members]
        if np.count_nonzero(weight > 0) < 3:
            continue
        plane = points[members] @ frames[k, :, :2]
        plane = plane - np.average(plane, axis=0, weights=weight)
        variances, axes = np.linalg.eigh((plane * weight[:, None]).T @ plane / weight.sum())
        if variances[1] <= 0 or variances[1] < least_elongation**2 * max(variances[0], 0.0):
            continue
        x = frames[k, :, :2] @ axes[:, 1]
        x = x if x[np.abs(x).argmax()] > 0 else -x
        frames[k] = np.stack([x, np.cross(frames[k, :, 2], x), frames[k, :, 2]], axis=1)
        known[k] = True
    return frames, known
