"""Connectivity of triangle meshes: neighbours over edges, components, Euler characteristic.

Two faces are neighbours when they share an edge that runs in opposite directions in them; an edge of one face, of more
than two, or between faces wound against each other, is a boundary. Fans about vertices are in `geodesics.vertex_fans`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray


def twin_halfedges(faces: NDArray[np.int32], n_vertices: int) -> NDArray[np.int32]:
    """Return the opposite of each halfedge; number 3 * face + k runs from corner k to corner k + 1.

    Parameters
    ----------
    faces : (F, 3) int32
        Vertices of each face.
    n_vertices : int
        Number of vertices of the mesh.

    Returns
    -------
    (3F,) int32
        The opposite halfedge, -1 at a boundary.
    """
    key = _edge_keys(faces, n_vertices)
    # Faces that name a vertex twice have no sides: none of their edges has an opposite.
    single = np.repeat((faces == np.roll(faces, 1, axis=1)).any(axis=1), 3)
    key[single] = -1 - np.arange(np.count_nonzero(single))
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=np.int64(-1 - len(key))))
    pairs = first[np.diff(first, append=len(key)) == 2]
    one, other = order[pairs], order[pairs + 1]
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    opposed = start[one] == end[other]
    one, other = one[opposed], other[opposed]
    twins = np.full(len(key), -1, np.int32)
    twins[one], twins[other] = other, one
    return twins


def is_manifold(faces: NDArray[np.int32], twins: NDArray[np.int32], n_vertices: int) -> bool:
    """Return whether no edge has more than two faces, or two that are wound against each other.

    Parameters
    ----------
    faces : (F, 3) int32
        Vertices of each face.
    twins : (3F,) int32
        As `twin_halfedges` gives them, not cut at seams.
    n_vertices : int
        Number of vertices of the mesh.

    Returns
    -------
    bool
        Whether every edge without a twin has one face only.
    """
    _, counts = np.unique(_edge_keys(faces, n_vertices)[twins < 0], return_counts=True)
    return bool((counts == 1).all())


def components_of_faces(twins: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the connected component of each face.

    Faces that only share a vertex are not connected: no distance leads through a point.

    Parameters
    ----------
    twins : (3F,) int32
        Opposite of each halfedge, negative at a boundary.

    Returns
    -------
    (F,) int64
        Components, numbered from 0 by falling number of faces, then by first face.
    """
    count = len(twins) // 3
    inner = np.flatnonzero(twins >= 0)
    graph = coo_matrix((np.ones(len(inner), bool), (inner // 3, twins[inner] // 3)), shape=(count, count))
    _, raw = connected_components(graph, directed=False)
    _, first, label, sizes = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[label]


def euler_characteristic(faces: NDArray[np.int32], n_vertices: int) -> int:
    """Return the Euler characteristic: 2 for a sphere, 1 for a disc, 0 for a torus.

    Parameters
    ----------
    faces : (F, 3) int32
        Vertices of each face.
    n_vertices : int
        Number of vertices of the mesh.

    Returns
    -------
    int
        Vertices - edges + faces; vertices that no face uses do not count.
    """
    return len(np.unique(faces)) - len(np.unique(_edge_keys(faces, n_vertices))) + len(faces)


def _edge_keys(faces: NDArray[np.int32], n_vertices: int) -> NDArray[np.int64]:
    """Return one number (3F,) for each edge, the same in both directions."""
    start = faces.reshape(-1).astype(np.int64)
    end = np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    return np.minimum(start, end) * n_vertices + np.maximum(start, end)
