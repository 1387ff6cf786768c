"""Mean and Gaussian curvature at vertices, from quadrics fitted to their neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface

# Vertices fitted at once: bounds the memory.
VERTICES_AT_ONCE = 20_000


def curvature(surface: Surface, *, rings: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the curvatures at each vertex.

    A quadric is fitted, by least squares in the frame of a vertex's normal, to the vertices within `rings` edges. More
    rings are steadier on rough meshes and blunter at tight bends; none suffices for unsmoothed marching cubes.

    Parameters
    ----------
    surface : Surface
        Vertices in Å, normals outward.
    rings : int
        Edges from the vertex to the farthest neighbours, at least 1.

    Returns
    -------
    mean : (V,) float64
        Mean curvature, 1/Å; positive where the surface bends away from its outward normal (1/R on a sphere).
    gauss : (V,) float64
        Gaussian curvature, 1/Å². Both are NaN at vertices that have too few neighbours.
    """
    near = _within_edges(surface, rings)
    count = len(surface.vertices)
    mean, gauss = np.full(count, np.nan), np.full(count, np.nan)
    for start in range(0, count, VERTICES_AT_ONCE):
        rows = np.arange(start, min(start + VERTICES_AT_ONCE, count))
        mean[rows], gauss[rows] = _fit_quadrics(surface.vertices, surface.normals[rows], near[rows])
    return mean, gauss


def _within_edges(surface: Surface, rings: int) -> csr_matrix:
    """Return a sparse matrix (V, V) of the vertices within so many edges, the vertex itself included."""
    count = len(surface.vertices)
    own = np.arange(count)
    start, end = surface.faces.reshape(-1), np.roll(surface.faces, -1, axis=1).reshape(-1)
    ends = (np.concatenate([start, end, own]), np.concatenate([end, start, own]))
    step = csr_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(count, count))
    near = step
    for _ in range(rings - 1):
        near = near @ step
        near.data[:] = 1.0
    near.sort_indices()
    return near


def _fit_quadrics(
    vertices: NDArray[np.float64], normals: NDArray[np.float64], near: csr_matrix
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and Gaussian curvatures (n,), in frames whose z axes are `normals` (n, 3).

    A row of `near` (n, V) names the vertices that a quadric is fitted to.
    """
    counts = np.diff(near.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    reference = np.eye(3)[np.argmin(np.abs(normals), axis=1)]
    first = np.cross(normals, reference)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    frame = np.stack([first, np.cross(normals, first), normals], axis=1)
    points = vertices[near.indices]
    total = np.maximum(counts, 1)[:, None]
    centre = np.stack([np.bincount(row, points[:, d], minlength=len(counts)) for d in range(3)], axis=1) / total
    x, y, z = np.einsum("nij,nj->in", frame[row], points - centre[row])
    # In units of the patch's own size the normal equations are well conditioned.
    size = np.sqrt(np.bincount(row, x * x + y * y, minlength=len(counts)) / total[:, 0])
    size[size == 0.0] = 1.0
    x, y, z = x / size[row], y / size[row], z / size[row]
    terms = np.stack([np.ones_like(x), x, y, 0.5 * x * x, x * y, 0.5 * y * y])
    matrix = np.empty((len(counts), 6, 6))
    right = np.empty((len(counts), 6))
    for i in range(6):
        right[:, i] = np.bincount(row, terms[i] * z, minlength=len(counts))
        for j in range(i, 6):
            matrix[:, i, j] = matrix[:, j, i] = np.bincount(row, terms[i] * terms[j], minlength=len(counts))
    good = counts >= 6
    good[good] = np.linalg.cond(matrix[good]) < 1e10
    mean, gauss = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    _, d, e, a, b, c = np.linalg.solve(matrix[good], right[good][..., None])[..., 0].T
    slope = 1.0 + d * d + e * e
    gauss[good] = (a * c - b * b) / slope**2 / size[good] ** 2
    mean[good] = -((1.0 + e * e) * a - 2.0 * d * e * b + (1.0 + d * d) * c) / (2.0 * slope**1.5) / size[good]
    return mean, gauss
