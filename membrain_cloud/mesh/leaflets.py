"""The two leaflets of a membrane: the side of the closed shell around its slab that each face lies on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface

# Two vertices are opposite when the second lies where the first one's inward normal comes out, within this share of the
# thickness, and their normals' cosine is below this.
REACH, OPPOSED = 0.75, -0.5
# A leaflet has at least this share of the area.
LEAST_SHARE = 0.1
# Weight of an opposite pair against an edge of the mesh.
OPPOSITE_WEIGHT = 1.0


def split_leaflets(shell: Surface) -> NDArray[np.int64] | None:
    """Split a shell into its two leaflets.

    Neighbouring vertices belong to one leaflet, vertices across the slab to two: the split is the sign of the vector f
    of unit length that minimises Σ (f_i - f_j)² over edges plus Σ (f_i + f_j)² over opposite pairs, the lowest
    eigenvector of a signed graph Laplacian. It changes sign along the rim. The slab's thickness is taken as twice the
    shell's volume over its area.

    Parameters
    ----------
    shell : Surface
        A closed shell around the slab, vertices in Å, normals outward.

    Returns
    -------
    (F,) int64 or None
        0 for faces of the larger leaflet (the outer one of a vesicle), 1 for the other. None for a shell that is not
        closed or has no two sides.

    References
    ----------
    Kunegis et al., Spectral analysis of signed graphs, SDM 2010.
    """
    sides = leaflet_sides(shell)
    return None if sides is None else sides[0]


def leaflet_sides(shell: Surface) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Split a shell into its two leaflets, and tell how far each vertex lies from the rim between them.

    Parameters
    ----------
    shell : Surface
        A closed shell of V vertices and F faces, as for `split_leaflets`.

    Returns
    -------
    tuple of (F,) int64 array and (V,) float64 array, or None
        The leaflets as `split_leaflets` returns them, and a value of the vertices that is 0 in the middle of the rim
        and has another sign on either leaflet; 0 for vertices that no face uses. None as in `split_leaflets`.
    """
    if not shell.is_closed or shell.volume <= 0.0:
        return None
    used, number = np.unique(shell.faces, return_inverse=True)
    faces = number.reshape(-1, 3)
    opposite = _opposite(shell.vertices[used], shell.normals[used], 2.0 * shell.volume / shell.face_areas.sum())
    pairs = np.flatnonzero(opposite >= 0)
    if len(pairs) < 0.2 * len(used):
        return None
    vector = _lowest(_signed_laplacian(faces, pairs, opposite[pairs], len(used)), shell.normals[used])
    values = vector[faces].sum(axis=1)
    groups = (values < 0.0).astype(np.int64)
    areas = np.bincount(groups, shell.face_areas, minlength=2)
    if areas.min() < LEAST_SHARE * areas.sum():
        return None
    leaflets: NDArray[np.int64] = groups if areas[0] >= areas[1] else 1 - groups
    at_vertices = np.zeros(len(shell.vertices))
    at_vertices[used] = vector
    return leaflets, at_vertices


def _opposite(vertices: NDArray[np.float64], normals: NDArray[np.float64], thickness: float) -> NDArray[np.int64]:
    """Return the vertex across the slab of each vertex (V,), -1 for none."""
    across, nearest = cKDTree(vertices).query(vertices - thickness * normals, distance_upper_bound=REACH * thickness)
    near = np.isfinite(across)
    cosine = (normals[near] * normals[nearest[near]]).sum(axis=1)
    opposite = np.full(len(vertices), -1, np.int64)
    opposite[near] = np.where(cosine < OPPOSED, nearest[near], -1)
    return opposite


def _signed_laplacian(
    faces: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64], count: int
) -> csr_matrix:
    """Return the Laplacian (V, V) of edges with weight 1 and opposite pairs (one, other) with a negative weight."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    edges = coo_matrix((np.ones(len(start)), (start, end)), shape=(count, count))
    across = coo_matrix((np.full(len(one), OPPOSITE_WEIGHT), (one, other)), shape=(count, count))
    same, opposed = (edges + edges.T).tocsr(), (across + across.T).tocsr()
    degree = np.asarray(same.sum(axis=1) + opposed.sum(axis=1)).reshape(-1)
    return (diags(degree) - same + opposed).tocsc()


def _lowest(laplacian: csr_matrix, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvector (V,) of the lowest eigenvalue; the same for the same input."""
    if laplacian.shape[0] < 20:
        return np.asarray(np.linalg.eigh(laplacian.toarray())[1][:, 0])
    begin = 1.0 + normals @ np.array([0.3, 0.5, 0.8])  # symmetry must not make it orthogonal to the eigenvector
    _, vectors = eigsh(laplacian, k=1, sigma=-1e-3, which="LM", v0=begin, tol=1e-6)
    return np.asarray(vectors[:, 0])
