"""Overlapping patches of a mesh that a network can take one by one, cut in one of two ways.

`cut_into_patches` is ours. Each connected component is divided into cells (Voronoi cells of evenly spread seeds, by
distance along edges). A patch is a cell with the vertices nearest to it, about as many again, so that every vertex is
scored at least once at a distance from the patch's rim:

        +---------------------+
        |  halo: weight 1..0  |     the weight falls linearly from the cell to the patch's rim
        |    +-----------+    |
        |    | cell: 1   |    |
        |    +-----------+    |
        +---------------------+

`released_patches` is MemBrain-pick's, for its checkpoints: the vertices nearest to a first one, then to one that no
patch gave much weight to yet, and so on. It scores a vertex four to six times where ours does twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components, dijkstra

from membrain_cloud.mesh.spectral.heat_method import HeatDistances
from membrain_cloud.mesh.spectral.operators import directed_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

# MemBrain-pick's: sigma of the weights over the patch's radius, mean weight of a face that is done, and most patches in
# a row that do no face.
_RELEASED_SIGMA, _RELEASED_DONE, _RELEASED_PATIENCE = 0.5, 0.35, 10
_SMALLEST_PATCH = 4  # vertices; a surface of fewer has no neighbourhood to see
_ONE_PATCH = 1.3  # of the wanted vertices: larger components are cut


@dataclass(frozen=True, eq=False)
class Patch:
    """A patch of a mesh.

    Attributes
    ----------
    vertices : (n,) int64
        Rising indices into the mesh's vertices.
    faces : (f, 3) int64
        Faces, as indices into `vertices`.
    weights : (n,) float64
        Weight of the patch's scores at each vertex, 0..1.
    """

    vertices: NDArray[np.int64]
    faces: NDArray[np.int64]
    weights: NDArray[np.float64]


def cut_into_patches(mesh: Mesh, *, partition_vertices: int) -> list[Patch]:
    """Cut a mesh into patches of about equal size that cover every component.

    Components never share a patch; one of up to 1.3 times the wanted size is one patch. The same mesh always gives the
    same patches.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.
    partition_vertices : int
        Vertices of a patch, about.

    Returns
    -------
    list of Patch
        Vertices without a face and components of fewer than 4 vertices are in none.
    """
    graph = edge_graph(mesh)
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
    face_component = component[mesh.faces[:, 0]] if len(mesh.faces) else np.zeros(0, int)
    face_order = np.argsort(face_component, kind="stable")
    bounds = np.searchsorted(face_component[face_order], np.arange(len(groups) + 1))

    patches: list[Patch] = []
    for index, vertices in enumerate(groups):
        if len(vertices) < _SMALLEST_PATCH:
            continue
        faces = mesh.faces[face_order[bounds[index] : bounds[index + 1]]]
        local_faces = np.searchsorted(vertices, faces).astype(np.int64)
        if len(vertices) <= _ONE_PATCH * partition_vertices:
            patches.append(Patch(vertices, local_faces, np.ones(len(vertices))))
            continue
        for patch in _cut_component(graph[vertices][:, vertices], local_faces, partition_vertices):
            patches.append(Patch(vertices[patch.vertices], patch.faces, patch.weights))
    return patches


def released_patches(mesh: Mesh, *, partition_vertices: int) -> list[Patch]:
    """Cut a mesh into the patches that MemBrain-pick cuts, in its order.

    A patch is the vertices nearest (heat method) to the first vertex of the first face left, with Gaussian weights of
    half its radius; faces of mean weight above 0.35 are done. After more than ten patches in a row that do no new face,
    or one for each face left, the rest is left out, as in the release.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.
    partition_vertices : int
        Vertices of a patch.

    Returns
    -------
    list of Patch
        Empty for a mesh without faces.
    """
    faces = np.asarray(mesh.faces, np.int64)
    if not len(faces):
        return []
    distances = HeatDistances(mesh)
    left = np.arange(len(faces))
    patches: list[Patch] = []
    idle = 0
    while len(left):
        distance = distances.from_vertex(int(faces[left[idle], 0]))
        near = np.zeros(len(distance), bool)
        near[np.argsort(distance, kind="stable")[:partition_vertices]] = True
        inside = np.flatnonzero(near[faces].all(axis=1))
        if len(inside):
            sigma = _RELEASED_SIGMA * distance[faces[inside]].max()
            weights = np.exp(-(distance**2) / (2.0 * sigma**2)) if sigma > 0 else np.ones(len(distance))
            vertices, local = np.unique(faces[inside], return_inverse=True)
            patches.append(Patch(vertices, local.reshape(-1, 3), weights[vertices]))
            done = inside[weights[faces[inside]].mean(axis=1) > _RELEASED_DONE]
            remaining = np.setdiff1d(left, done, assume_unique=True)
        else:
            remaining = left
        idle = idle + 1 if len(remaining) == len(left) else 0
        left = remaining
        if idle > _RELEASED_PATIENCE or (idle and idle >= len(left)):
            break
    return patches


def edge_graph(mesh: Mesh) -> scipy.sparse.csr_matrix:
    """Return the graph of a mesh's edges.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.

    Returns
    -------
    (V, V) csr_matrix of float64
        Symmetric; lengths of the edges in Å, never 0, which a graph would take for no edge.
    """
    count = len(mesh.vertices)
    if not len(mesh.faces):
        return scipy.sparse.csr_matrix((count, count))
    i, j = directed_edges(mesh.faces).T
    lengths = np.maximum(np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1), 1e-6)
    proper = i != j
    return scipy.sparse.csr_matrix((lengths[proper], (i[proper], j[proper])), shape=(count, count))


def _cut_component(graph: scipy.sparse.csr_matrix, faces: NDArray[np.int64], size: int) -> list[Patch]:
    """Cut a connected component, of this graph and faces (F, 3), into patches of about `size` vertices."""
    cells = math.ceil(graph.shape[0] / (0.5 * size))
    owner = _even_cells(graph, cells)
    patches = []
    for cell in range(cells):
        members = np.flatnonzero(owner == cell)
        if len(members):
            patches.append(_grow(graph, faces, members, max(size, math.ceil(1.5 * len(members)))))
    return patches


def _even_cells(graph: scipy.sparse.csr_matrix, cells: int) -> NDArray[np.int64]:
    """Return the cell (V,) of each vertex of a connected graph: farthest-point seeds, moved twice to their middles."""
    distance = dijkstra(graph, indices=0)
    seeds = [int(distance.argmax())]
    distance = dijkstra(graph, indices=seeds[0])
    while len(seeds) < cells:
        seeds.append(int(distance.argmax()))
        distance = np.minimum(distance, dijkstra(graph, indices=seeds[-1], limit=float(distance.max())))
    owner = _nearest_seed(graph, np.array(seeds))
    for _ in range(2):
        owner = _nearest_seed(graph, _cell_middles(graph, owner))
    return owner


def _nearest_seed(graph: scipy.sparse.csr_matrix, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of the sorted seeds is nearest to each vertex (V,)."""
    seeds = np.unique(seeds)
    _, _, source = dijkstra(graph, indices=seeds, min_only=True, return_predecessors=True)
    return np.asarray(np.searchsorted(seeds, source), np.int64)


def _cell_middles(graph: scipy.sparse.csr_matrix, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertex of each cell that is farthest from the other cells."""
    edges = graph.tocoo()
    border = np.unique(edges.row[owner[edges.row] != owner[edges.col]])
    depth = dijkstra(graph, indices=border, min_only=True) if len(border) else np.zeros(len(owner))
    order = np.lexsort((np.arange(len(owner)), -depth, owner))
    middles: NDArray[np.int64] = order[np.unique(owner[order], return_index=True)[1]]
    return middles


def _grow(graph: scipy.sparse.csr_matrix, faces: NDArray[np.int64], members: NDArray[np.int64], size: int) -> Patch:
    """Return the cell `members` with its nearest vertices, `size` in all, as a patch."""
    # Four times the radius of a disc of this many vertices bounds the halo, so the search need not see the whole mesh.
    mean_edge = float(graph.data.mean())
    limit = 4.0 * mean_edge * math.sqrt(size / math.pi)
    distance = dijkstra(graph, indices=members, min_only=True, limit=limit)
    reached = np.flatnonzero(np.isfinite(distance))
    nearest = reached[np.lexsort((reached, distance[reached]))[:size]]
    inside = np.zeros(graph.shape[0], bool)
    inside[nearest] = True
    inside_faces = faces[inside[faces].all(axis=1)]
    vertices = np.unique(inside_faces)
    halo = float(distance[vertices].max())
    weights = 1.0 - 0.99 * distance[vertices] / halo if halo > 0 else np.ones(len(vertices))
    return Patch(vertices, np.searchsorted(vertices, inside_faces), weights)
