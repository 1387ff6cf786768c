"""Triangle meshes from membrane masks: one closed shell of even triangles, wound outwards, around each slab."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyacvd
import pyvista
from scipy import ndimage
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from membrain_cloud.geometry import Box, Grid, Mesh
from membrain_cloud.mesh.conversion.isosurface import Field, level_surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Smallest sigma in voxels: below it the mask's steps come back.
_LEAST_SIGMA = 0.85
# Largest share of a mask's voxels that smoothing may put outside the surface. Rims of slabs stay below 3 %.
_LARGEST_LOSS = 0.05
_MOST_THICKENING = 3
# Closed components of fewer vertices are holes inside the slab or specks, not leaflets.
_LEAST_VERTICES = 16
# Vertices to cluster into one: fewer make the triangles uneven, more only cost time.
_PER_CLUSTER = 8
_RELAXATIONS = 4


def mesh_membrane(
    mask: NDArray[np.generic], box: Box, grid: Grid, *, smoothing_angstrom: float, vertex_area_angstrom2: float
) -> Mesh | None:
    """Mesh one membrane: a closed shell around the slab, normals pointing out of it.

    The level surface of the smoothed mask gets evenly spread vertices by clustering (ACVD, with pyacvd), which are then
    relaxed along the surface and fitted to it. The same input gives the same bytes.

    Parameters
    ----------
    mask : (Z, Y, X) any type
        The membrane cut out with `box`, not 0 within it; beyond the box is background.
    box : Box
        Where the mask lies in the volume.
    grid : Grid
        The whole volume's grid.
    smoothing_angstrom : float
        Sigma of the smoothing of the mask, Å; at least 0.85 voxel is applied. Curvature and thickness survive it (see
        `isosurface`), steps of the mask do not. Sheets too thin to survive it (thinner than about 1.2 sigma, e.g. a
        skeleton) are thickened by a voxel on either side until they do.
    vertex_area_angstrom2 : float
        Area per vertex, Å².

    Returns
    -------
    Mesh or None
        Every edge has two faces, every vertex one fan of faces. A vesicle has two components, its outer and its inner
        surface. Components with room for fewer than 16 vertices are left out; None if none remains. Where the volume's
        border cuts the membrane, the shell is closed there: `border_vertices` finds these caps.

    Raises
    ------
    ValueError
        If the mask has another shape than the box.

    References
    ----------
    Valette and Chassery, Approximated centroidal Voronoi diagrams for uniform polygonal mesh coarsening, CGF 23(3),
    2004.
    """
    if mask.shape != box.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fill a box of shape {box.shape}")
    spacing = grid.voxel_spacing_angstrom
    vertex_area = vertex_area_angstrom2 / spacing**2
    field, grown = _field(np.asarray(mask) != 0, smoothing_angstrom / spacing)
    vertices, faces = _large_components(*level_surface(field), least_area=_LEAST_VERTICES * vertex_area)
    if not len(faces):
        return None
    vertices, faces = _even(vertices, faces, vertex_area)
    vertices = _fit(vertices, faces, field)
    points = grid.to_angstrom(vertices + np.array(box.start) - grown)
    return Mesh(np.ascontiguousarray(points), faces.astype(np.int32))


def border_vertices(mesh: Mesh, grid: Grid, *, margin_angstrom: float) -> NDArray[np.bool_]:
    """Find the vertices that close a shell at the volume's border: there the area is a cut, not membrane.

    Parameters
    ----------
    mesh : Mesh
        The shell, vertices in Å, normals outward.
    grid : Grid
        The volume's grid.
    margin_angstrom : float
        Largest distance from a face of the volume, Å. A voxel and a half is a good margin: the caps lie half a voxel
        beyond the last voxel's centre, with rounded edges.

    Returns
    -------
    (V,) bool
        Vertices within the margin whose normals point out through that face (cosine above 0.6, with which errors at
        rounded edges cancel in the area).
    """
    normals = mesh.vertex_normals()
    spacing = grid.voxel_spacing_angstrom
    caps = np.zeros(len(mesh.vertices), bool)
    for axis, size in enumerate(grid.size_angstrom):
        position = mesh.vertices[:, axis]
        # the volume reaches half a voxel beyond the centres of its outer voxels
        caps |= (position < -spacing / 2 + margin_angstrom) & (normals[:, axis] < -0.6)
        caps |= (position > size - spacing / 2 - margin_angstrom) & (normals[:, axis] > 0.6)
    return caps


def _field(mask: NDArray[np.bool_], sigma: float) -> tuple[Field, int]:
    """Smooth a mask; return the field and by how many voxels its array was grown, one for each thickening."""
    sigma, grown = max(sigma, _LEAST_SIGMA), 0
    # a sheet of one voxel has holes between its voxels' corners however little it is smoothed: judged at sigma 1
    field = Field(mask, max(sigma, 1.0))
    while grown < _MOST_THICKENING and field.lost() > _LARGEST_LOSS:
        field = Field(ndimage.binary_dilation(np.pad(field.mask, 1)), field.sigma)
        grown += 1
    return field if field.sigma == sigma else Field(field.mask, sigma), grown


def _areas(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the areas (F,) of the faces."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    areas: NDArray[np.float64] = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return areas


def _adjacency(count: int, faces: NDArray[np.int64]) -> csr_array:
    """Return a sparse matrix (V, V) of ones where two vertices share an edge."""
    rows, columns = np.concatenate([faces[:, [i, j]] for i, j in ((0, 1), (1, 2), (2, 0))]).T
    ones = np.ones(2 * len(rows), np.float64)
    graph = coo_array((ones, (np.r_[rows, columns], np.r_[columns, rows])), shape=(count, count)).tocsr()
    graph.data[:] = 1.0
    return graph


def _used(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Remove the vertices without faces."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def _large_components(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], *, least_area: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the connected components of at least that area."""
    if not len(faces):
        return vertices, faces
    component = connected_components(_adjacency(len(vertices), faces), directed=False)[1][faces[:, 0]]
    return _used(vertices, faces[np.bincount(component, weights=_areas(vertices, faces))[component] >= least_area])


def _even(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], vertex_area: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Replace a surface's vertices by evenly spread ones, about one per `vertex_area`; every component stays closed.

    The vertices are clustered; each cluster becomes a vertex at its centre of area, and each face that touches three
    clusters a face, wound as it was.
    """
    wanted = max(_LEAST_VERTICES, round(_areas(vertices, faces).sum() / vertex_area))
    while len(vertices) < _PER_CLUSTER * wanted:
        vertices, faces = _subdivide(vertices, faces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyacvd uses what pyvista has deprecated
        clustering = pyacvd.Clustering(pyvista.PolyData.from_regular_faces(vertices, faces))
        labels = np.asarray(clustering.cluster(wanted), np.int64)
        weights = np.asarray(clustering.area, np.float64)
    coarse = _cluster_faces(labels, faces)
    while len(bad := _tangled(coarse)):
        labels = _split(labels, bad, vertices)
        coarse = _cluster_faces(labels, faces)
    sums = np.stack([np.bincount(labels, weights=weights * vertices[:, k]) for k in range(3)], axis=1)
    return _used(sums / np.maximum(np.bincount(labels, weights=weights), 1e-30)[:, None], coarse)


def _subdivide(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Divide each face in four, through the middles of its edges."""
    pairs = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2), axis=2)
    keys, inverse = np.unique(pairs[..., 0] * len(vertices) + pairs[..., 1], return_inverse=True)
    first, second = np.divmod(keys, len(vertices))
    middles = (inverse + len(vertices)).reshape(-1, 3)
    corners = [np.stack([faces[:, k], middles[:, k], middles[:, k - 1]], axis=1) for k in range(3)]
    return np.concatenate([vertices, (vertices[first] + vertices[second]) / 2.0]), np.concatenate([*corners, middles])


def _cluster_faces(labels: NDArray[np.int64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the faces (K, 3) between clusters, each once for each winding, the lowest vertex first."""
    touching = labels[faces]
    a, b, c = touching.T
    touching = touching[(a != b) & (b != c) & (c != a)]
    lowest = touching.argmin(axis=1)[:, None]
    rotated = np.take_along_axis(touching, (lowest + np.arange(3)) % 3, axis=1)
    rotated = rotated[np.lexsort(rotated.T[::-1])]
    fresh = np.ones(len(rotated), bool)
    fresh[1:] = (rotated[1:] != rotated[:-1]).any(axis=1)
    return rotated[fresh]


def _tangled(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertices at which faces form no closed surface: edges without two opposite faces, or several fans."""
    count = int(faces.max()) + 1 if len(faces) else 0
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    edges = start * count + end
    order = np.argsort(edges, kind="stable")
    # the place in `edges` of each edge's opposite: edge k belongs to face k // 3
    opposite = order[np.minimum(np.searchsorted(edges[order], end * count + start), max(len(edges) - 1, 0))]
    wrong = (start[opposite] != end) | (end[opposite] != start)
    wrong[order[1:]] |= edges[order[1:]] == edges[order[:-1]]
    wrong[order[:-1]] |= edges[order[1:]] == edges[order[:-1]]
    # two faces back to back: they share an edge and have the same third vertex
    third = np.roll(faces, -2, axis=1).ravel()
    wrong |= third[opposite] == third
    if wrong.any():
        return np.unique(np.concatenate([start[wrong], end[wrong], third[wrong]]))
    # the corners of one vertex that are connected through its edges are one fan
    next_corner = opposite // 3 * 3 + (opposite % 3 + 1) % 3
    graph = coo_array((np.ones(len(edges), bool), (np.arange(len(edges)), next_corner)), shape=(len(edges),) * 2)
    fans, fan = connected_components(graph, directed=False)
    owner = np.zeros(fans, np.int64)
    owner[fan] = start
    return np.flatnonzero(np.bincount(owner, minlength=count) > 1)


def _split(labels: NDArray[np.int64], bad: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Halve the clusters `bad` along their longest axis; in the end each is a vertex of the closed fine mesh."""
    labels, fresh = labels.copy(), int(labels.max()) + 1
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.stack([bad, bad + 1]))
    for low, high in bounds.T:
        members = order[low:high]
        if len(members) < 2:
            continue
        centred = points[members] - points[members].mean(axis=0)
        along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
        labels[members[np.argsort(along, kind="stable")[len(members) // 2 :]]] = fresh
        fresh += 1
    return labels


def _fit(vertices: NDArray[np.float64], faces: NDArray[np.int64], field: Field) -> NDArray[np.float64]:
    """Relax the vertices along the surface and fit the faces to it.

    The vertices go beyond the level surface so far that it cuts the edges: with all vertices on it, the flat faces
    would have too little area where the surface bends. Half of the offset is a vertex's own, half that of the middles
    of its edges: on spheres this makes the area right to second order.
    """
    adjacency = _adjacency(len(vertices), faces)
    degree = adjacency.sum(axis=1)[:, None]
    rows, columns = adjacency.nonzero()
    upper = rows < columns
    rows, columns = rows[upper], columns[upper]
    incidence = csr_array((np.ones(2 * len(rows)), (np.r_[rows, columns], np.tile(np.arange(len(rows)), 2))))
    for _ in range(_RELAXATIONS):
        normals = Mesh(vertices, faces.astype(np.int32)).vertex_normals()
        pull = adjacency @ vertices / degree - vertices
        vertices = vertices + 0.5 * (pull - (pull * normals).sum(axis=1, keepdims=True) * normals)
        offsets = field.offsets(np.concatenate([vertices, (vertices[rows] + vertices[columns]) / 2.0]))
        own, middles = offsets[: len(vertices)], offsets[len(vertices) :]
        vertices = vertices + 0.5 * (own + incidence @ middles / degree)
    return vertices
