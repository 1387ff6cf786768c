"""The nearest points of a triangle mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Point-triangle pairs projected at once: bounds the memory.
PAIRS_AT_ONCE = 500_000


class ClosestFaces:
    """Finds the nearest face, and where on it, for points in Å; its search tree is made once.

    vertices : (V, 3).  faces : (F, 3), at least one.
    """

    def __init__(self, vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> None:
        self._corners = vertices[faces]
        a, b, c = (self._corners[:, k] for k in range(3))
        self._centroids = (a + b + c) / 3.0
        offsets = (corner - self._centroids for corner in (a, b, c))
        self._radii = np.sqrt(np.max([np.einsum("ij,ij->i", offset, offset) for offset in offsets], axis=0))
        # Quick to make, and no slower to ask of centroids, which lie evenly.
        self._by_centroid = cKDTree(self._centroids, balanced_tree=False, compact_nodes=False)

    def find(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(N,) faces and (N, 3) barycentric weights; of several equally near, the lowest face."""
        # No face whose centroid is farther than the nearest centroid plus the face's own radius can be nearer.
        bound = self._by_centroid.query(points)[0] * (1.0 + 1e-9)
        reach = bound + self._radii.max()
        counts = np.asarray(self._by_centroid.query_ball_point(points, reach, return_length=True), np.int64)
        faces = np.empty(len(points), np.int64)
        weights = np.empty((len(points), 3))
        for part in _parts(counts, PAIRS_AT_ONCE):
            lists = self._by_centroid.query_ball_point(points[part], reach[part])
            owner = np.repeat(part, [len(found) for found in lists])
            face = np.concatenate([np.asarray(found, np.int64) for found in lists])
            away = np.linalg.norm(points[owner] - self._centroids[face], axis=1)
            near = away <= bound[owner] + self._radii[face]
            owner, face = owner[near], face[near]
            found_weights = _project_to_triangles(points[owner], self._corners[face])
            offset = np.einsum("nk,nkd->nd", found_weights, self._corners[face]) - points[owner]
            order = np.lexsort((face, (offset * offset).sum(axis=1), owner))
            best = order[np.unique(owner[order], return_index=True)[1]]
            faces[part], weights[part] = face[best], found_weights[best]
        return faces, weights


def _parts(counts: NDArray[np.int64], limit: int) -> list[NDArray[np.int64]]:
    """Cut 0..N-1 into runs whose counts sum to about `limit` at most."""
    if not len(counts):
        return []
    run = np.cumsum(counts) // limit
    return [np.asarray(part) for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(run)) + 1)]


def _project_to_triangles(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) barycentric weights of the point of triangle (N, 3, 3) nearest to each of (N, 3) points."""
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
    """The same for points whose nearest one lies on the triangle's rim."""
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
