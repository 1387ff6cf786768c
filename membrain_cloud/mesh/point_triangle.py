"""Nearest points of triangles, as barycentric weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def project_to_triangles(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project each point onto a triangle of its own.

    Parameters
    ----------
    points : (N, 3) float64
        Any points.
    corners : (N, 3, 3) float64
        A triangle for each; the second axis is the corner. One without area is the longest of its sides.

    Returns
    -------
    (N, 3) float64
        Barycentric weights of the nearest point of the triangle, non-negative, sum 1.
    """
    a = corners[:, 0]
    ab, ac, ap = corners[:, 1] - a, corners[:, 2] - a, points - a
    d11, d12, d22 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    p1, p2 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = d11 * d22 - d12 * d12
    flat = determinant <= 1e-14 * d11 * d22
    safe = np.where(flat, 1.0, determinant)
    v, w = (d22 * p1 - d12 * p2) / safe, (d11 * p2 - d12 * p1) / safe
    inside = ~flat & (v >= 0.0) & (w >= 0.0) & (v + w <= 1.0)
    weights = np.stack([1.0 - v - w, v, w], axis=1)
    outside = np.flatnonzero(~inside)
    weights[outside] = _project_to_edges(points[outside], corners[outside])
    return weights


def _project_to_edges(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project points (N, 3) onto the nearest edges of triangles (N, 3, 3); return barycentric weights (N, 3)."""
    best = np.full(len(points), np.inf)
    weights = np.zeros((len(points), 3))
    for k in range(3):
        start, along = corners[:, k], corners[:, (k + 1) % 3] - corners[:, k]
        squared = (along * along).sum(axis=1)
        t = np.clip(((points - start) * along).sum(axis=1) / np.where(squared > 0.0, squared, 1.0), 0.0, 1.0)
        gap = ((start + t[:, None] * along - points) ** 2).sum(axis=1)
        nearer = gap < best
        best[nearer] = gap[nearer]
        weights[nearer] = 0.0
        weights[nearer, k], weights[nearer, (k + 1) % 3] = 1.0 - t[nearer], t[nearer]
    return weights
